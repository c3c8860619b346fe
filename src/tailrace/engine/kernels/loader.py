"""Loads the kernels into this process before llama.cpp's libraries, so that llama.cpp calls them.

llama.cpp calls its own functions through the dynamic linker, which takes the first definition among the libraries that
are loaded globally. Where the kernels can't be loaded, llama.cpp keeps its own functions; ``status`` has the reason.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import sys
from collections.abc import Sequence
from importlib import util
from pathlib import Path

import structlog

from tailrace import bundle
from tailrace.engine.kernels.build import KERNEL_TIERS, TIERS_OF_CHOICE, build_kernels, cpu_tiers
from tailrace.engine.kernels.formats import WeightFormat, formats_of
from tailrace.engine.kernels.symbols import exported_symbols
from tailrace.engine.native_libs import NativeUnavailable, UnsupportedCpu
from tailrace.engine.native_libs.ggml_headers import KNOWN_VERSIONS, binding_version
from tailrace.engine.native_libs.tiers import TIERS, TierName
from tailrace.machine import openmp_spin

_VARIABLE = "TAILRACE_KERNELS"

#: The state of the kernels in this process; None before ``load``.
_status: str | None = None
_kernels: ctypes.CDLL | None = None
_tier: TierName | None = None


def choose(choice: str) -> None:
    """Set what ``load`` does, here and in child processes: ``on`` loads the fastest tier that the CPU has, ``avx512``
    the one without AMX, ``avx2`` the fastest without AVX-512, ``neon`` that for 64-bit ARM, ``off`` none.
    """
    os.environ[_VARIABLE] = choice


def load() -> None:
    """Load the kernels, unless this process has done so. It comes before llama.cpp is loaded."""
    if _status is None:
        _load_chosen(os.environ.get(_VARIABLE, "on"))
        if bundle.is_there():
            # Also without kernels of ours: llama.cpp takes the library of this CPU's tier where it is loaded already.
            ctypes.CDLL(str(ggml_library()))


def _load_chosen(choice: str) -> None:
    global _status
    if choice == "off":
        _status = "off"
        return
    log = structlog.get_logger()
    try:
        _load_fastest(tiers_of(choice))
        _status = "on"
    except UnsupportedCpu as error:
        _status = str(error)
        log.info("llama.cpp's own kernels are used", reason=_status)
    except NativeUnavailable as error:
        _status = str(error)
        log.warning("llama.cpp's own kernels are used: this can cost two thirds of the speed", reason=_status)


def tiers_of(choice: str) -> list[TierName]:
    """The tiers that this CPU has of those that the setting ``choice`` allows, the fastest first. Raises
    UnsupportedCpu where there is none.
    """
    allowed = TIERS_OF_CHOICE[choice]
    if not set(allowed) & set(KERNEL_TIERS):
        raise UnsupportedCpu(f"kernels is {choice}, which has no code for {platform.machine()}")
    TIERS[allowed[-1]].require()
    return [tier for tier in cpu_tiers() if tier in allowed]


def status() -> str:
    """``on``, ``off``, or why there are no kernels in this process."""
    return _status or "not loaded"


def tier() -> TierName | None:
    """The instruction tier of the loaded kernels; None where llama.cpp's own are used."""
    return _tier


def library() -> ctypes.CDLL | None:
    """The kernels that this process has loaded; None where llama.cpp's own are used."""
    return _kernels


def formats() -> list[WeightFormat]:
    """The weight formats that the loaded kernels compute; none where llama.cpp's own are used."""
    return formats_of(_kernels) if _kernels is not None else []


def take_row_maxima(columns: int, rows: int) -> int | None:
    """The address of the row maxima of the last logits, where these had so many columns and rows; None where there are
    none. Each is returned once. It is valid until the next logits are computed.
    """
    if _kernels is None:
        return None
    maxima: int | None = _kernels.tailrace_kernels_take_row_maxima(_columns_at, _rows_at)
    return maxima if (_columns.value, _rows.value) == (columns, rows) else None


