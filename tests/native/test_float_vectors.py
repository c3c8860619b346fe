"""The float vectors of ``simd.h``, on which the float kernels of all tiers are written: each function against NumPy."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tailrace.engine.kernels import build
from tailrace.engine.native_libs.compiler import find_compiler
from tailrace.engine.native_libs.tiers import TIERS
from tailrace.machine.isa import read_cpu_flags

Numbers = npt.NDArray[np.float32]

#: CPU flags and compiler flags of each instruction set.
_SETS = {
    "avx512": (TIERS["avx512"].cpu_flags, TIERS["avx512"].compiler_flags),
    "avx2": (frozenset(("avx2", "fma", "f16c")), ("-mavx2", "-mfma", "-mf16c")),
}
_SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3.4e38, 0.5, 1.5, 2.5, -2.5]


@pytest.fixture(scope="module", params=sorted(_SETS))
def vectors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The probe, compiled for one instruction set."""
    cpu_flags, flags = _SETS[request.param]
    if not cpu_flags <= read_cpu_flags():
        pytest.skip(f"this CPU has no {request.param}")
    library = tmp_path_factory.mktemp("vectors") / "float_vectors.so"
    source = Path(__file__).with_name("float_vectors.c")
    find_compiler().build([("probe", source)], [*flags, f"-I{build.SOURCES}"], library)
    return ctypes.CDLL(str(library))


