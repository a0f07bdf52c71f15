"""T3A: the linear classifier becomes the mean direction of the most certain features of each class.

Iwasawa, Matsuo. Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization. NeurIPS 2021.
https://openreview.net/forum?id=e_yvNqkJKAW

Supports are the rows of the trained classifier's weight, each labelled by the classifier itself, and the features of
the stream with the labels that it predicts. A batch joins the supports before it is answered. A class that is nobody's
label has score 0.

Differs from the authors' code: `num_supports=-1` keeps all supports, where the code drops the least certain one of
each class in every step. A single logit w z + b counts as the logits +-(w z + b) / 2 of two classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgbench.adapter import Adapter, Needs, Source
from dgbench.hparams import choices, hparam

from ._norms import entropy
from ._parts import parameters_of


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of T3A."""

    num_supports: int = hparam(
        100, choices(1, 5, 20, 50, 100, -1), "supports of lowest entropy that each class keeps, K; -1: all"
    )

    def __post_init__(self) -> None:
        if self.num_supports < 1 and self.num_supports != -1:
            raise ValueError(f"adapter.num_supports={self.num_supports}, expected at least 1, or -1 for all.")


class T3A(Adapter):
    """Answer `z @ P`, z (N, F) the features, P (F, C) the normalised sums of each class's normalised supports."""

    HParams = HParams
    needs = Needs(composite=True)
    answers = "after"

    supports: Tensor
    labels: Tensor
    entropies: Tensor

    def prepare(self, source: Source | None) -> None:
        weight = self.classifier_weight()  # (C, F)
        logits = self.two_classes(self.algorithm.classify(weight))  # (C, C)
        self.register_buffer("supports", weight.clone())  # (S, F)
        self.register_buffer("labels", logits.argmax(1))  # (S,)
        self.register_buffer("entropies", entropy(logits))  # (S,)

    def adapt(self, x: Tensor) -> Tensor:
        features = self.algorithm.features(x)  # (N, F)
        logits = self.two_classes(self.algorithm.classify(features))  # (N, C)
        self.remember(features, logits.argmax(1), entropy(logits))
        return features @ self.prototypes()

    def answer(self, x: Tensor) -> Tensor:
        return self.algorithm.features(x) @ self.prototypes()

    def remember(self, features: Tensor, labels: Tensor, entropies: Tensor) -> None:
        """Take a batch (N, F) into the supports, and keep those of lowest entropy.

        What has no finite length or entropy has no direction, and would be the most certain of all.
        """
        is_sound = features.norm(dim=1).isfinite() & entropies.isfinite()  # (N,)
        features, labels, entropies = features[is_sound], labels[is_sound], entropies[is_sound]
        supports = torch.cat([self.supports, features])
        labels, entropies = torch.cat([self.labels, labels]), torch.cat([self.entropies, entropies])
        if self.hp.num_supports != -1:
            kept = rank_within_class(labels, entropies, self.num_classes) <= self.hp.num_supports  # (S,)
            supports, labels, entropies = supports[kept], labels[kept], entropies[kept]
        self.supports, self.labels, self.entropies = supports, labels, entropies

    def prototypes(self) -> Tensor:
        """The classifier that the supports make, without bias, (F, C)."""
        one_hot = F.one_hot(self.labels, self.num_classes).to(self.supports)  # (S, C)
        return F.normalize(F.normalize(self.supports, dim=1).T @ one_hot, dim=0)

    @property
    def num_classes(self) -> int:
        """C, 2 also where the task has a single logit."""
        return self.task.num_classes

    def classifier_weight(self) -> Tensor:
        """Of the trained linear classifier, a row per class, (C, F).

        Raises:
            ValueError: predictions are not one linear layer of the features.
        """
        weights = parameters_of(self.algorithm, "classifier")
        # Normal features: at 0, or at one example, other classifiers may be linear too.
        probe = torch.randn(16, self.algorithm.network.feature_dim).to(self.algorithm.network.normalise.mean)
        shapes = [tuple(w.shape) for w in weights]
        C, width = self.task.num_outputs, probe.shape[1]
        is_linear = shapes in ([(C, width)], [(C, width), (C,)])
        if not is_linear or not torch.allclose(self.algorithm.classify(probe), F.linear(probe, *weights), atol=1e-4):
            raise ValueError(
                f"T3A needs predictions that are one linear layer of the features, which those of "
                f"{type(self.algorithm).__name__} are not. Adapt a model of another method."
            )
        weight = weights[0].detach()
        return torch.cat([-weight, weight]) / 2 if self.task.single_logit else weight


def rank_within_class(labels: Tensor, entropies: Tensor, num_classes: int) -> Tensor:
    """How many supports of its class are at most as uncertain as each support, itself among them, (S,).

    Of equal ones the earlier counts as the more certain.

    >>> rank_within_class(torch.tensor([0, 0, 1, 0]), torch.tensor([0.3, 0.1, 0.5, 0.3]), 2)
    tensor([2, 1, 1, 3])
    """
    order = entropies.argsort(stable=True)  # (S,)
    counts = F.one_hot(labels[order], num_classes).cumsum(0)  # (S, C)
    ranks = torch.empty_like(labels)
    ranks[order] = counts.gather(1, labels[order].unsqueeze(1)).squeeze(1)
    return ranks