_columns, _rows = ctypes.c_int64(), ctypes.c_int64()
_columns_at, _rows_at = ctypes.byref(_columns), ctypes.byref(_rows)


def attention_counts() -> tuple[int, int]:
    """How many attention operations this process has computed with the kernels, and how many the kernels have delegated
    to llama.cpp. A model has one for each layer and pass; those that a GPU computes are in neither number.
    """
    if _kernels is None:
        return 0, 0
    own, upstream = ctypes.c_long(), ctypes.c_long()
    _kernels.tailrace_kernels_attention_counts(ctypes.byref(own), ctypes.byref(upstream))
    return own.value, upstream.value


def recurrent_counts() -> dict[str, tuple[int, int]]:
    """By operation of recurrent layers: how many this process has computed with the kernels, and how many the kernels
    have delegated to llama.cpp. Empty where llama.cpp's own kernels are used.
    """
    found: dict[str, tuple[int, int]] = {}
    if _kernels is None:
        return found
    own, upstream = ctypes.c_long(), ctypes.c_long()
    for index in itertools.count():
        name = _kernels.tailrace_kernels_recurrent_counts(index, ctypes.byref(own), ctypes.byref(upstream))
        if name is None:
            return found
        found[name.decode()] = own.value, upstream.value
    raise AssertionError("count() doesn't end")


def states_in_place() -> int:
    """How many of the operations on recurrent states have read and written the cache, without copies of states."""
    return int(_kernels.tailrace_kernels_states_in_place()) if _kernels is not None else 0


def record_cells(owner: int, cells: int, partitions: int = 1) -> None:
    """Note the memory of KV cache ``owner``, of so many cells in each partition, when it is made before ``end_record``;
    0 cells: none.

    What was noted of this owner before is forgotten: its memory is freed.
    """
    if _kernels is not None:
        _kernels.tailrace_kernels_record_cells(owner, cells, partitions)


def end_record() -> None:
    """End what ``record_cells`` has begun; what was noted stays."""
    if _kernels is not None:
        _kernels.tailrace_kernels_end_record()


def populate_cells(owner: int, cells: int, max_bytes: int, *, begun: bool) -> int:
    """Touch memory of the first ``cells`` cells of KV cache ``owner`` before a step does, in huge pages, until that is
    ``max_bytes`` or more. ``begun``: also the page of each tensor in which these cells end. Returns the bytes; 0:
    nothing was left to touch.
    """
    return 0 if _kernels is None else int(_kernels.tailrace_kernels_populate_cells(owner, cells, max_bytes, begun))


def defer_copies(owner: int, kept: bytes | None) -> bool:
    """Until ``take_copies``, note copies between the recorded cells of KV cache ``owner`` and other memory, instead of
    making them. ``kept``: a byte for each row of the state that is read, 0 where it isn't wanted; None: all are. It
    must outlive that call. False where there is no memory for it.
    """
    assert _kernels is not None
    return bool(_kernels.tailrace_kernels_defer_copies(owner, kept, 0 if kept is None else len(kept)))


def take_copies() -> int:
    """End what ``defer_copies`` has begun. Returns the noted copies, for ``advance_copies`` and ``free_copies``."""
    assert _kernels is not None
    return int(_kernels.tailrace_kernels_take_copies())


def advance_copies(copies: int, max_bytes: int, max_seconds: float) -> bool:
    """Make the next copies, of ``max_bytes`` at most. Returns whether all are made.

    ``max_seconds``: no call to a device begins later, except the first.
    """
    assert _kernels is not None
    return bool(_kernels.tailrace_kernels_advance_copies(copies, max_bytes, int(1e9 * max_seconds)))


def device_bytes() -> tuple[int, int]:
    """Bytes of tensors that this thread has read from devices and written to them by single calls. Steps use others."""
    if _kernels is None:
        return 0, 0
    read, written = ctypes.c_int64(), ctypes.c_int64()
    _kernels.tailrace_kernels_device_bytes(ctypes.byref(read), ctypes.byref(written))
    return read.value, written.value


