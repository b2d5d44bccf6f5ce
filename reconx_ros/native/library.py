"""Finds, builds where needed, and loads the compiled kernels with ctypes; calls release the interpreter's lock.

The library is looked for beside the installed package. A source checkout has none: it is then compiled once into
``$XDG_CACHE_HOME/reconx_ros/<version>-<hash of the sources>/``. The environment variable ``RECONX_NATIVE_ISA``
(avx512, avx2 or baseline) overrules the choice of the instruction set.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import time
from pathlib import Path

import torch  # first: the library then shares torch's OpenMP instead of loading a second one

import reconx_ros
from reconx_ros.core.errors import BackendUnavailableError, InvalidInputError
from reconx_ros.native import build_native

ISA_VARIABLE = "RECONX_NATIVE_ISA"
ABI_VERSION = 1
_CPU_FLAGS = {
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx2", "fma", "bmi2"}),
    "avx2": frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"}),
}
_CURE = "install one with `apt install gcc`"
_LOG = logging.getLogger(__name__)


class NativeScene(ctypes.Structure):
    """``reconx_scene`` of render.h."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("count", "bases", "cameras", "width", "height", "antialiased", "threads")
        ),
        ("near_plane", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("means", "quats", "scales", "opacities", "sh")),
        *((name, ctypes.c_void_p) for name in ("cam_from_world", "intrinsics", "background")),
    )


class Pictures(ctypes.Structure):
    """``reconx_pictures`` of render.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("rgb", "alpha", "depth"))


class Gradients(ctypes.Structure):
    """``reconx_gradients`` of render.h, in the order of the rasteriser's tensors."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("means", "quats", "scales", "opacities", "sh", "cam_from_world", "intrinsics", "background")
    )


class SsimCall(ctypes.Structure):
    """``reconx_ssim_call`` of ssim.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "height", "threads")),
        *((name, ctypes.c_void_p) for name in ("image", "target", "weight", "known", "normalizer")),
        *((name, ctypes.c_void_p) for name in ("weighted", "gradient", "sum")),
    )


class SweepSource(ctypes.Structure):
    """``reconx_sweep_source`` of sweep.c."""

    _fields_ = (
        ("at_infinity", ctypes.c_double * 9),
        ("per_inverse_depth", ctypes.c_double * 3),
        ("image", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("width", "height")),
    )


class SweepCall(ctypes.Structure):
    """``reconx_sweep_call`` of sweep.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "height", "stride", "planes", "padded_planes")),
        *((name, ctypes.c_int32) for name in ("first_plane", "last_plane")),
        *((name, ctypes.c_int32) for name in ("sources", "window", "keep", "per_pixel", "threads")),
        *((name, ctypes.c_float) for name in ("noise_variance", "unseen_cost")),
        *((name, ctypes.c_void_p) for name in ("reference", "inverse_depths", "source", "volume")),
    )


class SgmCall(ctypes.Structure):
    """``reconx_sgm_call`` of sgm.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "height", "planes", "padded_planes", "threads")),
        *((name, ctypes.c_float) for name in ("p1", "p2", "p2_min", "edge")),
        *((name, ctypes.c_void_p) for name in ("cost", "image", "total", "label", "chosen", "margin")),
    )


class Witness(ctypes.Structure):
    """``reconx_witness`` of agreement.c."""

    _fields_ = (
        ("other_from_view", ctypes.c_float * 12),
        ("view_from_other", ctypes.c_float * 12),
        *((name, ctypes.c_float) for name in ("fx", "fy", "cx", "cy")),
        ("depth", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("width", "height")),
    )


class AgreementCall(ctypes.Structure):
    """``reconx_agreement_call`` of agreement.c."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "height", "witnesses", "threads")),
        *((name, ctypes.c_float) for name in ("fx", "fy", "cx", "cy", "tolerance", "max_error_px")),
        *((name, ctypes.c_void_p) for name in ("depth", "usable", "witness")),
        *((name, ctypes.c_void_p) for name in ("sees", "agrees", "denies", "mean_depth", "half_tangent")),
    )


