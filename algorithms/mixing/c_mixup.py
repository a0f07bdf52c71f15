"""C-Mixup: mixup for regression, in which examples with close targets are mixed more often.

Yao, Wang, Zhang, Zou, Finn. C-Mixup: Improving Generalization in Regression. NeurIPS 2022.
https://arxiv.org/abs/2210.05775

The protocol draws the anchors. Each gets a partner, with replacement and itself included, from all training domains.
`sampler=dataset` looks at the targets of all N training examples: O(D * B * N) time per step for D * B anchors, in
blocks of anchors, so that memory is O(N) and no N x N matrix is held. `sampler=batch` looks at those of the anchors
and of as many examples drawn uniformly: O((D * B)^2) time and memory.
`mixes=manifold` mixes after a stage, so the stages up to it see anchors and partners, twice the batch.

Differs from the paper: the anchors are the protocol's. The stage is the first unless named, where the paper chooses it
for each network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, choices, fixed, hparam, log10_uniform
from dgbench.network import Network
from dgbench.registry import UnknownName
from dgbench.task import Task

from ._mixing import mix, place

CHOICES = {"sampler": ("dataset", "batch"), "mixes": ("input", "manifold"), "lambda_per": ("batch", "example")}
MOST = 2**20  # entries of a block of probabilities: 8 MiB


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of C-Mixup."""

    bandwidth: float = hparam(
        1.0, log10_uniform(-2, 2), "bandwidth of the kernel, h, in the targets' units", key="c_mixup_bandwidth"
    )
    alpha: float = hparam(
        2.0, choices(0.5, 1.0, 1.5, 2.0), "lambda is drawn from Beta(alpha, alpha)", key="c_mixup_alpha"
    )
    sampler: str = hparam(
        "dataset", choices(*CHOICES["sampler"]), "where partners come from: dataset or batch", key="c_mixup_sampler"
    )
    mixes: str = hparam(
        "input", choices(*CHOICES["mixes"]), "what is mixed: input or manifold (hidden states)", key="c_mixup_mixes"
    )
    stage: str | None = hparam(
        None, fixed(None), "after which stage mixes=manifold mixes; null: the first (the input where there is none)"
    )
    lambda_per: str = hparam("batch", fixed("batch"), "one lambda per batch or per example")

    def __post_init__(self) -> None:
        for name in ("bandwidth", "alpha"):
            if getattr(self, name) <= 0:
                raise ValueError(f"algorithm.{name}={getattr(self, name)}, expected above 0.")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UnknownName(f"value of algorithm.{name}", getattr(self, name), known)


class CMixup(Algorithm):
    """Minimise `mean(|f(l x + (1 - l) x') - (l y + (1 - l) y')|^2)` over anchors (x, y) and partners (x', y').

    Partners are drawn in proportion to `exp(-|y - y'|^2 / (2 h^2))`, `l` ~ Beta(alpha, alpha).
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(tasks=("regression",))

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        first = network.stages[0] if network.stages else "input"
        self.place = place(network, "input" if hp.mixes == "input" else hp.stage or first)

    def make_sampler(self, targets: Tensor, domains: Tensor) -> Partners:
        return Partners(targets.double(), self.hp.bandwidth, self.hp.sampler)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        (x, other_x), (y, other_y) = halves(batch.x), halves(batch.y)  # (D*B, ...)
        share = Beta(self.hp.alpha, self.hp.alpha).sample(() if self.hp.lambda_per == "batch" else (len(y),))

        def mixed(hidden: Tensor) -> Tensor:
            anchors, partners = hidden.chunk(2)
            return mix(anchors, partners, share)

        outputs = self.network(torch.cat([x, other_x]), {self.place: mixed})  # (D*B, C)
        # The scale of targets is affine: mixed in original units, they are mixed in the inner scale.
        return {"loss": self.task.loss(outputs, mix(y, other_y, share))}


@dataclass(frozen=True)
class Partners:
    """Anchors and, beside them, their partners.

    Args:
        targets: of all training examples in original units, (N, C) float64.
        bandwidth: h.
        sampler: `dataset` or `batch`.
    """

    targets: Tensor
    bandwidth: float
    sampler: str

    def __call__(self, anchors: Tensor, generator: torch.Generator) -> Tensor:
        """Indices (D, 2*B): the anchors (D, B), then a partner of each in the same order."""
        chosen, N = anchors.flatten(), len(self.targets)  # (D*B,)
        pool = torch.arange(N)
        if self.sampler == "batch":
            pool = torch.cat([chosen, torch.randint(N, chosen.shape, generator=generator)])  # (2*D*B,)
        u = torch.rand(len(chosen), dtype=torch.float64, generator=generator)
        candidates, rows = self.targets[pool], max(1, MOST // len(pool))
        drawn = [
            inverse_cdf(partner_probabilities(block, candidates, self.bandwidth), part)
            for block, part in zip(self.targets[chosen].split(rows), u.split(rows), strict=True)
        ]
        return torch.cat([anchors, pool[torch.cat(drawn)].view(anchors.shape)], dim=1)


def partner_probabilities(anchors: Tensor, candidates: Tensor, bandwidth: float) -> Tensor:
    """`exp(-|y_i - y_j|^2 / (2 h^2))`, normalised over the candidates j of each anchor i, (A, K).

    Args:
        anchors: targets of the anchors, (A, C).
        candidates: targets of the candidates, (K, C).
        bandwidth: h.

    >>> partner_probabilities(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0], [2.0]]), bandwidth=1.0)
    tensor([[0.5741, 0.3482, 0.0777]])
    """
    # Not by matrix products, which would lose the small distances between large targets.
    distance = torch.cdist(anchors, candidates, compute_mode="donot_use_mm_for_euclid_dist")  # (A, K)
    return (-0.5 * (distance / bandwidth).square()).softmax(1)


def inverse_cdf(probabilities: Tensor, u: Tensor) -> Tensor:
    """The index at which the cumulated probabilities of each row exceed `u`, (A,).

    Args:
        probabilities: (A, K).
        u: uniform in [0, 1), (A,).
    """
    cumulated = probabilities.cumsum(1)
    return torch.searchsorted(cumulated, u.unsqueeze(1) * cumulated[:, -1:], right=True).squeeze(1)


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors and partners, (D*B, ...) each, of rows (D, 2*B, ...).

    Raises:
        ValueError: the rows are of odd length.
    """
    if rows.shape[1] % 2:
        raise ValueError(
            f"C-Mixup got rows of {rows.shape[1]} examples, expected an even number: anchors, then as many partners. "
            "Draw them with make_sampler."
        )
    anchors, partners = rows.chunk(2, dim=1)  # (D, B, ...)
    return anchors.flatten(0, 1), partners.flatten(0, 1)
