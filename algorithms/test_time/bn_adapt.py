"""BN-adapt: batch normalisation by the statistics of the test batch, or by a mean of these and the source's.

Nado, Padhy, Sculley, D'Amour, Lakshminarayanan, Snoek. Evaluating Prediction-Time Batch Normalization for Robustness
under Covariate Shift. 2020. https://arxiv.org/abs/2006.10963. With a prior: Schneider, Rusak, Eck, Bringmann,
Brendel, Bethge. Improving Robustness against Common Corruptions by Covariate Shift Adaptation. NeurIPS 2020.
https://arxiv.org/abs/2006.16971
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, hparam

from ._norms import replace_batch_norms


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of BN-adapt."""

    prior: float = hparam(
        0.0,
        choices(0.0, 8.0, 16.0, 32.0, 64.0),
        "examples that the source's statistics count for, N; 0: the batch alone",
    )

    def __post_init__(self) -> None:
        if self.prior < 0:
            raise ValueError(f"adapter.prior={self.prior:g}, expected a number of examples, 0 or more.")


class BNAdapt(Adapter):
    """Normalise by `pi * source + (1 - pi) * batch`, pi = N / (N + n) for a batch of n examples."""

    HParams = HParams
    needs = Needs(tasks=("classification", "regression"), norms=("batch",))
    baseline = Baseline("source", {"prior": 1e12})

    def prepare(self, source: Source | None) -> None:
        replace_batch_norms(self.algorithm, partial(source_share, self.hp.prior))

    def adapt(self, x: Tensor) -> Tensor:
        return self.logits(x)


def source_share(prior: float, num_examples: int) -> float:
    """The source's share, pi.

    >>> round(source_share(16, num_examples=1), 4)
    0.9412
    """
    return prior / (prior + num_examples)