def supported_isas() -> tuple[str, ...]:
    """Instruction sets that this CPU has and the library knows, best first."""
    present = _cpu_flags()
    return tuple(isa for isa in build_native.isa_flags() if _CPU_FLAGS.get(isa, frozenset()) <= present)


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(found.partition(":")[2].split())


def load_library() -> ctypes.CDLL:
    """The library for the instruction set in use.

    Raises:
        BackendUnavailableError: when there is none and none can be compiled; the message says what would help.
    """
    return _load(os.environ.get(ISA_VARIABLE, ""))


def unavailable_reason() -> str | None:
    """Why the kernels cannot run here, in one sentence with the cure; None when they can."""
    try:
        load_library()
    except BackendUnavailableError as error:
        return str(error)
    return None


@functools.cache
def _load(wanted: str) -> ctypes.CDLL:
    isas = supported_isas()
    if wanted and wanted not in isas:
        present = ", ".join(isas)
        raise BackendUnavailableError(
            f"{ISA_VARIABLE} is '{wanted}', but this computer has {present}: choose one of these"
        )
    path = _find((wanted,) if wanted else isas)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendUnavailableError(f"the kernels {path} cannot be loaded ({error}): remove that file") from None
    return _declared(library, path)


def _find(isas: tuple[str, ...]) -> Path:
    """An installed library for the first of these that has one, else a compiled one for the first that compiles."""
    for look in (_installed, _cached):
        for isa in isas:
            path = look(isa)
            if path is not None:
                return path
    raise BackendUnavailableError(f"the C compiler does not know the instruction set {isas[0]}: unset {ISA_VARIABLE}")


def _installed(isa: str) -> Path | None:
    name = build_native.library_name(isa)
    return next((path for folder in reconx_ros.__path__ if (path := Path(folder) / "native" / name).is_file()), None)


def _cached(isa: str) -> Path | None:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reconx_ros"
    folder = root / f"{reconx_ros.__version__}-{build_native.source_hash()}"
    path = folder / build_native.library_name(isa)
    if path.is_file():
        return path
    start = time.perf_counter()
    try:
        built = build_native.build(folder, isas=[isa])
    except (OSError, RuntimeError) as error:
        raise BackendUnavailableError(f"the kernels cannot be compiled into {folder}: {error}") from None
    if built is None:
        raise BackendUnavailableError(f"the kernels are not compiled and there is no C compiler: {_CURE}")
    if not built:
        return None
    _LOG.info("compiled the %s kernels into %s in %.1f s", isa, folder, time.perf_counter() - start)
    return built[0]


def _declared(library: ctypes.CDLL, path: Path) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.reconx_context_new.restype = pointer
    library.reconx_context_free.argtypes = [pointer]
    library.reconx_context_free.restype = None
    scene, pictures, gradients = map(ctypes.POINTER, (NativeScene, Pictures, Gradients))
    library.reconx_forward.argtypes = [pointer, scene, pictures, integer]
    library.reconx_backward.argtypes = [pointer, scene, pictures, gradients]
    library.reconx_ssim.argtypes = [pointer, ctypes.POINTER(SsimCall)]
    declare_stereo(library)
    if library.reconx_abi_version() != ABI_VERSION:
        raise BackendUnavailableError(f"the compiled kernels {path} belong to another version: remove that file")
    return library


def declare_stereo(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the arguments of the stereo kernels."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.reconx_sweep.argtypes = [ctypes.POINTER(SweepCall)]
    library.reconx_sgm.argtypes = [ctypes.POINTER(SgmCall)]
    library.reconx_agreement.argtypes = [ctypes.POINTER(AgreementCall)]
    library.reconx_agreement.restype = None
    library.reconx_components.argtypes = [integer, integer, pointer, pointer, ctypes.c_float, pointer]
    library.reconx_components.restype = None
    library.reconx_median3.argtypes = [integer, integer, pointer, pointer, integer]
    library.reconx_median3.restype = None
    return library


def default_threads() -> int:
    """As many threads as torch uses."""
    return torch.get_num_threads()


def checked_threads(threads: int | None) -> int | None:
    """The number of threads as given; None stands for torch's. Raises InvalidInputError for less than 1."""
    if threads is not None and threads < 1:
        raise InvalidInputError(f"number of threads is {threads}, expected at least 1")
    return threads
