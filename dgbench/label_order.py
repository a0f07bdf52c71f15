"""Orders in which the examples of a class come together: how labels of a test stream depend on time.

Each takes labels (N,), a concentration and a generator, and returns a permutation of 0, ..., N - 1. The examples of a
class keep their order. With concentration 0 the classes come one after the other, in random order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

Labels = NDArray[np.int64]
_MAX_SLOTS = 100
_FEWEST = 10
"""Examples that a chunk of `balanced_chunks` has at least, or half of its fair share of small data."""
_ATTEMPTS = 1000


def slots(labels: Labels, delta: float, random: RandomState) -> Labels:
    """Every class is cut into min(C, 100) slots in proportions ~ Dirichlet(delta); the slots come one after the other.

    Yuan, Xie, Li, "Robust Test-Time Adaptation in Dynamic Scenarios", CVPR 2023. https://arxiv.org/abs/2303.13899
    """
    classes = _by_class(labels)
    if delta == 0:
        return _in_turn([[members] for members in classes], random)
    num_slots = min(len(classes), _MAX_SLOTS)
    pieces = [_cut(members, dirichlet(delta, num_slots, random)) for members in classes]
    return _in_turn(pieces, random)


def balanced_chunks(labels: Labels, delta: float, random: RandomState) -> Labels:
    """As `slots` with one chunk per class, where a class gives nothing to a chunk that has its fair share already.

    Gong et al., "NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation", NeurIPS 2022.
    https://arxiv.org/abs/2208.05117

    Differs from the authors' code: drawn anew at most 1000 times, and chunks of data with fewer than 20 examples per
    class need half of their fair share, not 10.

    Raises:
        ValueError: some chunk stays nearly empty.
    """
    classes = _by_class(labels)
    if delta == 0:
        return _in_turn([[members] for members in classes], random)
    fair = len(labels) / len(classes)
    for _ in range(_ATTEMPTS):
        pieces, sizes = [], np.zeros(len(classes))
        for members in classes:
            pieces.append(_cut(members, dirichlet(delta, len(classes), random, sizes < fair)))
            sizes += [len(piece) for piece in pieces[-1]]
        if sizes.min() >= min(_FEWEST, fair / 2):
            return _in_turn(pieces, random)
    raise ValueError(
        f"stream.delta={delta} leaves some chunk of {len(labels)} examples of {len(classes)} classes nearly empty. "
        "Raise it, or set stream.order=rotta."
    )


def dirichlet(
    delta: float, num: int, random: RandomState, is_open: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """One draw of the symmetric Dirichlet distribution, (num,), given that those that are not open get nothing."""
    # Gamma(delta) = Gamma(delta + 1) U^(1 / delta), in logarithms: the draws themselves vanish for small delta.
    log_gamma = np.log(random.standard_gamma(delta + 1, num)) + np.log1p(-random.uniform(size=num)) / delta
    if is_open is not None:
        log_gamma[~is_open] = -np.inf
    share = np.exp(log_gamma - log_gamma.max())
    return share / share.sum()


def _by_class(labels: Labels) -> list[Labels]:
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _cut(members: Labels, share: NDArray[np.float64]) -> list[Labels]:
    # Slightly more, lest rounding errors give the last one to a slot without any share.
    return np.split(members, (np.cumsum(share)[:-1] * len(members) + 1e-9).astype(int))


def _in_turn(pieces: list[list[Labels]], random: RandomState) -> Labels:
    """Slot by slot, and within a slot the classes' pieces in random order."""
    order = [pieces[k][slot] for slot in range(len(pieces[0])) for k in random.permutation(len(pieces))]
    return np.concatenate(order)


ORDERS: dict[str, Callable[[Labels, float, RandomState], Labels]] = {"rotta": slots, "note": balanced_chunks}
"""By the method for which it was made."""