def _numbers(seed: int, count: int = 4096) -> Numbers:
    """Random numbers of all sizes, with special ones between them."""
    random = np.random.default_rng(seed)
    numbers = (random.standard_normal(count) * 10.0 ** random.integers(-6, 6, count)).astype(np.float32)
    numbers[random.integers(0, count, count // 8)] = random.choice(_SPECIAL, count // 8)
    return numbers


def _aligned(numbers: npt.NDArray[np.generic]) -> Numbers:
    """A copy in single precision that is aligned to every vector."""
    copied: Numbers = np.frombuffer(mmap.mmap(-1, 4 * numbers.size), np.float32)  # a mapping begins at a page
    copied[:] = numbers
    return copied


def _at(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _apply(function: Callable[..., object], *arrays: Numbers) -> Numbers:
    to, *inputs = map(_aligned, (arrays[0], *arrays))
    function(*map(_at, (*inputs, to)), to.size)
    return to


@pytest.mark.parametrize(
    ("name", "operation"),
    [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide)],
)
def test_arithmetic_is_numpys(vectors: ctypes.CDLL, name: str, operation: np.ufunc) -> None:
    a, b = _numbers(1), _numbers(2)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(_apply(vectors[f"probe_{name}"], a, b), operation(a, b))


def test_fused_products_are_rounded_once(vectors: ctypes.CDLL) -> None:
    random = np.random.default_rng(3)
    a, b, c = (random.standard_normal(4096).astype(np.float32) for _ in range(3))
    # A product of two of these numbers is exact in double precision.
    np.testing.assert_allclose(_apply(vectors.probe_fma, a, b, c), a.astype(np.float64) * b + c, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(_apply(vectors.probe_fnma, a, b, c), c - a.astype(np.float64) * b, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("name", "operation"), [("max", np.fmax), ("min", np.fmin)])
def test_extremes_take_the_second_operand_for_nan(vectors: ctypes.CDLL, name: str, operation: np.ufunc) -> None:
    a, b = _numbers(4), _numbers(5)
    expected = np.where(np.isnan(a) | np.isnan(b), b, operation(a, b))
    np.testing.assert_array_equal(_apply(vectors[f"probe_{name}"], a, b), expected)


def test_numbers_of_one_operand_are_numpys(vectors: ctypes.CDLL) -> None:
    a = _numbers(6)
    np.testing.assert_array_equal(_apply(vectors.probe_abs, a).view(np.uint32), np.abs(a).view(np.uint32))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(_apply(vectors.probe_sqrt, a), np.sqrt(a))
    np.testing.assert_array_equal(_apply(vectors.probe_round, a), np.rint(a))


def test_powers_of_two_have_single_precision(vectors: ctypes.CDLL) -> None:
    x = np.concatenate([np.linspace(-114.99, 127.99, 1 << 16), np.linspace(-1, 1, 1 << 12)]).astype(np.float32)
    expected = np.exp2(x.astype(np.float64))
    np.testing.assert_allclose(_apply(vectors.probe_exp2, x), expected, rtol=2.5e-7)
    whole = np.arange(-114, 128, dtype=np.float32).repeat(16)
    np.testing.assert_array_equal(_apply(vectors.probe_exp2, whole), np.exp2(whole.astype(np.float64)))


def test_powers_of_two_at_their_limits(vectors: ctypes.CDLL) -> None:
    x = np.array([-np.inf, -1e30, -116, -115, 128, 1e30, np.inf, np.nan] * 2, np.float32)
    expected = np.array([0, 0, 0, 0, np.inf, np.inf, np.inf, np.nan] * 2, np.float32)
    np.testing.assert_array_equal(_apply(vectors.probe_exp2, x), expected)


def test_logarithms_have_single_precision(vectors: ctypes.CDLL) -> None:
    x = np.concatenate([np.geomspace(1.2e-38, 3e38, 1 << 14), np.linspace(0.5, 2, 1 << 14)]).astype(np.float32)
    np.testing.assert_allclose(_apply(vectors.probe_log, x), np.log(x.astype(np.float64)), rtol=3e-7, atol=3e-8)
    mantissas, exponents = np.frexp(x)
    np.testing.assert_array_equal(_apply(vectors.probe_mantissa, x), 2 * mantissas)
    np.testing.assert_array_equal(_apply(vectors.probe_exponent, x), exponents - 1)


def test_vectors_are_summed_and_rearranged(vectors: ctypes.CDLL) -> None:
    lanes = vectors.probe_lanes()
    numbers = np.arange(1, lanes * lanes + 1, dtype=np.float32)
    sums, square, fourths = (
        np.zeros(4, np.float32),
        np.zeros(lanes * lanes, np.float32),
        np.zeros(4 * lanes, np.float32),
    )
    vectors.probe_sums(_at(numbers), _at(sums))
    assert sums.tolist() == numbers.reshape(-1, lanes)[:4].sum(1).tolist()
    vectors.probe_transpose(_at(numbers), _at(square))
    np.testing.assert_array_equal(square.reshape(lanes, lanes), numbers.reshape(lanes, lanes).T)
    vectors.probe_every_4th(_at(numbers), _at(fourths))
    np.testing.assert_array_equal(fourths.reshape(4, lanes), numbers[: 4 * lanes].reshape(lanes, 4).T)


def test_small_types_are_converted_exactly(vectors: ctypes.CDLL) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(_convert(vectors.probe_f16, bits), halves)
    upper = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(_convert(vectors.probe_bf16, bits), upper)


def _convert(function: Callable[..., object], numbers: npt.NDArray[np.generic]) -> Numbers:
    to = np.zeros(numbers.size, np.float32)
    function(_at(numbers), _at(to), numbers.size)
    return to


@pytest.mark.parametrize(("name", "operation"), [("lt", np.less), ("le", np.less_equal), ("gt", np.greater)])
def test_comparisons_are_false_for_nan(vectors: ctypes.CDLL, name: str, operation: np.ufunc) -> None:
    a, b = _numbers(7), _numbers(8)
    b[::3] = a[::3]
    np.testing.assert_array_equal(_apply(vectors[f"probe_{name}"], a, b), operation(a, b).astype(np.float32))
    np.testing.assert_array_equal(_apply(vectors.probe_is_nan, a), (~np.isnan(a)).astype(np.float32))


def test_reductions_take_all_lanes(vectors: ctypes.CDLL) -> None:
    lanes = vectors.probe_lanes()
    for lane in range(lanes):
        numbers, found = np.zeros(lanes, np.float32), np.zeros(2, np.float32)
        numbers[lane] = lane + 1
        vectors.probe_reductions(_at(numbers), _at(found))
        assert found.tolist() == [lane + 1, lane + 1]
    numbers = -np.arange(1, lanes + 1, dtype=np.float32)
    vectors.probe_reductions(_at(numbers), _at(found))
    assert found.tolist() == [numbers.sum(), -1]


def test_masks_follow_their_bits(vectors: ctypes.CDLL) -> None:
    lanes = vectors.probe_lanes()
    vectors.probe_select_bits.restype = ctypes.c_bool
    a, b, to = np.arange(lanes, dtype=np.float32), -np.ones(lanes, np.float32), np.zeros(lanes, np.float32)
    for some, others in [(0, 0), (1, 0), (0, 1 << (lanes - 1)), (0b0101, 0b0110), ((1 << lanes) - 1, 0)]:
        any_set = vectors.probe_select_bits(_at(a), _at(b), some, others, _at(to))
        bits = some | others
        assert any_set == bool(bits)
        assert to.tolist() == [lane if bits >> lane & 1 else -1 for lane in range(lanes)]


def test_only_the_first_lanes_are_touched(vectors: ctypes.CDLL) -> None:
    lanes = vectors.probe_lanes()
    numbers = np.arange(1, lanes + 1, dtype=np.float32)
    for count in range(lanes + 1):
        to, rest = np.full(lanes, -1, np.float32), np.zeros(lanes, np.float32)
        vectors.probe_copy_first(_at(numbers), _at(to), count, _at(rest))
        assert to.tolist() == [*numbers[:count], *[-1] * (lanes - count)]
        assert rest.tolist() == [*numbers[:count], *[0] * (lanes - count)]
