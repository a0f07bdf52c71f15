"""The gradients of the single domains, and the methods that train only where they agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch


def domain_gradients(risks: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
    """Gradient of each domain's risk in each parameter, (D, ...); None where no risk depends on the parameter.

    All risks may come from one forward pass. There are D backward passes, each through all of it.

    Args:
        risks: mean loss of each domain, (D,).
        parameters: what is differentiated in, each (...).
        create_graph: whether the gradients can be differentiated in turn; keeps the D graphs in memory.

    >>> w, unused = torch.tensor([1.0, 2.0], requires_grad=True), torch.ones(1, requires_grad=True)
    >>> domain_gradients(torch.stack([w.sum(), w.prod()]), [w, unused])
    [tensor([[1., 1.],
            [2., 1.]]), None]
    """
    rows = [
        torch.autograd.grad(risk, parameters, retain_graph=True, create_graph=create_graph, allow_unused=True)
        for risk in risks
    ]
    return [_stacked(column) for column in zip(*rows, strict=True)]


def _stacked(grads: Sequence[Tensor | None]) -> Tensor | None:
    like = next((grad for grad in grads if grad is not None), None)
    if like is None:
        return None
    return torch.stack([torch.zeros_like(like) if grad is None else grad for grad in grads])


def agreement(grads: Tensor) -> Tensor:
    """How many more domains want a weight to move one way than the other, from 0 to D; grads (D, ...), (...).

    A domain whose gradient is exactly zero, as behind a unit that is off, agrees with nobody.

    >>> agreement(torch.tensor([[1.0, 2.0, 3.0], [4.0, -1.0, 0.0], [0.1, -2.0, 1.0]]))
    tensor([3., 1., 2.])
    """
    return grads.sign().sum(0).abs()


def masked_mean(grads: Tensor, mask: Tensor) -> Tensor:
    """The domains' mean gradient under a mask, over the share of this tensor that the mask keeps, (...).

    Args:
        grads: one gradient per domain, (D, ...).
        mask: from 0 to 1, (...).

    >>> masked_mean(torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([1.0, 0.0]))
    tensor([4., 0.])
    """
    return mask * grads.mean(0) / (1e-10 + mask.mean())


class Masked(Algorithm):
    """A method whose update is the domains' mean gradient, masked weight by weight.

    The gradients are made by hand: the Trainer can neither clip nor accumulate them, nor average them over devices.
    Weight decay and the optimizer's averages still move a weight whose gradient is masked.
    """

    automatic_optimization = False
    needs = Needs(domain_rows=True, single_process=True)

    def mask(self, grads: Tensor) -> Tensor:
        """Share of the mean gradient that is kept, from 0 to 1, (...), given gradients (D, ...)."""
        raise TypeError(f"{type(self).__name__} does not say what to keep: define mask(grads).")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.domain_risks(batch).mean()}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        risk = self.domain_risks(batch)  # (D,)
        grads = domain_gradients(risk, self.trainable())
        masks = [None if grad is None else self.mask(grad) for grad in grads]
        self.apply_gradients(
            [None if g is None or m is None else masked_mean(g, m) for g, m in zip(grads, masks, strict=True)]
        )
        kept = torch.cat([mask.flatten() for mask in masks if mask is not None]).mean()  # ()
        return {"loss": risk.mean().detach(), "kept": kept}
