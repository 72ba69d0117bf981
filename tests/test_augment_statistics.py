"""Distribution and independence of the draws. Seeds are fixed, so a test passes or fails for good; every p-value has to
exceed LEVEL, which a correct generator misses once in 1000 tests."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hiclr_kernels.augment import apply_views, draw_views
from hiclr_kernels.augment.draw import NOISE_BLOCK, ViewStrength, draw_rows
from hiclr_kernels.philox.reference import normal, uniform
from scipy import stats

from hiclr_fast.models.stgcn import STGCN
from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.views.augment import AugmentConfig, view_strength
from hiclr_fast.views.strong import draw_graphs, draw_roll

LEVEL = 1e-3
NTU = LAYOUTS["ntu25"]
N = 20000
CONFIG = AugmentConfig(time_flip_p=0.25)
KINDS = ("basic", "normal", "strong", "basic")


def rows(ids=None, step=0, seed=0):
    ids = torch.arange(N) if ids is None else ids
    strengths = [view_strength(kind, CONFIG, 50, 25) for kind in KINDS]
    return draw_views(strengths, ids, torch.tensor(step), seed=seed, frames=50, joints=25).rows.numpy()


@pytest.fixture(scope="module")
def drawn():
    return rows()


def fits(values, low=0.0, high=1.0):
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > LEVEL


def frequencies(counts, shares=None):
    counts = np.asarray(counts)
    expected = None if shares is None else np.asarray(shares) * counts.sum()
    assert stats.chisquare(counts, expected).pvalue > LEVEL


def independent(a, b):
    """No rank correlation, and none between distances from the middle (catches a symmetric dependence)."""
    assert stats.spearmanr(a, b).pvalue > LEVEL
    assert stats.spearmanr(abs(a - np.median(a)), abs(b - np.median(b))).pvalue > LEVEL


def test_crop_shear_and_gates(drawn):
    basic, normal_ = drawn[:, 0], drawn[:, 1]
    frequencies(np.bincount((basic[:, 27] + 8).astype(int), minlength=17))
    for off in (1, 2, 3, 5, 6, 7):
        fits(basic[:, off], -0.5, 0.5)
    for column, p in ((28, 0.5), (29, 0.5), (30, 0.25)):  # flip, blur, time flip
        on = (normal_[:, column] > 0).sum()
        assert stats.binomtest(int(on), N, p).pvalue > LEVEL
    std = normal_[:, 9:12].max(1)
    assert set(std) == {np.float32(0), np.float32(0.01)} and stats.binomtest(int((std > 0).sum()), N, 0.5).pvalue > LEVEL
    hidden = (normal_[:, :9].reshape(-1, 3, 3) == 0).all(2)
    frequencies([N - hidden.any(1).sum(), *hidden.sum(0)], [1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert hidden.sum(1).max() == 1


def test_blur_sigma_is_uniform(drawn):
    on = drawn[:, 1, 29] > 0
    sigma = np.sqrt(-0.5 / np.log(np.maximum(drawn[on, 1, 18].astype(np.float64), 1e-300)))
    wide = sigma > 0.3  # the tap exp(-1 / 2 sigma^2) underflows float32 below
    fits(sigma[wide], 0.3, 2.0)
    assert stats.binomtest(int(wide.sum()), int(on.sum()), 1.7 / 1.9).pvalue > LEVEL


def test_rotation_angles():
    """From rows without shear: one main axis U(0, 30), the others U(0, 1) degrees; R = R_z R_y R_x read back."""
    only = ViewStrength(rotate_main=30, rotate_minor=1)
    r = draw_rows([only], torch.arange(N), torch.tensor(0), 0)[:, 0, :9].double().numpy().reshape(-1, 3, 3)
    angles = np.degrees(
        np.stack([np.arctan2(-r[:, 2, 1], r[:, 2, 2]), np.arcsin(r[:, 2, 0]), np.arctan2(-r[:, 1, 0], r[:, 0, 0])])
    )
    main = angles.argmax(0)
    sure = angles.max(0) > 1.001
    frequencies(np.bincount(main[sure], minlength=3))
    fits(angles.max(0)[sure], 1.0, 30.0)
    for axis in range(3):
        fits(angles[axis][sure & (main != axis)], 0.0, 1.0)


def test_normals():
    one = torch.tensor([7])
    z = normal(3, one, one, one, 3, 40000, first_block=NOISE_BLOCK)[0].double().numpy()
    assert z.shape == (3, 40000)
    assert stats.kstest(z.ravel(), "norm").pvalue > LEVEL
    quarters = z.reshape(3, 4, 10000)
    for a, b in combinations(range(4), 2):  # the four values of a Philox block
        independent(quarters[0, a], quarters[0, b])
    independent(z[0], z[1])
    independent(z[0, :-1], z[0, 1:])
    assert abs(z).max() < 5.8  # sqrt(-2 log 2^-24) = 5.77: where 24 bits end


def test_independence_of_samples_views_steps_epochs_and_seeds(drawn):
    """The same parameters (shear, crop, rotation) under counters that differ in one word only."""
    steps_an_epoch = 312
    others = {
        "samples": (drawn[:-1, 0], drawn[1:, 0]),
        "views": (drawn[:, 0], drawn[:, 3]),
        "steps": (drawn[:, 0], rows(step=1)[:, 0]),
        "epochs": (drawn[:, 0], rows(step=steps_an_epoch)[:, 0]),
        "seeds": (drawn[:, 0], rows(seed=1)[:, 0]),
        "high word of the seed": (drawn[:, 0], rows(seed=1 << 32)[:, 0]),
    }
    for what, (a, b) in others.items():
        for column in (1, 2, 27):
            independent(a[:, column], b[:, column])
        assert (a[:, 1] == b[:, 1]).mean() < 1e-3, what
    for a, b in combinations((1, 2, 3, 5, 6, 7, 27), 2):  # within one view
        independent(drawn[:, 0, a], drawn[:, 0, b])
    table = np.histogram2d(drawn[:, 1, 28], drawn[:, 1, 29], bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > LEVEL


def test_noise_in_the_views():
    """The noise that a view carries: N(0, 0.01) m on every joint, also of an empty body, new in every sample, view and step."""
    ids = torch.arange(40)
    noisy = [ViewStrength(noise_std=0.01, noise_p=1.0)] * 2

    def noise(step):
        draws = draw_views(noisy, ids, torch.tensor(step), seed=0, frames=50, joints=25)
        zero = torch.zeros(40, 3, 50, 25, 2)
        views = apply_views(zero, ids, draws, mirror=NTU.mirror, parents=NTU.parents)
        return torch.stack(views).flatten(2).double().numpy()

    now, later = noise(0), noise(1)
    assert stats.kstest(now.ravel()[::7] / 0.01, "norm").pvalue > LEVEL
    for a, b in ((now[0, 0], now[0, 1]), (now[0, 0], now[1, 0]), (now[0, 0], later[0, 0])):
        independent(a, b)


@pytest.mark.parametrize("per_sample", [False, True])
def test_masked_joints_are_uniform(per_sample):
    strong = [view_strength("strong", CONFIG, 50, 25)]
    n = 40 if per_sample else 1
    joints, pairs = np.zeros(25), np.zeros((25, 25))
    for step in range(1 if per_sample else 40):
        ids = torch.arange(40)
        keep = draw_views(strong, ids, torch.tensor(step), seed=0, frames=50, joints=25, mask_per_sample=per_sample).keep
        assert keep.shape == (1, n, 50, 25)
        hidden = (keep[0] == 0).reshape(-1, 25).numpy()
        assert (hidden.sum(1) == 2).all()
        joints += hidden.sum(0)
        pairs += hidden.T.astype(float) @ hidden
    frequencies(pairs[np.triu_indices(25, 1)])  # every pair of joints equally often
    assert joints.sum() == 2 * 2000


def test_adain_partner_and_edges():
    n = 10
    rolls = [int(draw_roll(n, seed=0, step=torch.tensor(step), view=2)[0]) for step in range(2000)]
    counts = np.bincount([(-r) % n for r in rolls], minlength=n)
    assert counts[0] == counts[9] == 0
    frequencies(counts[1:9])
    full = STGCN(torch.ones(3, 25, 25), hidden_channels=1, hidden_dim=1)
    rates, kept = [], []
    for step in range(60):
        graphs = draw_graphs(KINDS[:3], 0.1, 0.0, full, 1, seed=0, step=torch.tensor(step))
        assert graphs[:2] == [None, None] and graphs[2].shape == (10, 3, 25, 25)
        rates += (1 - 1 / graphs[2].amax((1, 2, 3))).tolist()
        kept += (graphs[2] > 0).float().mean((1, 2, 3)).tolist()
    fits(rates, 0.0, 0.1)
    spread = np.sqrt(np.maximum(np.array(rates) * (1 - np.array(rates)), 1e-4) / 1875)
    assert stats.kstest((1 - np.array(kept) - rates) / spread, "norm").pvalue > LEVEL / 10  # binomial, nearly normal


def test_no_counter_serves_two_purposes():
    """The words of parameters, mask and noise of one (sample, view) share no value by position: blocks do not overlap."""
    one = torch.tensor([7])
    parts = [uniform(0, one, one, one, 400, first_block=b)[0] for b in (0, 1 << 15, 1 << 16)]
    for a, b in combinations(parts, 2):
        assert not torch.isin(a, b).any()
