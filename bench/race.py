"""Variants of one op in alternating rounds of one process (first all of round 1, then all of round 2), so that a slow minute of
the machine slows every one of them and ratios hold elsewhere."""

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from statistics import median

import pytest
import torch

ROUND = 0.05  # seconds that a round of short calls lasts at least: what ran before has left the caches full of its own
MOST_CALLS = 50
REPLAYED: deque = deque()  # what the clock shows next


@dataclass
class Entrant:
    """A variant that was checked and may be timed.

    call: what is timed. before: runs before every round, untimed. settle: seconds to wait after a round, while its workers fill
    their queues. close: after the race. info: joins extra_info. derive: more of it, given the median seconds of a call.
    """

    call: Callable[[], object]
    before: Callable[[], object] | None = None
    settle: float = 0.0
    close: Callable[[], object] | None = None
    info: dict = field(default_factory=dict)
    derive: Callable[[float], dict] | None = None


@dataclass
class Result:
    """seconds: of one call, by round."""

    seconds: list[float]
    info: dict

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


def clock() -> float:
    """Seconds, after the device has done what it was given; a replayed number while there is one."""
    if REPLAYED:
        return REPLAYED.popleft()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def replay(benchmark, result: Result) -> None:
    """Gives pytest-benchmark the rounds of a race."""
    if not benchmark.disabled:
        REPLAYED.extend(t for seconds in result.seconds for t in (0.0, seconds))
    benchmark.pedantic(lambda: None, rounds=len(result.seconds))


def lap(entrant: Entrant, calls: int = 1) -> float:
    if entrant.before:
        entrant.before()
    start = clock()
    for _ in range(calls):
        entrant.call()
    seconds = (clock() - start) / calls
    if entrant.settle:
        time.sleep(entrant.settle)
    return seconds


def calls_for(entrant: Entrant) -> int:
    """Calls a round; warms up on the way."""
    seconds = lap(entrant)
    if entrant.before or seconds > 1:
        return 1
    return min(MOST_CALLS, max(1, math.ceil(ROUND / lap(entrant))))


def run(
    builds: dict[Hashable, Callable[[], Entrant]], rounds: int, warm: bool, alternate: bool
) -> dict[Hashable, Result | BaseException]:
    """Builds and times the entrants; one that cannot be built or fails has its exception as its result.

    warm: two calls beforehand, and several a round where they are short. alternate: false builds and times one after another,
    where they do not fit into the device's memory together.
    """
    results: dict[Hashable, Result | BaseException] = {}
    for heat in [list(builds)] if alternate else [[key] for key in builds]:
        ready: dict[Hashable, tuple[Entrant, int]] = {}

        def attempt(key, action):
            try:
                return action()
            except (Exception, pytest.skip.Exception) as error:  # the test of that variant raises it
                results[key] = error
                ready.pop(key, None)  # noqa: B023

        for key in heat:
            if (entrant := attempt(key, builds[key])) is not None:
                calls = attempt(key, lambda e=entrant: calls_for(e)) if warm else 1
                if calls is not None:
                    ready[key] = entrant, calls
        gc.collect()
        gc.freeze()  # a plain-Python variant pays for its own garbage, not for everybody's modules
        laps: dict[Hashable, list[float]] = {key: [] for key in ready}
        for _ in range(rounds):
            for key, (entrant, calls) in list(ready.items()):
                if (seconds := attempt(key, lambda e=entrant, c=calls: lap(e, c))) is not None:
                    laps[key].append(seconds)
        gc.unfreeze()
        for key, (entrant, _) in ready.items():
            results[key] = Result(laps[key], entrant.info | {"threads": torch.get_num_threads()})
            if entrant.derive:
                results[key].info |= entrant.derive(results[key].median)
            if entrant.close:
                entrant.close()
        ready.clear()
        gc.collect()  # compiled modules and captured graphs are cycles
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return results
