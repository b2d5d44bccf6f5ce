"""Building, finding and loading the compiled kernels, and how they share the process."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from native_oracle import GAUSSIAN_NAMES, ISAS, as_leaves, make_scene, rasterizer, relative_error

import reconx_ros
from reconx_ros.core import BackendUnavailableError
from reconx_ros.native import build_native, library, threads
from reconx_ros.splatting.backends.native import NativeRasterizer
from reconx_ros.splatting.registry import registry

ROOT = Path(reconx_ros.__file__).resolve().parent.parent
needs_compiler = pytest.mark.skipif(build_native.find_compiler() is None, reason="needs a C compiler")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder without libraries, and no installed ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "_installed", lambda isa: None)
    return tmp_path / "reconx_ros"


@needs_compiler
def test_build_makes_every_variant_without_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_native, "FLAGS", (*build_native.FLAGS, "-Werror", "-O1"))
    built = build_native.build(tmp_path / "new")
    assert built is not None
    assert [path.name.split("-")[1] for path in built] == list(build_native.isa_flags())
    assert sorted((tmp_path / "new").iterdir()) == sorted(built), "nothing else is left behind"


@needs_compiler
@pytest.mark.slow
def test_command_line_replaces_old_libraries(tmp_path: Path) -> None:
    stale = tmp_path / "libreconx_native-avx2-000000000000.so"
    stale.touch()
    script = Path(build_native.__file__)
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=120)
    assert not stale.exists()
    assert len(list(tmp_path.glob("*.so"))) == len(build_native.isa_flags())


def test_other_machines_have_the_baseline_only() -> None:
    assert list(build_native.isa_flags("aarch64")) == [build_native.BASELINE]
    assert next(iter(build_native.isa_flags("x86_64"))) == "avx512"


def test_build_says_what_the_compiler_says(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="false failed on"):
        build_native.build(tmp_path, compiler="false")


def test_no_compiler_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "no_such_compiler"))
    assert build_native.build(tmp_path) is None


@needs_compiler
def test_checkout_compiles_once_into_the_cache(empty_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=library.__name__):
        library._load.__wrapped__(build_native.BASELINE)
        library._load.__wrapped__(build_native.BASELINE)
    assert [record.message.split(" into ")[0] for record in caplog.records] == ["compiled the baseline kernels"]
    found = list(empty_cache.rglob("*.so"))
    assert [path.name for path in found] == [build_native.library_name(build_native.BASELINE)]
    assert found[0].parent.name == f"{reconx_ros.__version__}-{build_native.source_hash()}"


@needs_compiler
def test_old_compilers_get_what_they_know(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"avx512": ("-march=not-yet-invented",), build_native.BASELINE: ()}
    monkeypatch.setattr(build_native, "isa_flags", lambda machine=None: flags)
    monkeypatch.setitem(library._CPU_FLAGS, "avx512", frozenset())
    library._load.__wrapped__("")
    assert [path.name.split("-")[1] for path in empty_cache.rglob("*.so")] == [build_native.BASELINE]
    with pytest.raises(BackendUnavailableError, match="does not know the instruction set avx512"):
        library._load.__wrapped__("avx512")


@needs_compiler
def test_compilers_whose_intrinsics_are_cut_otherwise_read_all_of_them(tmp_path: Path) -> None:
    """A compiler that cannot read the parts of immintrin.h alone."""
    compiler = tmp_path / "cc"
    refusal = 'case "$*" in *RECONX_WHOLE_IMMINTRIN*) ;; *) exit 1 ;; esac'
    compiler.write_text(f'#!/bin/sh\n{refusal}\nexec {build_native.find_compiler()} "$@"\n')
    compiler.chmod(0o755)
    for isa, flags in build_native.isa_flags().items():
        expected = (*flags, "-DRECONX_WHOLE_IMMINTRIN")
        assert build_native._understood(str(compiler), flags) == expected, isa
    assert build_native._understood(str(build_native.find_compiler()), ("-march=not-yet-invented",)) is None


@needs_compiler
def test_branches_of_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What aarch64 compiles, without intrinsics, gives the same pictures and gradients here."""
    truth = rasterizer(monkeypatch, build_native.BASELINE)
    monkeypatch.setattr(build_native, "FLAGS", (*build_native.FLAGS, "-Werror", "-DRECONX_GENERIC"))
    built = build_native.build(tmp_path, isas=[build_native.BASELINE])
    assert built is not None
    generic = library._declared(ctypes.CDLL(str(built[0])), built[0])
    monkeypatch.setattr(library, "load_library", lambda: generic)
    results = []
    for native in (truth, NativeRasterizer()):
        leaves = as_leaves(make_scene(700, width=70, height=50, bases=16, cameras=2, seed=8))
        picture = native.render(**leaves, antialiased=True)
        (picture.rgb.sum() + picture.depth.sum()).backward()
        results.append([picture.rgb.detach(), *(leaves[name].grad for name in (*GAUSSIAN_NAMES, "cam_from_world"))])
    for ours, theirs in zip(*results, strict=True):
        assert relative_error(ours, theirs) < 1e-4


