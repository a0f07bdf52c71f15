"""CDANN: DANN within each class, features from which a discriminator that knows the class tells no domains apart.

Li, Tian, Gong, Liu, Liu, Zhang, Tao. Deep Domain Generalization via Conditional Invariant Adversarial Networks.
ECCV 2018. https://openaccess.thecvf.com/content_ECCV_2018/html/Ya_Li_Deep_Domain_Generalization_ECCV_2018_paper.html

`form` is as in DANN: `grl` (one update of everything) or `alternating` (DomainBed's).

Differs from the paper (as DomainBed does): one discriminator, which sees the features plus a learned vector of the
class, and the classes weigh the same; the paper has a discriminator per class, and one of all classes whose loss
is normalised by the class priors.
Differs from DomainBed: the default form, and every class of the task has the weight 1 / C, where C there is
the largest label of the batch plus 1, so that the weights vary with the batch. A class that the batch lacks adds
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithm import Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim
from dgbench.network import Network
from dgbench.task import Task

from . import dann
from ._adversary import discriminator_loss


@dataclass(kw_only=True)
class HParams(dann.HParams):
    """Hyper-parameters of CDANN: those of DANN."""


class CDANN(dann.DANN):
    """Minimise `R - lambda * L` over the network and `L` over discriminator and class vectors.

    `R` () is the mean loss of the task; `L` () is the discriminator's cross-entropy between the domains, its mean over
    the examples of a class, then over the classes.
    """

    HParams = HParams
    cost = 1.1
    needs = Needs(domain_labels=True, min_domains=2, tasks=("classification",))

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.class_vectors = nn.Embedding(task.num_classes, network.feature_dim)

    def domain_loss(self, features: Tensor, batch: Batch) -> Tensor:
        y, domain = batch.y.flatten(), batch.domain.flatten()  # (D*B,), (D*B,)
        inputs = features + self.class_vectors(y)  # (D*B, F)
        divisor = class_divisor(y, self.task.num_classes)  # (D*B,)
        return discriminator_loss(self.discriminator, inputs, domain, self.hp.grad_penalty, divisor)


def class_divisor(y: Tensor, num_classes: int) -> Tensor:
    """What to divide the terms of a sum by, so that every class of the batch weighs `1 / num_classes` in it, (N,).

    >>> import torch
    >>> class_divisor(torch.tensor([0, 1, 1]), num_classes=2)
    tensor([2, 4, 4])
    """
    counts = F.one_hot(y, num_classes).sum(0)  # (C,)
    return num_classes * counts[y]
