"""Alpha-BN: batch normalisation by a fixed mean of the source's statistics and the test batch's.

You, Li, Zhao. Test-time Batch Statistics Calibration for Covariate Shift. 2021. https://arxiv.org/abs/2110.04065

`alpha` is the SOURCE's share, as in the paper. Elsewhere the letter is the batch's: the `norm_alpha` of
https://github.com/mariodoebler/test-time-adaptation and UnMix-TNS mix (1 - a) * source + a * batch, so that their
a = 0.1 is alpha = 0.9 here. Unlike the prior of `bn_adapt`, the share does not depend on the size of the batch.

Differs from that code: variances are biased (the sum over n, not n - 1), as batch norm itself normalises, and batch
norms of flat activations are calibrated too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.hparams import hparam, uniform

from ._norms import replace_batch_norms


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of alpha-BN."""

    alpha: float = hparam(0.9, uniform(0, 1), "share of the source's statistics; 1: the model as it is")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"adapter.alpha={self.alpha:g}, expected the source's share, from 0 to 1.")


class AlphaBN(Adapter):
    """Normalise by `alpha * source + (1 - alpha) * batch` of the means and of the variances."""

    HParams = HParams
    needs = Needs(tasks=("classification", "regression"), norms=("batch",))
    baseline = Baseline("source", {"alpha": 1.0})

    def prepare(self, source: Source | None) -> None:
        # The trained layers themselves are the share of 1, without a rounding.
        if self.hp.alpha < 1:
            replace_batch_norms(self.algorithm, partial(constant_share, self.hp.alpha))

    def adapt(self, x: Tensor) -> Tensor:
        return self.logits(x)


def constant_share(alpha: float, num_examples: int) -> float:
    """The source's share, whatever the size of the batch."""
    return alpha