@needs_compiler
@pytest.mark.slow
def test_processes_may_compile_at_once(empty_cache: Path) -> None:
    del empty_cache
    command = [sys.executable, "-c", "from reconx_ros.native import library; library.load_library()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), library.ISA_VARIABLE: build_native.BASELINE}
    children = [subprocess.Popen(command, env=environment, cwd="/") for _ in range(3)]
    assert [child.wait(timeout=180) for child in children] == [0, 0, 0]


def test_without_compiler_the_reason_names_the_cure(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del empty_cache
    monkeypatch.setattr(build_native, "find_compiler", lambda: None)
    monkeypatch.setattr(library, "load_library", lambda: library._load.__wrapped__(""))
    reason = NativeRasterizer.unavailable_reason()
    assert reason is not None
    assert "apt install gcc" in reason
    assert registry()["native"].missing() == reason


def test_unwritable_cache_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(library, "_installed", lambda isa: None)
    with pytest.raises(BackendUnavailableError, match="cannot be compiled into"):
        library._load.__wrapped__("")


def test_damaged_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "libreconx_native.so"
    damaged.write_bytes(b"not a library")
    monkeypatch.setattr(library, "_installed", lambda isa: damaged)
    with pytest.raises(BackendUnavailableError, match="remove that file"):
        library._load.__wrapped__("")


def test_unknown_isa_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.ISA_VARIABLE, "mmx")
    with pytest.raises(BackendUnavailableError, match="'mmx', but this computer has"):
        NativeRasterizer()
    assert "mmx" in str(NativeRasterizer.unavailable_reason())


def test_baseline_is_always_supported() -> None:
    assert ISAS[-1] == build_native.BASELINE


def test_wait_policy_keeps_the_users_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    threads.set_wait_policy()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.set_wait_policy()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_wait_policy_needs_no_torch() -> None:
    code = "import sys; from reconx_ros.native.threads import set_wait_policy; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_kernels_share_the_openmp_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer(monkeypatch, ISAS[0])
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    assert len(loaded) == 1


def test_other_threads_run_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    native = rasterizer(monkeypatch, ISAS[0], threads=1)
    scene = make_scene(300_000, width=640, height=480)
    scene["means"].requires_grad_()
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        native.render(**scene).rgb.sum().backward()
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(timeout=60)
    beats = 0
    while not done.wait(timeout=0.001):
        beats += 1
    worker.join()
    assert beats >= 10, "the interpreter's lock was held during the call"


def test_calls_from_several_threads_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    native = rasterizer(monkeypatch, ISAS[0], threads=2)
    scenes = [make_scene(400, width=60, height=40, seed=seed) for seed in range(4)]
    truths = [native.render(**scene).rgb for scene in scenes]
    equal: list[bool] = []

    def work(index: int) -> None:
        equal.extend(torch.equal(native.render(**scenes[index]).rgb, truths[index]) for _ in range(20))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert len(equal) == 80 and all(equal)
