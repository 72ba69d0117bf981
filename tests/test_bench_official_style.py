"""The yardstick is right: its views are those of the method, and its loss is ours."""

import numpy as np
import torch
from hiclr_kernels.augment.draw import rotation
from hiclr_kernels.augment.reference import blur_matrix
from hiclr_kernels.contrast.reference import hierarchical_contrast
from official_style import Views, blur, crop, plain_loss, rotate, shear


class Fixed:
    """Returns the given draws in order."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def _next(self, *_):
        return self.draws.pop(0)

    integers = uniform = random = normal = _next


def test_operations():
    x = np.random.default_rng(0).normal(size=(3, 50, 25, 2))
    assert np.array_equal(crop(x, Fixed(8)), x)
    assert np.array_equal(crop(x, Fixed(0))[:, 0], x[:, 7])
    s = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, -0.1])
    matrix = np.array([[1, 0.1, 0.4], [0.2, 1, 0.5], [0.3, -0.1, 1]])
    np.testing.assert_allclose(shear(x, Fixed(*s)), np.einsum("ij,jtvm->itvm", matrix, x))
    angles = np.array([0.5, 20.0, 0.25])
    want = np.einsum("ij,jtvm->itvm", rotation(torch.deg2rad(torch.from_numpy(angles))).numpy(), x)
    np.testing.assert_allclose(rotate(x, Fixed(1, *angles)), want, atol=1e-6)
    taps = torch.exp(-(torch.arange(-7, 8.0) ** 2) / 2)
    want = np.einsum("ts,csvm->ctvm", blur_matrix(taps[None].double(), 50)[0].numpy(), x)
    np.testing.assert_allclose(blur(x, Fixed(1.0, 0.0)), want, atol=1e-5)


def test_views_have_the_shape_of_a_sample():
    views = Views(np.random.default_rng(0).normal(size=(2, 3, 50, 25, 2)))[1]
    assert [v.shape for v in views] == [(3, 50, 25, 2)] * 4 and {v.dtype for v in views} == {np.dtype("float32")}


def test_loss():
    torch.manual_seed(0)
    q, key, queue = torch.randn(3, 5, 16), torch.randn(5, 16), torch.randn(64, 16)
    q, key, queue = (torch.nn.functional.normalize(t, dim=-1) for t in (q, key, queue))
    want, _ = hierarchical_contrast(q, key, queue)
    torch.testing.assert_close(plain_loss(list(q), key, queue.T), want)
