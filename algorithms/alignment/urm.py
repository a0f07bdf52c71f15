"""URM: uniform risk minimization, features that a discriminator cannot tell from uniform noise.

Krishnamachari, Ng, Foo. Uniformly Distributed Feature Representations for Fair and Robust Learning. TMLR 2024.
https://openreview.net/forum?id=PgLbS5yp8n. The objective is the one in DomainBed, which its authors contributed.

Network and discriminator D are updated in every step, each at the other's weights before it. Features pass through
`activation` before head and discriminator, in prediction too, and the noise has its range, U(-1, 1) or U(0, 1). Where a
net's features end in a ReLU, those of tanh have no more than half of that range.

Differs from DomainBed: `optim.optimizer` is also the discriminator's, and there is no label smoothing, which is 0
in all of its draws. Regression has the task's loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch
from dgbench.hparams import Optim, by_regime, choices, hparam, log10_uniform, uniform
from dgbench.network import Network
from dgbench.registry import UnknownName
from dgbench.task import Task

# Each with the least value of its noise; the largest is 1.
ACTIVATIONS = {"tanh": (torch.tanh, -1.0), "relu": (torch.relu, 0.0)}
WIDTH = 100


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of URM."""

    adversarial_weight: float = hparam(
        0.1, uniform(0, 0.2), "weight of the features' part, lambda", key="urm_adv_lambda"
    )
    activation: str = hparam(
        "tanh", choices("tanh", "relu"), "what features pass through: tanh or relu", key="urm_generator_output"
    )
    hidden_layers: int = hparam(
        1, choices(1, 2, 3), "discriminator's hidden layers after the first", key="urm_discriminator_hidden_layers"
    )
    lr_d: float | None = by_regime(
        "discriminator's learning rate",
        key="urm_discriminator_lr",
        small=(1e-3, log10_uniform(-5.5, -3.5)),
        large=(5e-5, log10_uniform(-6, -4.5)),
    )

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UnknownName("activation (algorithm.activation)", self.activation, ACTIVATIONS)


class URM(Algorithm):
    """Minimise `R - lambda * E[log D(z)]` over the network, `-E[log D(u)] - lambda * E[log(1 - D(z))]` over D.

    `R` () is the mean loss of the task, `z` (D*B, F) are the features and `u` (D*B, F) is uniform noise.
    """

    HParams = HParams
    cost = 1.0

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.discriminator = discriminator(network.feature_dim, hp.hidden_layers)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        # The network learns against a discriminator that stays as it is.
        judge = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        fooled = F.softplus(-functional_call(self.discriminator, judge, (features,))).mean()  # ()
        real = F.softplus(-self.discriminator(self.noise(features))).mean()  # ()
        unmasked = F.softplus(self.discriminator(features.detach())).mean()  # ()
        discriminator_nll = real + self.hp.adversarial_weight * unmasked  # ()
        loss = nll + self.hp.adversarial_weight * fooled + discriminator_nll
        return {"loss": loss, "nll": nll, "adversarial_nll": fooled, "discriminator_nll": discriminator_nll}

    def noise(self, features: Tensor) -> Tensor:
        """What features (N, F) should be distributed as, (N, F)."""
        low = ACTIVATIONS[self.hp.activation][1]
        return (low + (1 - low) * torch.rand(features.shape)).to(features)

    def features(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.hp.activation][0]
        return activation(self.network.features(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))

    def configure_optimizers(self) -> Any:
        network = {"params": [p for p in self.network.parameters() if p.requires_grad]}
        return self.make_optimizer([network, {"params": self.discriminator.parameters(), "lr": self.hp.lr_d}])


def discriminator(num_inputs: int, hidden_layers: int) -> nn.Sequential:
    """From features (N, F) to the logit that they are noise, (N, 1)."""
    layers: list[nn.Module] = [nn.Linear(num_inputs, WIDTH), nn.LeakyReLU()]
    for _ in range(hidden_layers):
        layers += [nn.Linear(WIDTH, WIDTH), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))
