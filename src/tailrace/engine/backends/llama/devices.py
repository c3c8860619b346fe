"""llama.cpp's devices: the GPUs of this machine, and the devices of workers that this process has registered.

The binding doesn't declare these functions. A device is the address of a ``ggml_backend_device``, which llama.cpp never
frees.
"""

from __future__ import annotations

import ctypes
import sys
from typing import NamedTuple

from tailrace.engine.backends.llama.ggml_function import ggml_function
from tailrace.errors import ConfigurationError
from tailrace.machine.free_memory import available_memory

#: ``enum ggml_backend_dev_type``.
_CPU, _GPU, _IGPU = 0, 1, 2


class DeviceMemory(NamedTuple):
    """Bytes of a device's memory, as its driver or its worker reports them."""

    free: int
    total: int


def has_gpu() -> bool:
    """Whether this build has a backend for a GPU of this machine. llama.cpp's own answer counts workers as GPUs, also
    where none is registered.
    """
    by_type = ggml_function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)
    return by_type(_GPU) is not None or by_type(_IGPU) is not None


def has_own_memory() -> bool:
    """Whether there is a GPU here with memory of its own. An integrated one has the CPU's, and so has a Mac's."""
    return sys.platform != "darwin" and any(_kind(device) == _GPU for device in local_gpus())


def local_gpus() -> list[int]:
    """The GPUs of this machine."""
    count = ggml_function("ggml_backend_dev_count", ctypes.c_size_t)()
    get = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return [device for device in map(get, range(count)) if _kind(device) in (_GPU, _IGPU)]


def offered_devices() -> list[int]:
    """The devices that this machine offers others: its GPUs, or without one its CPU."""
    return local_gpus() or [cpu_device()]


def cpu_device() -> int:
    """This machine's CPU."""
    return int(ggml_function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(_CPU))


def worker_devices(endpoint: str) -> list[int]:
    """Register the worker at ``endpoint`` (``HOST:PORT``), unless that was done before; its devices.

    llama.cpp waits without a limit and ends this process where the worker doesn't answer: the caller has asked the
    worker before. Raises ConfigurationError where this llama.cpp has no RPC backend.
    """
    try:
        add = ggml_function("ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)
    except AttributeError:
        raise ConfigurationError(
            "this llama.cpp was compiled without the RPC backend, by which workers are reached: run make setup again"
        ) from None
    registry = add(endpoint.encode())
    if registry is None:
        raise ConfigurationError(f"the worker at {endpoint} offers no device")
    count = ggml_function("ggml_backend_reg_dev_count", ctypes.c_size_t, ctypes.c_void_p)(registry)
    get = ggml_function("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return [get(registry, index) for index in range(count)]


def is_cpu(device: int) -> bool:
    """Whether the device is this machine's CPU."""
    return _kind(device) == _CPU


def device_name(device: int) -> str:
    """llama.cpp's name of the device, such as ``CUDA0``."""
    return _text("ggml_backend_dev_name", device)


def device_description(device: int) -> str:
    """The device in words, such as a GPU's model."""
    return _text("ggml_backend_dev_description", device)


def device_memory(device: int) -> DeviceMemory:
    """The device's memory now. llama.cpp tells all of a CPU's memory as free; of this machine's CPU it is what can be
    allocated, and of a worker's its reports have that.
    """
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    read = ggml_function(
        "ggml_backend_dev_memory",
        None,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.POINTER(ctypes.c_size_t),
    )
    read(device, ctypes.byref(free), ctypes.byref(total))
    return DeviceMemory(min(free.value, available_memory()) if is_cpu(device) else free.value, total.value)


def buffer_type(device: int) -> int:
    """The type of the device's buffers, by which a tensor is put there."""
    return int(ggml_function("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)(device))


def buffer_type_name(kind: int) -> str:
    """llama.cpp's name of a type of buffers."""
    return _text("ggml_backend_buft_name", kind)


def _kind(device: int) -> int:
    return int(ggml_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(device))


def _text(name: str, argument: int) -> str:
    found: bytes | None = ggml_function(name, ctypes.c_char_p, ctypes.c_void_p)(argument)
    return (found or b"").decode("utf-8", "replace")
