"""SHOT-IM: features of which the trained classifier is certain, on classes that are all in use.

Liang, Hu, Feng. Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain
Adaptation. ICML 2020. https://arxiv.org/abs/2002.08546. As an online adapter: Iwasawa, Matsuo. Test-Time Classifier
Adjustment Module for Model-Agnostic Domain Generalization. NeurIPS 2021. https://openreview.net/forum?id=e_yvNqkJKAW

Batch norms keep the source's statistics. The optimizer is Adam with the weight decay of training.

Differs from the paper: online, a few updates per batch, instead of epochs over all of the test domain, and without
pseudo-labels.
Differs from the authors' code: a batch of one example updates nothing. Its objective is 0 but for the constant in
the logarithm, and Adam would scale the gradient of that constant up to a full step.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, hparam

from ._norms import entropy
from ._parts import adam, check_updates, trainable_parameters


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of SHOT-IM."""

    lr_factor: float = hparam(1.0, choices(0.1, 1.0, 10.0), "Adam's learning rate in units of training's, alpha")
    num_updates: int = hparam(1, choices(1, 3), "updates per batch, gamma")

    def __post_init__(self) -> None:
        check_updates(self.num_updates)


class SHOTIM(Adapter):
    """Minimise `mean(H(p)) - H(mean(p))` over the featurizer, `p = softmax(f(x))` (N, C)."""

    HParams = HParams
    needs = Needs(composite=True)
    baseline = Baseline("source", {"lr_factor": 0.0})

    def prepare(self, source: Source | None) -> None:
        weights = trainable_parameters(self.algorithm, "featurizer", "Adapt a model of a network with stages.")
        self.optimizer = adam(self.algorithm, weights, self.hp.lr_factor)

    def adapt(self, x: Tensor) -> Tensor:
        for _ in range(self.hp.num_updates):
            logits = self.logits(x)  # (N, C)
            if len(x) > 1:
                self.descend(negative_information(logits), self.optimizer)
        return logits


def negative_information(logits: Tensor) -> Tensor:
    """Minus the mutual information of inputs and predicted classes in nats, ().

    >>> negative_information(Tensor([[0.9, 0.1], [0.2, 0.8]]).log())
    tensor(-0.2754)
    """
    marginal = logits.softmax(1).mean(0)  # (C,)
    return entropy(logits).mean() + (marginal * (marginal + 1e-5).log()).sum()
