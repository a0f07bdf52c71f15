"""MLDG: steps on some training domains that also lower the risk of the others, as in training and test.

Li, Yang, Song, Hospedales. Learning to Generalize: Meta-Learning for Domain Generalization. AAAI 2018.
https://arxiv.org/abs/1710.03463

In every step a random split sets some domains aside for meta-test, at most all but one; each of the rest is paired with
one of them, in turn. The inner step is the first one of a fresh optimizer of the run's kind, learning rate and weight
decay. Batch normalisation sees one domain at a time, and its running statistics follow the meta-train domains, at the
weights themselves.

Differs from the paper (as DomainBed does): it is first-order, which takes the gradient at the end of the inner step for
the gradient at its start; each pair has an inner step of its own; that step is the optimizer's, not one of gradient
descent with its own learning rate; and the sum over pairs is divided by the number of domains, although there are
fewer pairs.
Differs from DomainBed: where a batch has no more domains than `num_meta_test`, one is left for meta-train (there,
nothing is trained); and the running statistics follow the training data (there they stay as they were first, because
only copies of the network see any; the presets of DomainBed keep that).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import choices, fixed, hparam, log10_uniform

from ..flatness._perturbation import frozen_buffers


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of MLDG."""

    beta: float = hparam(1.0, log10_uniform(-1, 1), "weight of the meta-test risk", key="mldg_beta")
    num_meta_test: int = hparam(
        2, choices(1, 2), "domains set aside for meta-test in a step; at most all but one are", key="n_meta_test"
    )
    moves_statistics: bool = hparam(
        True,
        fixed(True),
        "whether the running statistics of batch normalisation follow the training data",
        presets={"domainbed_2020": False, "domainbed_2024": False},
    )

    def __post_init__(self) -> None:
        if self.num_meta_test < 1:
            raise ValueError(f"algorithm.num_meta_test={self.num_meta_test}, expected at least 1 domain.")


class MLDG(Algorithm):
    """Minimise `sum(R_i(w) + beta * R_j(w_i)) / D` to first order, `w_i` being `w` after an inner step on `R_i`.

    The sum is over pairs of a meta-train domain i and a meta-test domain j; `R_i` () is the mean loss of a domain.
    """

    HParams = HParams
    cost = 1.2
    # Each process would take inner steps on its own examples.
    needs = Needs(domain_rows=True, min_domains=2, single_process=True)
    automatic_optimization = False

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        return {"loss": self.task.loss(outputs.flatten(0, 1), batch.y.flatten(0, 1))}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        D, weights = len(batch.x), self.trainable()
        total = [torch.zeros_like(weight) for weight in weights]
        risks = []
        for i, j in random_pairs(D, self.hp.num_meta_test):
            with nullcontext() if self.hp.moves_statistics else frozen_buffers(self):
                train = self.loss(row(batch, i))["loss"]  # ()
                grads = torch.autograd.grad(train, weights, materialize_grads=True)
            with self.inner_step(weights, grads), frozen_buffers(self):
                test = self.loss(row(batch, j))["loss"]  # ()
                test_grads = torch.autograd.grad(test, weights, materialize_grads=True)
            torch._foreach_add_(total, grads, alpha=1 / D)
            torch._foreach_add_(total, test_grads, alpha=self.hp.beta / D)
            risks.append(torch.stack([train.detach(), test.detach()]))
        self.apply_gradients(total)
        train, test = torch.stack(risks).unbind(1)  # (pairs,), (pairs,)
        loss = (train + self.hp.beta * test).sum() / D
        return {"loss": loss, "meta_train_nll": train.mean(), "meta_test_nll": test.mean()}

    @contextmanager
    def inner_step(self, weights: Sequence[Tensor], grads: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the weights are those after a fresh optimizer's step; afterwards what they were, bit for bit."""
        start = [weight.detach().clone() for weight in weights]
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad
        self.make_optimizer(weights).step()
        # Under autocast, copies of the weights in low precision are kept and would hide the step.
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, saved in zip(weights, start, strict=True):
                    weight.copy_(saved)
            torch.clear_autocast_cache()


def row(batch: Batch, d: int) -> Batch:
    """The examples of one row, as a batch of D = 1."""
    return Batch(batch.x[d : d + 1], batch.y[d : d + 1], batch.domain[d : d + 1])


def random_pairs(D: int, num_meta_test: int) -> list[tuple[int, int]]:
    """Each meta-train row of a batch with one of the meta-test rows, in turn.

    Raises:
        ValueError: a batch of one row.
    """
    if D < 2:
        raise ValueError(f"MLDG needs at least 2 domains in a batch, got {D}. Take more domains at a time.")
    order = torch.randperm(D).tolist()
    num_meta_test = min(num_meta_test, D - 1)
    return list(zip(order[:-num_meta_test], itertools.cycle(order[-num_meta_test:]), strict=False))
