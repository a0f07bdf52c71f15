"""DRM: a head for each training domain and one for all, of which the surest predicts each example.

Zhang, Wang, Liang, Zhang, Yu, Wang, Tao, Xie. Domain-Specific Risk Minimization for Out-of-Distribution
Generalization. KDD 2023. https://arxiv.org/abs/2208.08661

Differs from the authors' code: which predicts a whole batch of test examples with the head whose mean entropy over
that batch is least, so that an accuracy depends on the batches; here each example has the head whose entropy on
that example is least. The features of all domains come from one pass, which batch normalisation notices. Where
rows of the batch mix domains (`protocol.sampling=pooled`), the mean is over examples, not over domains. Selection
by a discriminator or by prototypes is left out, and so is what adapts to test examples, whose weights on
the heads start from `head_logits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim
from dgbench.network import Network
from dgbench.task import Task


@dataclass(kw_only=True)
class HParams:
    """None: both heads of an example count one half."""


class DRM(Algorithm):
    """Minimise `mean(CE(w_d(z), y) + CE(w(z), y)) / 2`, z (F,) the features of an example of domain d."""

    HParams = HParams
    cost = 1.1
    needs = Needs(domain_labels=True, tasks=("classification",))

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.domain_heads = nn.ModuleList(network.new_head() for _ in range(num_domains))

    def head_logits(self, features: Tensor) -> Tensor:
        """Logits of each training domain's head and, last, of the head of all domains, (E + 1, N, C).

        Args:
            features: as `features` gives them, (N, F).
        """
        return torch.stack([head(features) for head in (*self.domain_heads, self.network.head)])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        y = batch.y.flatten()  # (D*B,)
        logits = self.head_logits(self.features(batch.x.flatten(0, 1)))  # (E + 1, D*B, C)
        own = pick(logits, batch.domain.flatten())  # (D*B, C)
        nll, domain_nll = self.task.loss(logits[-1], y), self.task.loss(own, y)  # (), ()
        return {"loss": (nll + domain_nll) / 2, "nll": nll, "domain_nll": domain_nll}

    def classify(self, features: Tensor) -> Tensor:
        logits = self.head_logits(features)  # (E + 1, N, C)
        return pick(logits, entropy(logits).argmin(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


def pick(logits: Tensor, head: Tensor) -> Tensor:
    """Of (E + 1, N, C), the logits of one head for each example, (N, C), by its index (N,)."""
    return logits[head, torch.arange(len(head), device=head.device)]


def entropy(logits: Tensor) -> Tensor:
    """Of the predicted distribution in nats, (...) from (..., C); a single logit is that of two classes.

    >>> entropy(torch.zeros(3, 2)), entropy(torch.zeros(3, 1))
    (tensor([0.6931, 0.6931, 0.6931]), tensor([0.6931, 0.6931, 0.6931]))
    """
    if logits.shape[-1] == 1:
        logits = F.pad(logits, (1, 0))
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
