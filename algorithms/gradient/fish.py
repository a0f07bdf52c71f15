"""Fish: steps on one domain after the other, towards whose end the weights move: gradients that agree add up.

Shi, Seely, Torr, Siddharth, Hannun, Usunier, Synnaeve. Gradient Matching for Domain Generalization. ICLR 2022,
algorithm Fish. https://arxiv.org/abs/2104.09937

`form=paper` visits S = meta_steps of the batch's domains (all, if it holds fewer) in random order, and divides
meta_lr by S, as the authors' code does.
`form=domainbed` visits all of them in the order of the batch, and does not divide.

In both, the inner steps are those of the run's optimizer, whose averages stay when the weights go back, and each
sees one domain alone, which batch normalisation notices. Its running statistics move as the weights do; counts,
being integers, stay where the last inner step left them.

With `pretrain_steps`, ERM comes first. Fish then starts from the state of these steps that scored best on the training
domains' held-out examples (the last, where nothing was evaluated), with an optimizer that starts afresh.

Differs from the paper: no ERM before it by default, and every step has fresh examples from the protocol's sampler
instead of a queue per domain.
Differs from DomainBed: the default form; counts are not interpolated; the logged loss is the mean over the domains,
not the last one's; and the inner optimizer goes with the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, choices, fixed, hparam
from dgbench.network import Network
from dgbench.registry import UnknownName
from dgbench.task import Task

FORMS = ("paper", "domainbed")


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of Fish."""

    form: str = hparam(
        "paper",
        fixed("paper"),
        "paper (some domains in random order) or domainbed (all domains in fixed order)",
        presets={"domainbed_2020": "domainbed", "domainbed_2024": "domainbed"},
    )
    meta_lr: float = hparam(
        0.5, choices(0.05, 0.1, 0.5), "part of the way to the inner steps' end, epsilon; form paper divides it by S"
    )
    meta_steps: int = hparam(5, fixed(5), "most domains visited in a step, S; form paper only")
    pretrain_steps: int = hparam(0, fixed(0), "steps of ERM before the first of Fish", is_step=True)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownName("form (algorithm.form)", self.form, FORMS)
        if self.meta_steps < 1:
            raise ValueError(f"algorithm.meta_steps={self.meta_steps}, expected at least 1 domain.")


class Fish(Algorithm):
    """Move `w` by `epsilon * (v - w)`, where `v` is `w` after an optimizer step on each of S domains in turn."""

    HParams = HParams
    cost = 0.8
    needs = Needs(min_domains=2, domain_rows=True, evaluation=True)
    automatic_optimization = False

    best_score: Tensor

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.register_buffer("best_score", torch.tensor(-torch.inf, dtype=torch.float64))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        return {"loss": self.task.loss(outputs.flatten(0, 1), batch.y.flatten(0, 1))}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        if self.step < self.hp.pretrain_steps:
            loss = self.loss(batch)["loss"]  # ()
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            return {"loss": loss.detach()}
        if 0 < self.step == self.hp.pretrain_steps:
            self.restore_best()
            self.reset_optimizer()
        order, rate = self.plan(len(batch.x))
        state = [v for v in (*self.network.parameters(), *self.network.buffers()) if v.is_floating_point()]
        start = [value.detach().clone() for value in state]
        losses = []
        for d in order:
            loss = self.loss(Batch(batch.x[d : d + 1], batch.y[d : d + 1], batch.domain[d : d + 1]))["loss"]  # ()
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            # Under autocast, copies of the weights in low precision are kept and would hide the step.
            torch.clear_autocast_cache()
            losses.append(loss.detach())
        with torch.no_grad():
            for value, before in zip(state, start, strict=True):
                value.copy_(before.lerp(value, rate))
        return {"loss": torch.stack(losses).mean()}

    def on_evaluation(self, value: float) -> None:
        if self.step <= self.hp.pretrain_steps and value > self.best_score:
            self.best_score.fill_(value)
            self.keep_best()

    def plan(self, D: int) -> tuple[list[int], float]:
        """The rows of a batch of `D` in the order of their visits, and how far the weights follow."""
        if self.hp.form == "domainbed":
            return list(range(D)), self.hp.meta_lr
        S = min(self.hp.meta_steps, D)
        return torch.randperm(D)[:S].tolist(), self.hp.meta_lr / S