def free_copies(copies: int) -> None:
    """Forget the copies, made or not."""
    assert _kernels is not None
    _kernels.tailrace_kernels_free_copies(copies)


def free_snapshots() -> None:
    """Free memory of devices that no noted copy needs any more."""
    if _kernels is not None:
        _kernels.tailrace_kernels_free_snapshots()


def send_mask_runs(endpoint: str, *, on: bool) -> None:
    """Send the worker at ``endpoint`` attention masks as runs of cells from now on, or no longer. ``on``: it can read
    them.
    """
    if _kernels is not None:
        _kernels.tailrace_kernels_send_mask_runs(endpoint.encode(), on)


def mask_runs_sent() -> int:
    """How many masks went to workers as runs."""
    return int(_kernels.tailrace_kernels_mask_runs_sent()) if _kernels is not None else 0


def wait_for_inputs(*, waits: bool) -> None:
    """Wait until each input of a pass is sent to its worker, as llama.cpp does, or don't: for comparison."""
    if _kernels is not None:
        _kernels.tailrace_kernels_wait_for_inputs(waits)


def ahead_count() -> int:
    """How often a device has computed beside the CPU in this process, where llama.cpp would have computed in order."""
    return int(_kernels.tailrace_kernels_ahead_count()) if _kernels is not None else 0


def set_exact_tokens(count: int) -> None:
    """In the coming passes, the first ``count`` tokens have attention that is the same to the last bit as if each were
    computed alone. The other tokens' attention may be computed in tiles of bf16, which is faster and rounds.
    """
    if _kernels is not None:
        _kernels.tailrace_kernels_set_exact_tokens(count)


def _load_fastest(tiers: list[TierName]) -> None:
    """Load the first of ``tiers`` that can be built. Raises NativeUnavailable."""
    if sys.platform != "linux":
        raise UnsupportedCpu("the kernels are for Linux: on other systems the linker doesn't let them take precedence")
    if "llama_cpp" in sys.modules:
        raise NativeUnavailable("llama.cpp was loaded before the kernels")
    global _tier
    version, ggml = binding_version(), ggml_library()
    log = structlog.get_logger()
    if version not in KNOWN_VERSIONS:
        log.warning(
            "this version of llama-cpp-python hasn't been tested with tailrace",
            version=version,
            tested=", ".join(sorted(KNOWN_VERSIONS)),
        )
    for name in tiers[:-1]:
        try:
            path, chosen = build_kernels(name), name
            break
        except NativeUnavailable as error:
            log.warning("the kernels of this CPU's fastest tier can't be used", tier=name, reason=str(error))
    else:
        path, chosen = build_kernels(tiers[-1]), tiers[-1]
    _load(path, ggml)
    _tier = chosen


