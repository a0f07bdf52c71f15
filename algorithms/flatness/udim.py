"""UDIM: flat minima that stay so on an unknown domain, made by shifting the inputs to where the loss is high.

Shin, Bae, Na, Kim, Moon. Unknown Domain Inconsistency Minimization for Domain Generalization. ICLR 2024.
https://arxiv.org/abs/2403.07329

Stage A, the first num_steps / k steps, is `sam`. Stage B returns to its best evaluation, weights and optimizer state
(to where stage A ended, if it had none: evaluate several times in it), and adds the inconsistency: how otherwise the
examples' gradients in the head vary on shifted inputs, and how large they are there. Where num_steps is None, all
steps are stage B's. With lambda = 0, each of them is a step of `sam`, bit for bit.

Normalised inputs are shifted once, up the gradient of `L + rho * |dL/dw|`, and not clamped to the range of images:
`form=batch` divides each entry of that gradient by its norm over the batch, as the authors' code with this eta does.
`form=example` divides each example's by its own norm: eta is the length of the shift.
`form=style` moves the mean and standard deviation of each channel of each image, by eta times their gradient.

Each row of the batch has an inconsistency of its own: each domain, or a pooled batch as a whole. Source and shifted
inputs pass as one batch, which batch normalisation notices; its running statistics see one clean pass per step.

Differs from the paper: also regression, by the gradients of the squared error in the task's inner scale.
Differs from the authors' code: it loses the running statistics, so that its predictions depend on the rest of the test
batch; its images are built before their style moves, and so never shifted; and it passes domain after domain.
Ours: the search distributions, around the values of the authors' code, and for rho that of `sam`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithm import Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, choices, fixed, hparam
from dgbench.network import Network
from dgbench.registry import UnknownName
from dgbench.task import Task

from ..gradient._per_sample import head_gradients, residuals
from ._perturbation import Gradients, SharpnessAware, frozen_buffers, gradients, perturbed, rewound_randomness
from ._unknown_domain import mean_squares, style_part, unit, variance_gap

FORMS = ("batch", "example", "style")


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of UDIM."""

    form: str = hparam("batch", fixed("batch"), "batch, example or style: how inputs are shifted")
    rho: float = hparam(
        0.05, choices(0.01, 0.02, 0.05, 0.1), "radius of the neighbourhood, in the norm of all weights", key="udim_rho"
    )
    input_step: float = hparam(10.0, choices(0.1, 1.0, 10.0), "size of the inputs' shift, eta", key="udim_input_step")
    penalty_weight: float = hparam(
        1.0, choices(0.1, 0.5, 1.0), "weight of the inconsistency, lambda", key="udim_lambda"
    )
    warm_up_ratio: int = hparam(5, choices(3, 5), "steps of the run per step of stage A, k", key="udim_warm_up_ratio")

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownName("form (algorithm.form)", self.form, FORMS)
        if self.warm_up_ratio <= 1:
            raise ValueError(
                f"algorithm.warm_up_ratio={self.warm_up_ratio}, expected at least 2, or stage B never begins."
            )


class UDIM(SharpnessAware):
    """Minimise `L(w + rho * g / |g|) + lambda * sum_d(V_d + M_d)`, g = dL/dw held constant.

    `L` is the mean loss. Of the examples' gradients in the head, (P,), `V_d` () is the mean of `((v_s - v_u) / 2)**2`,
    where v_s and v_u (P,) are the variances around the source inputs' mean of source and shifted inputs; `M_d` () is
    the mean square on shifted inputs in the head's weight, plus that in its bias.
    """

    HParams = HParams
    cost = 6.1
    needs = Needs(evaluation=True)

    best_score: Tensor

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        if hp.form == "style" and len(network.input_shape) != 3:
            raise ValueError(
                f"UDIM with algorithm.form=style shifts the channels of images (C, H, W), got inputs of "
                f"{network.input_shape}. Use form batch or example."
            )
        self.register_buffer("best_score", torch.tensor(-math.inf))

    @property
    def switch(self) -> int:
        """The first step of stage B."""
        return math.ceil((self.optim.num_steps or 0) / self.hp.warm_up_ratio)

    def on_evaluation(self, value: float) -> None:
        score = self.best_score.new_tensor(value)
        if self.step <= self.switch and score > self.best_score:
            self.best_score.copy_(score)
            self.keep_best()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self.step < self.switch:
            return super().training_step(batch, batch_idx)
        if 0 < self.step == self.switch:
            self.restore_best()
        weights, weight = self.trainable(), self.hp.penalty_weight
        with rewound_randomness(weights):
            here, grads, shift = self.unknown_domain(batch)
        with perturbed(weights, self.perturbation(grads)), frozen_buffers(self):
            nearby = self.loss(batch)["loss"]  # ()
            nearby_grads = gradients(nearby, weights)
        with frozen_buffers(self):
            gap, size = self.inconsistency(batch, shift)  # (), ()
            penalty_grads = gradients(gap + size, weights)
        self.apply_gradients(
            [
                None if g is None or p is None else g + weight * p
                for g, p in zip(nearby_grads, penalty_grads, strict=True)
            ]
        )
        values = {"loss": nearby + weight * (gap + size), "sharpness": nearby - here, "gap": gap, "size": size}
        return {name: value.detach() for name, value in values.items()}

    def unknown_domain(self, batch: Batch) -> tuple[Tensor, Gradients, Tensor]:
        """The mean loss (), its gradients, and the shift of the normalised inputs, (D*B, *input_shape)."""
        x = batch.x.flatten(0, 1)
        shift = torch.zeros_like(x, requires_grad=True)
        loss = self.task.loss(self.network(x, {"normalise": lambda z: z + shift}), batch.y.flatten(0, 1))  # ()
        grads = torch.autograd.grad(loss, self.trainable(), create_graph=True, allow_unused=True)
        norm = torch.stack([g.norm() for g in grads if g is not None]).norm()  # ()
        (uphill,) = torch.autograd.grad(loss + self.hp.rho * norm, shift)
        if self.hp.form == "style":
            direction = style_part(self.network.normalise(x), uphill)
        else:
            direction = unit(uphill, over=[0] if self.hp.form == "batch" else list(range(1, x.ndim)))
        return loss.detach(), [None if g is None else g.detach() for g in grads], self.hp.input_step * direction

    def inconsistency(self, batch: Batch, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Gap between the gradients' variances (), and their size on shifted inputs (), summed over the domains."""
        D, B = batch.x.shape[:2]
        x, shifts = batch.x.flatten(0, 1), torch.cat([torch.zeros_like(shift), shift])
        features = self.network.features(torch.cat([x, x]), {"normalise": lambda z: z + shifts})
        features = features.unflatten(0, (2, D, B))  # (2, D, B, F)
        residual = residuals(self.task, self.network.head(features), batch.y)  # (2, D, B, C)
        source, unknown = head_gradients(features, residual)  # (D, B, P) each
        return variance_gap(source, unknown).sum(), mean_squares(unknown, residual.shape[-1]).sum()
