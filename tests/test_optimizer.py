"""Learning rates against the recorded official ones."""

import numpy as np
import pytest

from hiclr_fast.training.optimizer import learning_rate


@pytest.mark.parametrize(("name", "base", "drops"), [("pretrain/gcn", 0.1, (250,)), ("linear_eval/gcn", 3.0, (80,))])
def test_steps(golden, name, base, drops):
    want = golden("schedules")[name]
    got = [learning_rate(e, base=base, epochs=len(want), drops=drops) for e in range(1, len(want) + 1)]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_warmup_reaches_the_official_value_at_the_end_of_each_epoch(golden):
    want = golden("schedules")["pretrain/sgd_warmup5"]
    got = [learning_rate(e + 1 - 1e-9, base=0.1, epochs=300, drops=(250,), warmup=5) for e in range(1, 301)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_cosine_with_warmup(golden):
    want = golden("schedules")["pretrain/adamw_warmup5_cosine"]
    got = [learning_rate(e + 1, base=1e-3, epochs=300, warmup=5, schedule="cosine") for e in range(1, 301)]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)


def test_unknown_schedule():
    with pytest.raises(ValueError, match="unknown schedule 'poly'"):
        learning_rate(1, base=1, epochs=1, schedule="poly")
