"""DRM at test time: weigh the heads of a model trained by DRM by how sure each is, and retrain them if asked to.

Zhang, Wang, Liang, Zhang, Yu, Wang, Tao, Xie. Domain-Specific Risk Minimization for Out-of-Distribution
Generalization. KDD 2023. https://arxiv.org/abs/2208.08661

With `beta` above 1, the default, nothing is retrained; `gamma=-1` then answers as the model itself does.

Differs from the authors' code: the weighted mean is over all heads, that of all domains included, so that it sums
to 1; the code counts that head in the normaliser and leaves it out of the sum (`heads=compat`). Entropies are at least
1e-8, where the code divides by 0. The confidence of a pseudo-label is the largest probability of what it is the
argmax of; for uniform and drm the code takes a softmax of these probabilities first. A head without a confident
example is not updated, not even by momentum. Retraining all weights (DRMFull) is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, fixed, hparam
from dgbench.registry import UnknownName

from ..risk.drm import entropy
from ._parts import adam

CHOICES = {"heads": ("all", "domains", "compat"), "labels": ("own", "last", "uniform", "drm")}


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of DRM at test time."""

    gamma: float = hparam(
        1.0,
        choices(-1.0, 0.0, 0.5, 1.0, 5.0),
        "weights are entropy^-gamma; -1 or inf: the surest head alone",
        may_be_infinite=True,
    )
    heads: str = hparam(
        "all",
        fixed("all"),
        "heads that answer: all, domains (without that of all domains), or compat (as domains, normalised as all)",
    )
    beta: float = hparam(
        1.1, choices(0.1, 0.25, 0.75, 1.1), "smallest confidence of a pseudo-label; above 1: no retraining"
    )
    labels: str = hparam(
        "own",
        choices(*CHOICES["labels"]),
        "whose pseudo-labels: own (each head's), last (the head of all domains), uniform (mean of all heads) or drm "
        "(the answer)",
    )
    lr_factor: float = hparam(1.0, choices(0.1, 1.0, 10.0), "Adam's learning rate in units of training's, alpha")
    num_updates: int = hparam(1, choices(1, 3), "updates per batch")

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UnknownName(f"value of adapter.{name}", getattr(self, name), known)
        if not (self.gamma >= 0 or self.gamma == -1):
            raise ValueError(f"adapter.gamma={self.gamma:g}, expected 0 or more, or -1 for the surest head alone.")
        if self.num_updates < 1:
            raise ValueError(f"adapter.num_updates={self.num_updates}, expected 1 or more. beta=1.1 retrains nothing.")


class DRMSelect(Adapter):
    """Answer `sum_e w_e p_e`, `w_e = H(p_e)^-gamma / sum_j H(p_j)^-gamma`, p_e (N, C) the prediction of head e."""

    HParams = HParams
    needs = Needs(method="drm")
    output = "probabilities"
    baseline = Baseline("source", {"gamma": -1.0, "beta": 1.1})

    def prepare(self, source: Source | None) -> None:
        model: Any = self.algorithm
        if self.hp.beta <= 1:
            heads = [*model.domain_heads.parameters(), *model.network.head.parameters()]
            self.optimizer = adam(model, heads, self.hp.lr_factor)

    def adapt(self, x: Tensor) -> Tensor:
        if self.hp.beta > 1:
            return self.answer(x)
        features = self.algorithm.features(x)  # (N, F)
        for _ in range(self.hp.num_updates):
            logits = self.head_logits(features)  # (E + 1, N, C)
            answer = weighted(logits, self.hp.gamma, self.hp.heads)  # (N, C)
            self.retrain(logits, answer)
        return answer

    def answer(self, x: Tensor) -> Tensor:
        return weighted(self.head_logits(self.algorithm.features(x)), self.hp.gamma, self.hp.heads)

    def head_logits(self, features: Tensor) -> Tensor:
        """Logits of all heads, (E + 1, N, C), from features (N, F)."""
        model: Any = self.algorithm
        return self.two_classes(model.head_logits(features))

    def retrain(self, logits: Tensor, answer: Tensor) -> None:
        """One step on the sum over heads of the mean loss of their confident pseudo-labels.

        Args:
            logits: of all heads, (E + 1, N, C).
            answer: to the batch, (N, C).
        """
        p = logits.detach().softmax(-1)  # (E + 1, N, C)
        teacher = {"own": p, "last": p[-1:], "uniform": p.mean(0, keepdim=True), "drm": answer.detach().unsqueeze(0)}
        confidence, label = teacher[self.hp.labels].expand_as(p).max(-1)  # (E + 1, N)
        is_sure = confidence >= self.hp.beta
        risks = [F.cross_entropy(z[s], y[s]) for z, y, s in zip(logits, label, is_sure, strict=True) if bool(s.any())]
        if risks:
            self.descend(torch.stack(risks).sum(), self.optimizer)


def weighted(logits: Tensor, gamma: float, heads: str = "all") -> Tensor:
    """The heads' weighted prediction, (N, C); sums to 1, except for heads=compat.

    Args:
        logits: of all heads, that of all domains last, (E + 1, N, C).
        gamma: power of the entropies; -1 or inf: the surest head alone.
        heads: all, domains or compat.
    """
    logits = logits[:-1] if heads == "domains" else logits
    w = head_weights(entropy(logits), gamma)  # (E + 1, N)
    if heads == "compat" and 0 <= gamma < math.inf:
        w, logits = w[:-1], logits[:-1]
    return (w.unsqueeze(-1) * logits.softmax(-1)).sum(0)


def head_weights(entropies: Tensor, gamma: float) -> Tensor:
    """Weights `H^-gamma` that sum to 1 over the heads, (E, N), from entropies (E, N) in nats.

    >>> head_weights(torch.tensor([[0.2], [0.4]]), gamma=1).flatten()
    tensor([0.6667, 0.3333])
    """
    if gamma < 0 or math.isinf(gamma):
        return F.one_hot(entropies.argmin(0), len(entropies)).T.to(entropies)
    return (-gamma * entropies.clamp(min=1e-8).log()).softmax(0)  # the power itself overflows
