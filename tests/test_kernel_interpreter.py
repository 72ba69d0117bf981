"""The hastened interpreter reads and writes what Triton's own does."""

import numpy as np
import pytest

pytest.importorskip("triton")
DTYPES = [np.bool_, np.int8, np.uint16, np.float16, np.float32, np.int64, np.float64]


def addresses(memory: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """(3, 100) of values of a memory, each once, and a mask; those outside of the mask belong to nobody."""
    places = rng.permutation(len(memory))[:300].reshape(3, 100)
    mask = rng.random((3, 100)) < 0.7
    found = memory.ctypes.data + places * memory.itemsize
    return np.where(mask, found, 0).astype(np.uint64), mask


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("everything", [False, True])
def test_tiles_are_read_and_written_as_by_triton(dtype, everything):
    from hiclr_kernels.quick_interpreter import load, store
    from triton.runtime.interpreter import _interpreter

    rng = np.random.default_rng(0)
    memory, other, values = (rng.integers(0, 2 if dtype is np.bool_ else 100, size).astype(dtype) for size in (1000, 300, 300))
    other, values = other.reshape(3, 100), values.reshape(3, 100)
    at, mask = addresses(memory, rng)
    if everything:
        at, mask = np.where(mask, at, memory.ctypes.data).astype(np.uint64), np.ones_like(mask)
    got, want = load(at, mask, other, np.dtype(dtype)), _interpreter.load(at, mask, other, np.dtype(dtype))
    assert got.dtype == dtype and got.shape == want.shape and np.array_equal(got, want)
    mine, theirs = memory.copy(), memory.copy()
    shift = [np.where(mask, at - memory.ctypes.data + copy.ctypes.data, 0).astype(np.uint64) for copy in (mine, theirs)]
    store(shift[0], values, mask)
    _interpreter.store(shift[1], values, mask)
    assert np.array_equal(mine, theirs) and not np.array_equal(mine, memory)
