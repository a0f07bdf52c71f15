"""An objective that jumps during training: the annealing of penalty methods."""

from __future__ import annotations

from torch import Tensor

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch


class Annealed(Algorithm):
    """A method whose objective is another one from step `hp.anneal_steps` on.

    There the optimizer starts afresh: its averages are of gradients of another size. At step 0 nothing jumps.
    """

    @property
    def has_jumped(self) -> bool:
        """Whether the current step is past the jump."""
        return self.step >= self.hp.anneal_steps

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if 0 < self.step == self.hp.anneal_steps:
            self.restart()
        return super().training_step(batch, batch_idx)

    def restart(self) -> None:
        """What happens to the optimizer at the jump; override to keep it, or to change its learning rate."""
        self.reset_optimizer()
