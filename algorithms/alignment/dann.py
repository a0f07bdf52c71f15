"""DANN: features from which a discriminator cannot tell the training domains apart.

Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand, Lempitsky. Domain-Adversarial Training
of Neural Networks. JMLR 2016. https://arxiv.org/abs/1505.07818

`form=grl` is the paper's: one update of everything, the gradient reversed where it enters the features, its
weight growing with the progress p = step / num_steps as lambda_p = 2 / (1 + exp(-10 p)) - 1 (1 where
num_steps is None).
`form=alternating` is DomainBed's: k updates of the discriminator, then one of the network, lambda constant.

Differs from the paper: the discriminator tells the training domains apart, and the benchmark's optimizer
(Adam with betas (beta1, 0.9)) takes the place of SGD with a decaying learning rate.
Differs from DomainBed: the default form. In `alternating`, as there, the network learns in one step of k + 1,
so at equal steps it has fewer updates than other methods; `grl` updates it in every step. The cycle is
counted from the run's step, and starts as DomainBed's does: k = 1 begins with the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, choices, fixed, hparam, like, log2_int, log10_uniform
from dgbench.network import Network
from dgbench.registry import UnknownName
from dgbench.task import Task

from ._adversary import discriminator_loss, mlp, reversal_schedule, reverse_gradient

FORMS = ("grl", "alternating")


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of DANN."""

    form: str = hparam(
        "grl",
        fixed("grl"),
        "grl (gradient reversal) or alternating (as DomainBed)",
        presets={"domainbed_2020": "alternating", "domainbed_2024": "alternating"},
    )
    adversarial_weight: float = hparam(
        1.0, log10_uniform(-2, 2), "lambda; in form grl, what lambda_p tends to", key="lambda"
    )
    d_steps_per_g_step: int = hparam(
        1, log2_int(0, 3), "discriminator's updates per update of the network, k; form alternating only"
    )
    grad_penalty: float = hparam(0.0, log10_uniform(-2, 1), "weight of the discriminator's gradient penalty")
    lr_d: float | None = like("lr", "discriminator's learning rate", key="lr_d")
    weight_decay_d: float = hparam(0.0, log10_uniform(-6, -2), "discriminator's weight decay")
    beta1: float = hparam(0.5, choices(0.0, 0.5), "Adam's first beta, of network and discriminator")
    mlp_width: int = hparam(256, log2_int(6, 10), "discriminator's hidden width")
    mlp_depth: int = hparam(3, choices(3, 4, 5), "discriminator's linear layers")
    mlp_dropout: float = hparam(0.0, choices(0.0, 0.1, 0.5), "discriminator's dropout rate")

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownName("form (algorithm.form)", self.form, FORMS)


class DANN(Algorithm):
    """Minimise `R - lambda * L` over the network and `L` over the discriminator.

    `R` () is the mean loss of the task, `L` () the discriminator's mean cross-entropy between the domains.
    """

    HParams = HParams
    cost = 1.1
    needs = Needs(domain_labels=True, min_domains=2)
    optim_fields: ClassVar[Mapping[str, Any]] = {
        "lr": like("lr", key="lr_g"),
        "weight_decay": like("weight_decay", key="weight_decay_g"),
    }

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.automatic_optimization = hp.form == "grl"
        shape = {"width": hp.mlp_width, "depth": hp.mlp_depth, "dropout": hp.mlp_dropout}
        self.discriminator = mlp(network.feature_dim, num_domains, **shape)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        if self.hp.form == "grl":
            domain_nll = self.domain_loss(reverse_gradient(features, self.reversal_weight()), batch)
            loss = nll + domain_nll
        elif self.trains_discriminator():
            loss = domain_nll = self.domain_loss(features.detach(), batch)
        else:
            domain_nll = self.domain_loss(features, batch)
            loss = nll - self.hp.adversarial_weight * domain_nll
        return {"loss": loss, "nll": nll, "domain_nll": domain_nll}

    def domain_loss(self, features: Tensor, batch: Batch) -> Tensor:
        """What the discriminator minimises, ()."""
        return discriminator_loss(self.discriminator, features, batch.domain.flatten(), self.hp.grad_penalty)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        values = self.loss(batch)
        if self.automatic_optimization:
            return values
        optimizers: Any = self.optimizers()
        self.manual_backward(values["loss"])
        optimizers[1 if self.trains_discriminator() else 0].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        return {name: value.detach() for name, value in values.items()}

    def configure_optimizers(self) -> Any:
        network = [p for p in self.network.parameters() if p.requires_grad]
        discriminator = {"params": [p for name, p in self.named_parameters() if not name.startswith("network.")]}
        own = {"lr": self.hp.lr_d, "weight_decay": self.hp.weight_decay_d}
        betas = {} if self.optim.optimizer == "sgd" else {"betas": (self.hp.beta1, 0.9)}
        if self.hp.form == "grl":
            return self.make_optimizer([{"params": network}, discriminator | own], **betas)
        return [self.make_optimizer(network, **betas), self.make_optimizer([discriminator], **own, **betas)]

    def reversal_weight(self) -> float:
        """Lambda of the gradient reversal at the current step."""
        progress = self.step / self.optim.num_steps if self.optim.num_steps else math.inf
        return self.hp.adversarial_weight * reversal_schedule(progress)

    def trains_discriminator(self) -> bool:
        """Whether the current step of the alternating form is the discriminator's."""
        k = self.hp.d_steps_per_g_step
        return (self.step + 1) % (1 + k) < k
