"""SWAD's choice of segments against the rules as the specification states them, written anew with queues."""

import math
from collections import deque
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from dgbench.loss_valley import LossValley


def by_the_rules(losses, weights, ends, patience=3, window=6, tolerance=0.3):
    """The average after every segment; `weights` are floats. A mean that has taken nothing yet is replaced."""
    converge: deque = deque(maxlen=patience)
    smooth: deque = deque(maxlen=window)
    start: Any = None
    start_end: Any = None
    taken, results, threshold, dead = [], [], 0.0, False
    for loss, weight, end in zip(losses, weights, ends, strict=True):
        if not dead:
            converge.append((end, loss, weight))
            smooth.append((end, loss, weight))
            if start_end is None:
                if len(converge) == patience and int(np.argmin([x[1] for x in converge])) == 0:
                    start_end, _, start = converge[0]
                    threshold = np.mean([x[1] for x in converge]) * (1 + tolerance)
                    if window > patience:
                        queue = list(smooth)[: window - patience + 1]
                        index = max((i + 1 for i, x in enumerate(queue) if x[1] > threshold), default=0)
                        taken += [x[2] for x in queue[index + 1 :]]
            elif smooth[0][0] >= start_end:
                if min(x[1] for x in smooth) > threshold:
                    dead = True
                else:
                    taken.append(smooth[0][2])
        final = list(taken)
        if start_end is None:
            results.append(converge[-1][2])
            continue
        if not dead:
            rest = deque(smooth)
            rest.popleft()
            while rest and min(x[1] for x in rest) <= threshold:
                final.append(rest.popleft()[2])
        results.append(np.mean(final) if final else start)
    return results


def followed(losses, weights, ends, **options):
    valley, results = LossValley(**options), []
    for loss, weight, end in zip(losses, weights, ends, strict=True):
        valley.add(end, loss, [torch.tensor([weight], dtype=torch.float64)])
        results.append(valley.result()[0].item())
    return valley, results


@pytest.mark.parametrize(("patience", "window"), [(3, 6), (1, 1), (2, 2), (2, 5)])
@pytest.mark.parametrize("seed", range(25))
def test_the_same_segments_as_the_rules_take(seed, patience, window):
    r = np.random.default_rng(seed)
    n = 24
    trend = 1 + np.abs(np.arange(n) - r.integers(2, 20)) * r.choice([0, 0.05, 0.2])
    losses = (trend + r.choice([0, 0.1, 0.5]) * r.random(n)).tolist()
    weights, ends = (2.0 ** np.arange(n)).tolist(), [1, *range(100, 100 * n, 100)]
    options = {"patience": patience, "window": window, "tolerance": float(r.choice([0.0, 0.2, 0.3]))}
    _, results = followed(losses, weights, ends, **options)
    assert results == pytest.approx(by_the_rules(losses, weights, ends, **options), rel=1e-12)


@pytest.mark.parametrize("losses", [[1.0] * 20, [20.0 - i for i in range(20)]], ids=["constant", "decreasing"])
def test_a_loss_that_never_rises_never_ends_the_valley(losses):
    valley, _ = followed(losses, [0.0] * 20, range(20))
    assert not valley.is_over


def test_with_no_patience_and_no_limit_everything_after_the_first_evaluation_is_averaged():
    r = np.random.default_rng(0)
    losses, weights = r.random(9).tolist(), r.normal(size=9).tolist()
    _, results = followed(losses, weights, range(9), patience=1, window=1, tolerance=math.inf)
    assert results[-1] == pytest.approx(np.mean(weights[1:]))


def test_after_the_valley_nothing_is_added():
    losses = [3, 2, 1, 1.1, 1.2, 1.1, *[9.0] * 12]
    valley, results = followed(losses, [float(i) for i in range(18)], range(18))
    assert valley.is_over
    at_the_end = next(i for i, (a, b) in enumerate(pairwise(results)) if a == b and i > 8)
    assert results[at_the_end:] == [results[-1]] * (18 - at_the_end)
    assert results[-1] == pytest.approx(by_the_rules(losses, list(range(18)), range(18))[-1])


def test_a_loss_that_is_not_a_number_is_the_highest():
    valley, results = followed([math.nan, 1.0, 2.0, 3.0], [1.0, 2.0, 4.0, 8.0], range(4))
    assert valley.start == 1
    assert results == pytest.approx(by_the_rules([math.inf, 1.0, 2.0, 3.0], [1.0, 2.0, 4.0, 8.0], range(4)))
