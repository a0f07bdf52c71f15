"""Pseudo-label: learn online from the model's own labels, where it is confident of them.

Lee. Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks. ICML Workshop on
Challenges in Representation Learning, 2013. As an online adapter: Iwasawa, Matsuo. Test-Time Classifier Adjustment
Module for Model-Agnostic Domain Generalization. NeurIPS 2021. https://openreview.net/forum?id=e_yvNqkJKAW

`scope=all` is PseudoLabel and `scope=classifier` PLClf of the latter's code; `featurizer` is the remaining part.
Batch norms keep the source's statistics. The optimizer is Adam with the weight decay of training.

Differs from the authors' code: where no example is confident, nothing is updated, instead of a step of Adam on
gradients of 0, which moves the weights by momentum and weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, fixed, hparam
from dgbench.registry import UnknownName

from ._parts import SCOPES, adam, check_updates, trainable_parameters


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of pseudo-labelling."""

    lr_factor: float = hparam(1.0, choices(0.1, 1.0, 10.0), "Adam's learning rate in units of training's, alpha")
    num_updates: int = hparam(1, choices(1, 3), "updates per batch, gamma")
    threshold: float = hparam(0.9, fixed(0.9), "probability above which a label is learned from, beta")
    scope: str = hparam("all", fixed("all"), "what is updated: all, classifier or featurizer")

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise UnknownName("adapter.scope", self.scope, SCOPES)
        check_updates(self.num_updates)


class PseudoLabel(Adapter):
    """Minimise the mean of `-log p[argmax p]` over examples with `max p > beta`, `p = softmax(f(x))`."""

    HParams = HParams
    needs = Needs()
    baseline = Baseline("source", {"lr_factor": 0.0})

    def prepare(self, source: Source | None) -> None:
        if self.hp.scope != "all" and not self.algorithm.composite:
            raise ValueError(
                f"adapter.scope={self.hp.scope} needs predictions that are made from features, which those of "
                f"{type(self.algorithm).__name__} are not. Use scope=all."
            )
        weights = trainable_parameters(self.algorithm, self.hp.scope, "Use adapter.scope=all.")
        self.optimizer = adam(self.algorithm, weights, self.hp.lr_factor)

    def adapt(self, x: Tensor) -> Tensor:
        for _ in range(self.hp.num_updates):
            logits = self.logits(x)  # (N, C)
            confidence, labels = logits.detach().softmax(1).max(1)  # (N,), (N,)
            nll = F.cross_entropy(logits, labels, reduction="none")  # (N,)
            # The mean over nothing is NaN, on which `descend` does nothing.
            self.descend(nll[confidence > self.hp.threshold].mean(), self.optimizer)
        return logits
