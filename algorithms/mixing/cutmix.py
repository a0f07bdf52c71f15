"""CutMix: train on images with a box pasted from another, the targets mixed by its area.

Yun, Han, Oh, Chun, Choe, Yoo. CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
Features. ICCV 2019. https://arxiv.org/abs/1905.04899

One box and one permutation per batch; the batch is that of all training domains. As in the authors' code, a box
reaches from its centre, a pixel, half of floor(size * sqrt(1 - lambda)) pixels each way, that half rounded down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, choices, fixed, hparam
from dgbench.network import Network
from dgbench.task import Task

from ._mixing import mix


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of CutMix."""

    prob: float = hparam(1.0, choices(0.5, 1.0), "probability that a batch gets a box, p", key="cutmix_prob")
    alpha: float = hparam(1.0, fixed(1.0), "lambda is drawn from Beta(alpha, alpha)", key="cutmix_alpha")

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise ValueError(f"algorithm.prob={self.prob}, expected a probability from 0 to 1.")
        if self.alpha <= 0:
            raise ValueError(f"algorithm.alpha={self.alpha}, expected above 0.")


class CutMix(Algorithm):
    """Minimise `l * R(y) + (1 - l) * R(y')` at images of which a share `1 - l` of the pixels is the partners'.

    `R(y)` () is the mean loss against targets y; the partners, of targets y', are the permuted batch.
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(tasks=("classification",))

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        if len(network.input_shape) != 3:
            raise ValueError(
                f"CutMix pastes boxes of images, but inputs have shape {network.input_shape}, expected (C, H, W). "
                "Use manifold_mixup, which mixes vectors too."
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x, y = batch.x.flatten(0, 1), batch.y.flatten(0, 1)  # (D*B, ...)
        partner = torch.randperm(len(x)).to(x.device)  # (D*B,)
        is_pasted, share = self.box(*x.shape[-2:])  # (H, W), ()
        outputs = self.network(torch.where(is_pasted.to(x.device), x[partner], x))  # (D*B, C)
        return {"loss": mix(self.task.loss(outputs, y), self.task.loss(outputs, y[partner]), share)}

    def box(self, H: int, W: int) -> tuple[Tensor, Tensor]:
        """Which pixels are pasted, (H, W) bool, and the share of those that are not, ()."""
        side = (1 - Beta(self.hp.alpha, self.hp.alpha).sample()).sqrt()  # (), of an edge of the image
        is_pasted = span(H, side).unsqueeze(1) & span(W, side)  # (H, W)
        is_pasted &= torch.rand(()) < self.hp.prob
        return is_pasted, 1 - is_pasted.double().mean()


def span(size: int, side: Tensor) -> Tensor:
    """Which of `size` places lie in an interval of a share `side` () of them around a random centre, (size,) bool."""
    half, centre = (size * side).long() // 2, torch.randint(size, ())
    places = torch.arange(size)
    return (centre - half <= places) & (places < centre + half)
