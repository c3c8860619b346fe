"""llama.cpp is asked which tensors it can repack, through structs that are compared with the library's."""

from __future__ import annotations

import ctypes

import pytest
from gguf import GGMLQuantizationType

# The backend's package has to be imported first: it loads the kernels before llama.cpp.
from tailrace.engine.backends.llama import upstream_repack
from tailrace.errors import ConfigurationError
from tailrace.models.gguf_file import Tensor


class MovedBuffer(ctypes.Structure):
    """A tensor that has its buffer in another place."""

    _fields_ = (("type", ctypes.c_int), ("flags", ctypes.c_void_p), ("buffer", ctypes.c_void_p))


def test_another_struct_of_tensors_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream_repack.check_structs.cache_clear()
    upstream_repack.check_structs()
    monkeypatch.setattr(upstream_repack, "_TensorHead", MovedBuffer)
    upstream_repack.check_structs.cache_clear()
    with pytest.raises(ConfigurationError, match="isn't the one that tailrace knows"):
        upstream_repack.check_structs()
    upstream_repack.check_structs.cache_clear()


def test_llama_cpp_repacks_no_plain_numbers_and_is_not_asked_about_broken_shapes() -> None:
    f32 = int(GGMLQuantizationType.F32)
    assert upstream_repack.repack_buffer_type(Tensor("a.weight", f32, (256, 64)), experts=False) is None
    assert upstream_repack.repack_buffer_type(Tensor("a.weight", 9999, (256, 64)), experts=False) is None
    q4_0 = int(GGMLQuantizationType.Q4_0)
    assert upstream_repack.repack_buffer_type(Tensor("a.weight", q4_0, (33, 64)), experts=False) is None