def _load(path: Path, ggml_path: Path) -> None:
    global _kernels
    functions = _upstream_functions(ctypes.CDLL(str(path)))
    _check_upstream(ggml_path, [name for name, required in functions.items() if required])
    # Global, and first: that is how the linker comes to prefer it.
    kernels = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    ggml = ctypes.CDLL(str(ggml_path))
    kernels.tailrace_kernels_set_upstream.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    for name in functions:
        # A library's own symbols come first where it is asked for them itself.
        function = getattr(ggml, name, None)
        address = None if function is None else ctypes.cast(function, ctypes.c_void_p)
        kernels.tailrace_kernels_set_upstream(name.encode(), address)
    kernels.tailrace_kernels_repacked_bytes.restype = ctypes.c_int64
    kernels.tailrace_kernels_take_row_maxima.restype = ctypes.c_void_p
    kernels.tailrace_kernels_set_exact_tokens.restype = None
    kernels.tailrace_kernels_set_exact_tokens.argtypes = [ctypes.c_int64]
    kernels.tailrace_kernels_recurrent_counts.restype = ctypes.c_char_p
    kernels.tailrace_kernels_fused_count.restype = ctypes.c_long
    kernels.tailrace_kernels_states_in_place.restype = ctypes.c_long
    kernels.tailrace_kernels_ahead_count.restype = ctypes.c_long
    kernels.tailrace_kernels_send_mask_runs.restype = None
    kernels.tailrace_kernels_send_mask_runs.argtypes = [ctypes.c_char_p, ctypes.c_bool]
    kernels.tailrace_kernels_mask_runs_sent.restype = ctypes.c_long
    kernels.tailrace_kernels_wait_for_inputs.restype = None
    kernels.tailrace_kernels_wait_for_inputs.argtypes = [ctypes.c_bool]
    kernels.tailrace_kernels_record_cells.restype = None
    kernels.tailrace_kernels_record_cells.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    kernels.tailrace_kernels_end_record.restype = None
    kernels.tailrace_kernels_populate_cells.restype = ctypes.c_int64
    kernels.tailrace_kernels_populate_cells.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_bool]
    kernels.tailrace_kernels_defer_copies.restype = ctypes.c_bool
    kernels.tailrace_kernels_defer_copies.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int64]
    kernels.tailrace_kernels_take_copies.restype = ctypes.c_void_p
    kernels.tailrace_kernels_advance_copies.restype = ctypes.c_bool
    kernels.tailrace_kernels_advance_copies.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    kernels.tailrace_kernels_device_bytes.restype = None
    kernels.tailrace_kernels_free_snapshots.restype = None
    kernels.tailrace_kernels_free_copies.restype = None
    kernels.tailrace_kernels_free_copies.argtypes = [ctypes.c_void_p]
    kernels.tailrace_kernels_set_spins.restype = None
    kernels.tailrace_kernels_set_spins(openmp_spin.spin_count())
    _kernels = kernels


def _upstream_functions(kernels: ctypes.CDLL) -> dict[str, bool]:
    """The functions of llama.cpp that the kernels call, and whether the kernels need them."""
    kernels.tailrace_kernels_upstream_name.restype = ctypes.c_char_p
    kernels.tailrace_kernels_upstream_required.restype = ctypes.c_bool
    names = itertools.takewhile(bool, map(kernels.tailrace_kernels_upstream_name, itertools.count()))
    return {name.decode(): kernels.tailrace_kernels_upstream_required(index) for index, name in enumerate(names)}


def _check_upstream(ggml: Path, required: Sequence[str]) -> None:
    """Raise NativeUnavailable where llama.cpp lacks a function that the kernels need. It comes before they are global:
    from then on llama.cpp calls them, with nothing to delegate to.
    """
    # The backend for the CPU, and the library that it is linked to.
    # A wheel has a folder for each tier below it.
    base = (folder / "libggml-base.so" for folder in (ggml.parent, ggml.parent.parent))
    libraries = [path for path in (ggml, *base) if path.is_file()]
    exported = frozenset[str]().union(*map(exported_symbols, libraries))
    if missing := [name for name in required if name not in exported]:
        raise NativeUnavailable(f"llama.cpp has no {', no '.join(missing)}, which the kernels call")


def ggml_library() -> Path:
    """llama.cpp's library of CPU kernels, found without loading it: of a wheel's, that of this CPU's fastest tier.
    Raises NativeUnavailable.
    """
    bundle.expose_binding()
    spec = util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise NativeUnavailable("llama-cpp-python isn't installed")
    folder = Path(spec.origin).parent / "lib"
    of_tiers = (folder / tier.name / "libggml-cpu.so" for tier in TIERS.values() if tier.supported)
    library = next((path for path in of_tiers if path.is_file()), folder / "libggml-cpu.so")
    if not library.is_file():
        raise NativeUnavailable(f"{library} doesn't exist: this llama.cpp isn't built as shared libraries")
    return library
