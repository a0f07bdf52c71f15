"""ADRMX: domain features, learnt by a network of their own, are subtracted, and added to examples of other domains.

Demirel, Aptoula, Ozkan. ADRMX: Additive Disentanglement of Domain Features with Remix Loss. 2023.
https://arxiv.org/abs/2308.06624. The objective is the one in DomainBed.

As there, a cycle of k + 1 steps updates the discriminator k times, then once everything else, so that at equal steps
the network has fewer updates than with other methods; and predictions are those of the label branch, `head(f_label)`,
not of the invariant features.

Differs from DomainBed: the two examples of a remix are of the same class and of different domains, where
positions within a class are taken for those in the batch there, and domains are not looked at; weight decay applies;
heads are linear, as those of other methods; and the supervised contrastive loss is exact: the mean over the examples
that have another one of their class, with nothing added under the logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, by_regime, choices, fixed, hparam
from dgbench.network import Network
from dgbench.task import Task

from ._adversary import discriminator_loss, mlp
from ._contrast import supervised_contrast


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of ADRMX."""

    contrast_weight: float = hparam(1.0, fixed(1.0), "weight of the contrastive losses", key="cnt_lambda")
    domain_weight: float = hparam(1.0, fixed(1.0), "weight of the domain features' own loss", key="dclf_lambda")
    remix_weight: float = hparam(1.0, fixed(1.0), "weight of the remixed examples' loss", key="rmxd_lambda")
    adversarial_weight: float = hparam(0.75, fixed(0.75), "weight of the discriminator's loss", key="disc_lambda")
    d_steps_per_g_step: int = hparam(2, fixed(2), "discriminator's updates per update of the rest, k")
    beta1: float = hparam(0.5, fixed(0.5), "Adam's first beta, everywhere")
    mlp_width: int = hparam(256, fixed(256), "discriminator's hidden width")
    mlp_depth: int = hparam(9, choices(8, 9, 10), "discriminator's linear layers")
    mlp_dropout: float = hparam(0.0, fixed(0.0), "discriminator's dropout rate")


class ADRMX(Algorithm):
    """Minimise `R(l) + R(l - d) + S(l) + S(l - d) + L(d) + R(remix) - a * A(l - d)`, and `A` over the discriminator.

    `l` and `d` (D*B, F) are label and domain features. `R` () is the mean loss of the task, `S` () the supervised
    contrastive loss, `L` and `A` () the cross-entropies between domains of the domain head and of the discriminator.
    A remix is `(l - d)_i + d_j` of two examples of a class and of two domains. `R(l)` and `R(remix)` share a head.
    """

    HParams = HParams
    cost = 1.1
    needs = Needs(domain_labels=True, min_domains=2, tasks=("classification",))
    automatic_optimization = False
    optim_fields: ClassVar[Mapping[str, Any]] = {
        "lr": by_regime(
            "learning rate",
            key="lr",
            small=(3e-3, choices(5e-4, 1e-3, 2e-3, 3e-3)),
            large=(3e-5, choices(2e-5, 3e-5, 4e-5, 5e-5)),
        )
    }

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.domain_network = network.rebuild(num_outputs=num_domains)
        self.invariant_head = network.new_head()
        shape = {"width": hp.mlp_width, "depth": hp.mlp_depth, "dropout": hp.mlp_dropout}
        self.discriminator = mlp(network.feature_dim, num_domains, **shape)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x, y, domain = batch.x.flatten(0, 1), batch.y.flatten(), batch.domain.flatten()  # (D*B, ...), (D*B,), (D*B,)
        of_label, of_domain = self.network.features(x), self.domain_network.features(x)  # (D*B, F), (D*B, F)
        invariant = of_label - of_domain  # (D*B, F)
        if self.trains_discriminator():
            adversary = discriminator_loss(self.discriminator, invariant.detach(), domain)  # ()
            return {"loss": adversary, "adversarial_nll": adversary}
        adversary = discriminator_loss(self.discriminator, invariant, domain)  # ()
        nll = self.task.loss(self.network.head(of_label), y)  # ()
        invariant_nll = self.task.loss(self.invariant_head(invariant), y)  # ()
        domain_nll = F.cross_entropy(self.domain_network.head(of_domain), domain)  # ()
        remix_nll = self.remix_loss(invariant, of_domain, y, domain)  # ()
        contrast = supervised_contrast(of_label, y) + supervised_contrast(invariant, y)  # ()
        loss = (
            nll
            + invariant_nll
            + self.hp.domain_weight * domain_nll
            + self.hp.remix_weight * remix_nll
            + self.hp.contrast_weight * contrast
            - self.hp.adversarial_weight * adversary
        )
        values = {"nll": nll, "invariant_nll": invariant_nll, "domain_nll": domain_nll, "remix_nll": remix_nll}
        return {"loss": loss, "adversarial_nll": adversary, "contrast": contrast, **values}

    def remix_loss(self, invariant: Tensor, of_domain: Tensor, y: Tensor, domain: Tensor) -> Tensor:
        """Mean over the task's classes of the loss of one remix each; a class without a pair adds 0, ()."""
        first, second, is_paired = remix_pairs(y, domain, self.task.num_classes)  # (C,), (C,), (C,)
        outputs = self.network.head(invariant[first] + of_domain[second])  # (C, num_outputs)
        return self.task.losses(outputs, y[first]).masked_fill(~is_paired, 0.0).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        values = self.loss(batch)
        optimizers: Any = self.optimizers()
        self.manual_backward(values["loss"])
        optimizers[1 if self.trains_discriminator() else 0].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        return {name: value.detach() for name, value in values.items()}

    def configure_optimizers(self) -> Any:
        betas = {} if self.optim.optimizer == "sgd" else {"betas": (self.hp.beta1, 0.9)}
        others = [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("discriminator.")]
        return [self.make_optimizer(others, **betas), self.make_optimizer(self.discriminator.parameters(), **betas)]

    def trains_discriminator(self) -> bool:
        """Whether the current step is the discriminator's; a run starts within a cycle, as DomainBed's does."""
        k = self.hp.d_steps_per_g_step
        return (self.step + 1) % (1 + k) < k


def remix_pairs(y: Tensor, domain: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each class two random examples of different domains: their indices, and whether there are such, (C,) each.

    Args:
        y: classes, (N,).
        domain: index of each example's domain, (N,).
        num_classes: C.
    """
    is_partner = (y.unsqueeze(1) == y) & (domain.unsqueeze(1) != domain)  # (N, N)
    of_class = y == torch.arange(num_classes, device=y.device).unsqueeze(1)  # (C, N)
    candidates = of_class & is_partner.any(1)  # (C, N)
    first = random_index(candidates)  # (C,)
    return first, random_index(is_partner[first]), candidates.any(1)


def random_index(mask: Tensor) -> Tensor:
    """Per row of `mask` (C, N) the index of a random entry that holds, (C,); 0 or any other where none does."""
    keys = torch.rand(mask.shape).to(mask.device)  # (C, N)
    return keys.masked_fill(~mask, -1.0).argmax(1)
