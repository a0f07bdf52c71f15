"""Which segments of a training SWAD averages.

Cha, Chun, Lee, Cho, Park, Lee, Park. SWAD: Domain Generalization by Seeking Flat Minima. NeurIPS 2021.
https://arxiv.org/abs/2102.08604
"""

from __future__ import annotations

import math

from torch import Tensor

from dgbench.weight_average import accumulate


class LossValley:
    """Chooses the segments that are averaged, by the losses at their ends (SWAD's algorithm 1, as its code does it).

    It begins where a loss is the least of `patience` successive ones, and ends where the least of the last `window`
    exceeds the mean of these, raised by `tolerance`. A segment of the beginning may be taken twice, as there.

    Args:
        patience: N_s.
        window: N_e, at least N_s.
        tolerance: r.
    """

    def __init__(self, patience: int = 3, window: int = 6, tolerance: float = 0.3):
        self.patience, self.window, self.tolerance = patience, window, tolerance
        self.recent: list[tuple[int, float, list[Tensor]]] = []
        """(step at the end, loss there, weights) of the last `window` segments."""
        self.start: int | None = None
        self.threshold = math.inf
        self.is_over = False
        self.mean: list[Tensor] = []
        self.count = 0

    def add(self, end: int, loss: float, weights: list[Tensor]) -> None:
        """The next segment."""
        if self.is_over:
            return
        loss = math.inf if math.isnan(loss) else loss
        self.recent = [*self.recent, (end, loss, weights)][-self.window :]
        if self.start is None:
            self._begin()
        elif self.recent[0][0] >= self.start:
            self.is_over = _least(self.recent) > self.threshold
            if not self.is_over:
                self._take(self.recent[0][2])

    def _begin(self) -> None:
        """Begin where the first of the last `patience` losses is the least of them."""
        last = self.recent[-self.patience :]
        losses = [loss for _, loss, _ in last]
        if len(last) < self.patience or losses[0] > min(losses):
            return
        self.start, _, self.mean = last[0]
        self.threshold = sum(losses) / len(losses) * (1 + self.tolerance)
        before = self.recent[: self.window - self.patience + 1]
        above = [index for index, (_, loss, _) in enumerate(before) if loss > self.threshold]
        first = above[-1] + 1 if above else 0
        for _, _, weights in before[first + 1 :]:
            self._take(weights)

    def _take(self, weights: list[Tensor]) -> None:
        if self.count == 0:
            # What it began with only stood in for this first one. A copy: segments may be taken again.
            self.mean = [value.clone() for value in weights]
        else:
            accumulate(self.mean, weights, self.count)
        self.count += 1

    def result(self) -> list[Tensor]:
        """The average, if there were no further segment; the last segment, if the valley has not begun."""
        if self.start is None:
            return self.recent[-1][2]
        mean, count = [value.clone() for value in self.mean], self.count
        rest = [] if self.is_over else self.recent[1:]
        while rest and _least(rest) <= self.threshold:
            accumulate(mean, rest.pop(0)[2], count)
            count += 1
        return mean


def _least(segments: list[tuple[int, float, list[Tensor]]]) -> float:
    return min(loss for _, loss, _ in segments)
