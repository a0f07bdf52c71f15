"""RSC: representation self-challenging, training without the features that speak most for the right class.

Huang, Wang, Xing, Huang. Self-Challenging Improves Cross-Domain Generalization. ECCV 2020.
https://arxiv.org/abs/2007.02454

The head is linear, so that the gradient of the right class's logit in the features is that class's row of its weights:
all examples of a class lose the same features. A percentile is numpy's, interpolated linearly between ranks, and
what equals it counts as above: a share of 0 still drops the largest.

Differs from the paper (as DomainBed does): pooled features are dropped, instead of positions and channels of the last
feature map in turn.
Differs from DomainBed: a task with one logit `z` is read as logits `(-z, z)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, uniform


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of RSC."""

    feature_share: float = hparam(
        1 / 3, uniform(0, 0.5), "share of an example's features that is dropped, p", key="rsc_f_drop_factor"
    )
    batch_share: float = hparam(
        1 / 3,
        uniform(0, 0.5),
        "share of the batch that loses them: where the right class's probability falls most",
        key="rsc_b_drop_factor",
    )

    def __post_init__(self) -> None:
        for name in ("feature_share", "batch_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"algorithm.{name}={value}, expected a share from 0 to 1.")


class RSC(Algorithm):
    """Minimise `mean(loss(head(features * mask), y))`, features and mask (D*B, F).

    The mask is 0 at the features with the largest gradients, in the examples that miss them most.
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(tasks=("classification",))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        y = batch.y.flatten()  # (D*B,)
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        mask = self.mask(features.detach(), y)  # (D*B, F)
        return {"loss": self.task.loss(self.network.head(features * mask), y)}

    @torch.no_grad()
    def mask(self, features: Tensor, y: Tensor) -> Tensor:
        """Which features are kept, (N, F) bool.

        Args:
            features: what the head reads, (N, F).
            y: the right classes, (N,).
        """
        head = self.network.head
        rows = torch.cat([-head.weight, head.weight]) if self.task.single_logit else head.weight  # (classes, F)
        is_kept = ~is_top(rows[y], self.hp.feature_share)  # (N, F)
        # The probability of the right class is exp(-cross-entropy).
        whole = torch.exp(-self.task.losses(head(features), y))  # (N,)
        muted = torch.exp(-self.task.losses(head(features * is_kept), y))  # (N,)
        is_challenged = is_top(whole - muted, self.hp.batch_share)  # (N,)
        return is_kept | ~is_challenged.unsqueeze(1)


def is_top(values: Tensor, share: float) -> Tensor:
    """Whether a value is in the largest `share` along the last axis, at or above that percentile.

    >>> is_top(torch.tensor([0.5, 0.1, 0.4, 0.2]), share=0.5)
    tensor([ True, False,  True, False])
    """
    return ~(values < percentile(values, 100 * (1 - share)).unsqueeze(-1))


def percentile(values: Tensor, percent: float) -> Tensor:
    """The percentile along the last axis, interpolated linearly as `numpy.percentile` does.

    Unlike `torch.quantile` it has no limit on the number of values.

    Args:
        values: (..., N).
        percent: in [0, 100].

    >>> percentile(torch.tensor([4.0, 1.0, 2.0]), 75)
    tensor(3.)
    """
    ordered = values.sort(-1).values
    rank = percent / 100 * (values.shape[-1] - 1)
    below, above = ordered[..., math.floor(rank)], ordered[..., math.ceil(rank)]
    part = rank - math.floor(rank)
    # From the nearer end, as numpy does: torch.lerp rounds otherwise, and what ties with a percentile is dropped.
    return below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part)
