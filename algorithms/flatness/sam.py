"""SAM: sharpness-aware minimisation, the gradient taken at the worst weights nearby.

Foret, Kleiner, Mobahi, Neyshabur. Sharpness-Aware Minimization for Efficiently Improving Generalization.
ICLR 2021, eqs. 2 and 3 with p = 2. https://arxiv.org/abs/2010.01412

The first pass alone moves the running statistics of batch normalisation, and both passes see the same dropout
masks: with rho = 0 the method is ERM, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch
from dgbench.hparams import choices, hparam

from ._perturbation import ascent, frozen_buffers, gradients, perturbed, rewound_randomness


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of SAM."""

    rho: float = hparam(
        0.05,
        choices(0.01, 0.02, 0.05, 0.1),
        "radius of the neighbourhood, in the norm of all weights",
        key="rho",
    )


class SAM(Algorithm):
    """Minimise `L(w + rho * g / |g|)`, g = dL/dw held constant, where `L` is the mean loss."""

    HParams = HParams
    automatic_optimization = False

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        return {"loss": self.task.loss(outputs.flatten(0, 1), batch.y.flatten(0, 1))}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        weights = self.trainable()
        with rewound_randomness(weights):
            here = self.loss(batch)["loss"]  # ()
            grads = gradients(here, weights)
        with perturbed(weights, ascent(grads, self.hp.rho)), frozen_buffers(self):
            nearby = self.loss(batch)["loss"]  # ()
            grads = gradients(nearby, weights)
        self.apply_gradients(grads)
        return {"loss": nearby.detach(), "sharpness": (nearby - here).detach()}
