"""MEMO: for each image alone, one step that makes the mean prediction over its augmented copies certain.

Zhang, Levine, Finn. MEMO: Test Time Robustness via Adaptation and Augmentation. NeurIPS 2022.
https://arxiv.org/abs/2110.09506

Every image starts from the source's weights, so nothing is remembered, and `predict` is the source model with the prior
in its batch norms. An image costs as many forward passes as it has copies and one, and a backward pass.

Differs from the authors' code: the copies are made on float tensors, with magnitudes that are not rounded, affine maps
about the centre and grey beyond the edge; images of all sizes are shifted as those of CIFAR are, where the authors crop
and resize those of ImageNet; the optimizer is plain SGD throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, fixed, hparam

from ._augment import check_copies
from ._augmix import augmix
from ._norms import replace_batch_norms
from ._parts import parameters_of


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of MEMO."""

    lr: float = hparam(5e-3, choices(2.5e-4, 1e-3, 5e-3), "learning rate of the one step")
    num_augmentations: int = hparam(32, choices(32, 64), "augmented copies of an image, B")
    prior: float = hparam(16.0, fixed(16.0), "examples that the source's statistics count for in batch norms, N")

    def __post_init__(self) -> None:
        if self.prior < 0:
            raise ValueError(f"adapter.prior={self.prior:g}, expected a number of examples. Set it to 0 or more.")
        check_copies(self.num_augmentations)


class MEMO(Adapter):
    """Answer `f(x; theta - lr * grad H(mean_b softmax(f(x_b; theta))))`, x_b augmented copies of x."""

    HParams = HParams
    needs = Needs(images=True)
    answers = "after"
    baseline = Baseline("source", {"lr": 0.0, "prior": 1e12})

    def prepare(self, source: Source | None) -> None:
        replace_batch_norms(self.algorithm, partial(source_share, self.hp.prior))
        for weight in parameters_of(self.algorithm, "all"):
            weight.requires_grad_()

    def adapt(self, x: Tensor) -> Tensor:
        return torch.cat([self.alone(image) for image in x])

    def alone(self, image: Tensor) -> Tensor:
        """The answer to one image (C, H, W) after a step of its own, (1, C)."""
        weights = {name: p for name, p in self.algorithm.named_parameters() if p.requires_grad}
        loss = marginal_entropy(self.logits(augmix(image, self.hp.num_augmentations)))
        grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            stepped = {
                name: torch.where(loss.isfinite(), weight - self.hp.lr * grad, weight)
                for (name, weight), grad in zip(weights.items(), grads, strict=True)
            }
            return self.two_classes(functional_call(self.algorithm, stepped, (image.unsqueeze(0),)))


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean softmax over copies, in nats, (); logits are (B, C).

    >>> round(float(marginal_entropy(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log())), 4)
    0.6109
    """
    log_mean = F.log_softmax(logits, 1).logsumexp(0) - math.log(len(logits))  # (C,)
    return -(log_mean.exp() * log_mean).sum()


def source_share(prior: float, num_copies: int) -> float:
    """The source's share, N / (N + 1): copies of one image are one example.

    >>> round(source_share(16, num_copies=32), 4)
    0.9412
    """
    return prior / (prior + 1)
