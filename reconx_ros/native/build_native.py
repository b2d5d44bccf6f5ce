"""Compiles the kernels: plain C, no Python headers, no torch. Also runs alone: ``python build_native.py FOLDER``.

Imports nothing of the package, so that setup.py and CMake can use it before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parent
# No -ffast-math: it folds the rounding step of the exponential, and makes the whole process flush denormals.
FLAGS = (
    "-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp", "-fPIC",
    "-fvisibility=hidden", "-Wall", "-Wextra",
)  # fmt: skip
LINK_FLAGS = ("-shared", "-fopenmp")
LIBRARIES = ("-lm",)
BASELINE = "baseline"
# Instruction sets and their flags, best first. Other machines than x86 have the baseline only.
X86_ISAS: dict[str, tuple[str, ...]] = {
    "avx512": ("-march=x86-64-v4",),
    "avx2": ("-march=x86-64-v3",),
    BASELINE: ("-march=x86-64",),
}
OTHER_ISAS: dict[str, tuple[str, ...]] = {BASELINE: ()}
X86_MACHINES = frozenset({"x86_64", "amd64", "AMD64"})
COMPILERS = ("cc", "gcc", "clang")


def isa_flags(machine: str | None = None) -> dict[str, tuple[str, ...]]:
    """Compiler flags by instruction set, best first, for a machine as ``platform.machine()`` names it."""
    return X86_ISAS if (machine or platform.machine()) in X86_MACHINES else OTHER_ISAS


def source_hash() -> str:
    """Twelve hexadecimal digits that change with the C sources and the flags."""
    digest = hashlib.sha256(repr((FLAGS, LINK_FLAGS, X86_ISAS)).encode())
    for path in sorted([*SOURCE_DIR.glob("*.c"), *SOURCE_DIR.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def library_name(isa: str) -> str:
    """File name of one library; a library of other sources has another name, so a stale one is never loaded."""
    return f"libreconx_native-{isa}-{source_hash()}.so"


def find_compiler() -> str | None:
    """The C compiler: ``$CC``, else the first of cc, gcc and clang on the path."""
    chosen = os.environ.get("CC")
    if chosen:
        return shutil.which(chosen)
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def build(
    out_dir: Path,
    *,
    compiler: str | None = None,
    isas: Sequence[str] | None = None,
    machine: str | None = None,
) -> list[Path] | None:
    """Compile the libraries into a folder, at once on all cores.

    Args:
        out_dir: made if missing. Files appear complete (renamed into place), so several processes may build at once.
        compiler: name or path; None looks for one.
        isas: which instruction sets; None is all of the machine that the compiler has.
        machine: machine to build for, for cross compilers; None is this one.

    Returns:
        The libraries, best instruction set first, or None without a compiler.

    Raises:
        RuntimeError: when the compiler fails; the message holds its first lines.
        OSError: when the folder cannot be written.
    """
    compiler = compiler or find_compiler()
    if compiler is None:
        return None
    flags = {isa: f for isa, f in isa_flags(machine).items() if isas is None or isa in isas}
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".build-") as scratch:
        known = {isa: f if isa == BASELINE else _understood(compiler, f) for isa, f in flags.items()}
        made = _compile(compiler, {isa: f for isa, f in known.items() if f is not None}, Path(scratch))
        for path in made:
            path.replace(out_dir / path.name)
    return [out_dir / path.name for path in made]


def _understood(compiler: str, flags: tuple[str, ...]) -> tuple[str, ...] | None:
    """The flags of an instruction set that a compiler needs, or None where it is too old for that."""
    probe = ("-std=c11", "-I", str(SOURCE_DIR), "-include", "simd.h", "-x", "c", "-fsyntax-only", os.devnull)
    for chosen in (flags, (*flags, "-DRECONX_WHOLE_IMMINTRIN")):
        if subprocess.run([compiler, *chosen, *probe], capture_output=True, check=False).returncode == 0:
            return chosen
    return None


def _compile(compiler: str, isas: dict[str, tuple[str, ...]], scratch: Path) -> list[Path]:
    sources = sorted(SOURCE_DIR.glob("*.c"), key=lambda path: -path.stat().st_size)  # the longest first
    objects = {isa: [scratch / f"{source.stem}-{isa}.o" for source in sources] for isa in isas}
    jobs = [
        [compiler, *FLAGS, *isas[isa], "-c", str(source), "-o", str(target)]
        for index, source in enumerate(sources)
        for isa, targets in objects.items()
        for target in targets[index : index + 1]
    ]
    made = {isa: scratch / library_name(isa) for isa in isas}
    links = [
        [compiler, *LINK_FLAGS, *map(str, objects[isa]), "-o", str(path), *LIBRARIES] for isa, path in made.items()
    ]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(_run, jobs))
        list(pool.map(_run, links))
    return list(made.values())


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = " / ".join(done.stderr.strip().splitlines()[:3])
        raise RuntimeError(f"{command[0]} failed on {command[-3]}: {lines}")


def main() -> int:
    """Build from the command line; 0 built, 1 failed, 3 without a compiler."""
    parser = argparse.ArgumentParser(description="Compile the kernels of reconx_ros.")
    parser.add_argument("out_dir", type=Path, help="folder for the libraries")
    parser.add_argument("--compiler", help="C compiler (default: $CC, cc, gcc or clang)")
    parser.add_argument("--machine", help="machine to build for, as `uname -m` names it (default: this one)")
    arguments = parser.parse_args()
    for old in arguments.out_dir.glob("libreconx_native-*.so"):
        old.unlink()
    try:
        built = build(arguments.out_dir, compiler=arguments.compiler, machine=arguments.machine)
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"build_native: {error}\n")
        return 1
    return 3 if built is None else 0


if __name__ == "__main__":
    sys.exit(main())
