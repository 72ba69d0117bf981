"""The monitor of the contrast: what it says of queues made by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from hiclr_fast.pretraining.queue_health import queue_health, stale


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_fresh_keys_that_lean_to_the_queries_are_an_age_gap():
    torch.manual_seed(0)
    n, d, size = 8, 16, 64
    key, old, direction = unit(n, d), unit(size - n, d), unit(d)
    key = F.normalize(key + 2 * direction, dim=1)  # the encoder of today points elsewhere than that of long ago
    q = F.normalize(key + 0.1 * unit(n, d), dim=1)[None].repeat(2, 1, 1)
    queue = torch.cat([key, old])  # just written: the pointer is behind the newest rows
    found = queue_health(q, key, queue, torch.tensor(n), 0.07, n)
    others = ((q[0] @ key.T).sum() - (q[0] * key).sum()) / (n * (n - 1))
    assert found["age_gap"] == pytest.approx(float(others - (q[0] @ old.T).mean()), abs=1e-6) and found["age_gap"] > 0.5
    assert found["positive"] == pytest.approx(float((q[0] * key).sum(1).mean()), abs=1e-6)
    assert found["entropy_0"] == pytest.approx(found["entropy_1"])
    assert "told apart by their age" in stale(found, 0.07, 0.99) and "above 0.99" in stale(found, 0.07, 0.99)


def test_equal_rows_have_no_gap_full_entropy_and_rank_one():
    row = unit(1, 4)
    found = queue_health(row.expand(3, 5, 4), row.expand(5, 4), row.expand(20, 4), torch.tensor(10), 0.07, 5)
    assert found["age_gap"] == pytest.approx(0, abs=1e-6) and stale(found, 0.07, 0.99) is None
    assert found["entropy_2"] == pytest.approx(math.log(16), abs=1e-5) and found["rank"] == pytest.approx(1, abs=1e-3)


def test_the_pointer_says_which_rows_are_fresh():
    """Orthogonal rows: the newest, wrapped around the end, are left out of the older ones."""
    queue = torch.eye(8)
    key = queue[[7, 0]]  # written last, from row 7 on
    found = queue_health(key[None], key, queue, torch.tensor(1), 1.0, 2)
    assert found["age_gap"] == pytest.approx(0, abs=1e-7) and found["positive"] == pytest.approx(1)
    assert found["rank"] == pytest.approx(8, abs=1e-3)


def test_rows_of_other_passes_and_ranks_are_fresh_too():
    """One rank saw keys 6 and 7 of a batch of 4; rows 4 and 5 are of the same step, and 0 to 3 are old."""
    torch.manual_seed(1)
    queue, q = unit(8, 5), unit(1, 2, 5)
    found = queue_health(q, queue[6:], queue, torch.tensor(0), 0.1, 4)
    others = (q[0, 0] @ queue[7] + q[0, 1] @ queue[6]) / 2
    assert found["age_gap"] == pytest.approx(float(others - (q[0] @ queue[:4].T).mean()), abs=1e-6)


@pytest.mark.parametrize(("keys", "batch"), [(8, 8), (1, 4)])
def test_what_cannot_be_said_is_left_out(keys, batch):
    queue = unit(8, 5)
    found = queue_health(queue[None, :keys], queue[:keys], queue, torch.tensor(0), 0.1, batch)
    assert "age_gap" not in found and ("entropy_0" in found) == (batch < 8) and stale(found, 0.1, 0.9) is None
    assert all(math.isfinite(value) for value in found.values())
