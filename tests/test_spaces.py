"""Spaces of features, and their choice inside the training split."""

import numpy as np
import pytest
from helpers import features_of, split

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.protocols.knn import knn_scores
from hiclr_fast.evaluation.spaces import SHRINK, choose_space, divisible, fit, in_space, inner_folds, inner_groups


def nearest(train, val) -> float:
    return topk_accuracy(knn_scores(train, val, (1,))[1], val.label, 1)


def test_spaces_are_fitted_on_training_rows_alone():
    rng = np.random.default_rng(0)
    train, val = rng.normal(3, (1, 5, 25), (200, 3)).astype(np.float32), np.full((2, 3), 9, np.float32)
    np.testing.assert_allclose(fit(train, "centred")(val), 9 - np.broadcast_to(train.mean(0), (2, 3)), rtol=1e-5)
    white = fit(train, "whitened")(train)
    spread = white.std(0) / white.std(0).max()
    assert spread.min() > 0.3 and (train.std(0) / train.std(0).max()).min() < 0.1
    assert fit(train, "plain")(val) is val


def test_the_space_that_wins_inside_the_training_split_is_chosen():
    """The class is in the last coordinate; the others are large and say nothing: whitening evens them out."""
    rng = np.random.default_rng(1)
    label, subject = np.arange(240) % 2, (np.arange(240) // 2) % 4
    found = features_of(np.concatenate([rng.normal(5, 20, (240, 3)), (4.0 * label + rng.normal(0, 0.2, 240))[:, None]], 1), label)
    space, percent = choose_space(found, subject, nearest)
    assert space == "whitened" and percent["whitened"] > percent["centred"] + 10 > percent["plain"]
    train, val = in_space(found, found, space)
    assert nearest(train, val) == 100 and train.name is found.name


def test_groups_are_subjects_views_or_random_parts():
    one = split(30, classes=3)
    assert inner_groups(one, None)[0] == inner_groups(one, one)[0] == "subject"
    two_views = type(one)(one.x, one.label, one.name, one.subject, np.arange(30) % 2)
    third_view = type(one)(one.x, one.label, one.name, one.subject, np.full(30, 2))
    assert inner_groups(two_views, third_view)[0] == "view"
    others = type(one)(one.x, one.label, one.name, one.subject + 100, np.full(30, 2))
    assert inner_groups(two_views, others)[0] == "subject"
    unknown = type(one)(one.x, one.label, one.name, np.full(30, -1), np.arange(30) % 2)
    assert inner_groups(unknown, None)[0] == "view"
    # a class a subject: none can be judged by the others
    nested = type(one)(one.x, one.label, one.name, one.label, np.full(30, -1))
    assert inner_groups(nested, None)[0] == "fold" and divisible(nested, None)
    assert not divisible(type(one)(one.x[:3], np.arange(3), one.name[:3], np.arange(3), np.arange(3)), None)
    nothing = type(one)(one.x, one.label, one.name, np.full(30, -1), np.full(30, -1))
    what, group = inner_groups(nothing, None)
    assert what == "fold" and all(len(set(one.label[group == g])) == 3 for g in range(5))
    for learn, judge in inner_folds(group, one.label):
        assert not set(learn) & set(judge)
    with pytest.raises(InputError, match="cannot be divided"):
        inner_folds(np.zeros(4), np.zeros(4))


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_whitening_is_that_of_the_singular_values(shape):
    """Both Gram matrices, with a direction that nothing has."""
    x = np.random.default_rng(2).normal(2, (np.arange(shape[1]) % 5 + 0.5), shape)
    x[:, 0] = 1
    x = x.astype(np.float32)
    axes, values, _ = np.linalg.svd((x - x.mean(0, dtype=np.float64)), full_matrices=False)
    assert fit(0 * x, "whitened")(x).shape == (len(x), 0)
    rank = int((values > 1e-6 * values[0]).sum())
    found, want = fit(x, "whitened")(x), axes[:, :rank] * (values / (values + SHRINK * values[0]))[:rank]
    np.testing.assert_allclose(found @ found.T, want @ want.T, atol=1e-5)
