"""LAME: move the predictions of a batch towards those of its neighbours in feature space; no weight changes.

Boudiaf, Mueller, Ben Ayed, Bertinetto. Parameter-free Online Test-time Adaptation. CVPR 2022.
https://arxiv.org/abs/2201.05718

An answer depends on its batch, and on no other. Differs from the authors' code: an example that is alone in its batch
is answered by p, and features that coincide give a bandwidth of almost 0, where the code's rbf is NaN; an example is
never among its own neighbours under knn, where the code leaves out the nearest, which among equal features may be
another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Needs
from dgbench.hparams import choices, fixed, hparam
from dgbench.registry import UnknownName

MAX_ITERATIONS = 100
TOLERANCE = 1e-8  # of the energy, relative


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of LAME."""

    affinity: str = hparam("rbf", choices("rbf", "knn", "linear"), "how close two examples are: rbf, knn or linear")
    num_neighbours: int = hparam(
        5, choices(1, 3, 5), "neighbours, k; the k-th nearest, counting the example itself, gives the rbf's bandwidth"
    )
    weight: float = hparam(1.0, fixed(1.0), "weight of the affinities, lambda")
    symmetric: bool = hparam(False, fixed(False), "take the mean of the affinities and of their transpose")

    def __post_init__(self) -> None:
        if self.affinity not in AFFINITIES:
            raise UnknownName("affinity (adapter.affinity)", self.affinity, AFFINITIES)
        if self.num_neighbours < 1:
            raise ValueError(f"adapter.num_neighbours={self.num_neighbours}, expected 1 or more.")
        if self.weight < 0:
            raise ValueError(f"adapter.weight={self.weight:g}, expected 0 or more.")


class LAME(Adapter):
    """Answer `argmin_Y sum(Y * log(Y / p)) - lambda / 2 * sum(Y * (W @ Y))`, p (N, C), affinities W (N, N)."""

    HParams = HParams
    needs = Needs(composite=True)
    output = "probabilities"
    baseline = Baseline("source", {"weight": 0.0})

    def adapt(self, x: Tensor) -> Tensor:
        return self.answer(x)

    def answer(self, x: Tensor) -> Tensor:
        features = self.algorithm.features(x)  # (N, F)
        p = self.two_classes(self.algorithm.classify(features)).softmax(1)  # (N, C)
        if len(x) == 1:
            return p
        W = AFFINITIES[self.hp.affinity](F.normalize(features), self.hp.num_neighbours)  # (N, N)
        W = (W + W.T) / 2 if self.hp.symmetric else W
        return smoothed(p, self.hp.weight * W)


def smoothed(p: Tensor, W: Tensor) -> Tensor:
    """The fixed point of `Y = softmax(log p + W @ Y)` that is reached from p, (N, C).

    Each iteration minimises a bound of the objective, which is tight at the last Y if W is symmetric and positive
    semi-definite.

    Args:
        p: predicted probabilities, (N, C).
        W: weighted affinities, (N, N).
    """
    log_p = (p + 1e-10).log()  # (N, C)
    Y = log_p.softmax(1)
    energy: Tensor | None = None
    for i in range(MAX_ITERATIONS):
        scores = log_p + W @ Y  # (N, C)
        Y = scores.softmax(1)
        last, energy = energy, -scores.logsumexp(1).sum()  # = sum(Y * (log Y - scores))
        if last is not None and i > 1 and bool((energy - last).abs() <= TOLERANCE * last.abs()):
            break
    return Y


def rbf(v: Tensor, k: int) -> Tensor:
    """Affinities `exp(-d^2 / (2 s^2))`, (N, N), s the mean distance to the k-th nearest of (N, F), oneself included."""
    d = distances(v)
    s = d.kthvalue(min(k, len(v)), dim=1).values.mean()  # ()
    return (-d.square() / (2 * s.square()).clamp(min=torch.finfo(d.dtype).tiny)).exp()


def knn(v: Tensor, k: int) -> Tensor:
    """Row i, (N,), is 1 at the k nearest others of example i of (N, F)."""
    d = distances(v).fill_diagonal_(torch.inf)
    nearest = d.topk(min(k, len(v) - 1), dim=1, largest=False).indices
    return torch.zeros_like(d).scatter_(1, nearest, 1.0)


def linear(v: Tensor, k: int) -> Tensor:
    """Inner products of (N, F), (N, N)."""
    return v @ v.T


def distances(v: Tensor) -> Tensor:
    """Euclidean distances between the rows of (N, F), (N, N); of equal rows exactly 0, which matrix products miss."""
    return torch.cdist(v, v, compute_mode="donot_use_mm_for_euclid_dist")


AFFINITIES: dict[str, Callable[[Tensor, int], Tensor]] = {"rbf": rbf, "knn": knn, "linear": linear}
