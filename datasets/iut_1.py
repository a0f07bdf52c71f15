"""Causes and effects of a regressed value, all three noisier in some domains than in others."""

from __future__ import annotations

from dgbench.task import Task

from ._invariance import InvarianceDataset, cause_and_effect, invariance_card


class IUT1(InvarianceDataset):
    """Linear regression on five causes and five effects of the target, (10,).

    The target is a sum over y = W_xy x + noise, with x ~ N(0, s^2 I) and noise ~ N(0, s^2 I); the effects are
    z = W_yz y + noise ~ N(0, I). The weights are shared, the deviation s is the domain's: where it is high, the
    effects tell more of y than the causes do, until they belong to other rows. What is invariant is the regression
    on the causes alone. Its mean squared error is 5 s^2, on average 10.43 over the three domains.

    The authors train linear models on the inputs as they are: `network.depth=0 network.normalise=none`.
    With `dataset.permuted=true` ERM is the oracle.

    Differs from the authors: the rows are drawn by numpy, so that a `data_seed` gives other rows than theirs.

    Domains:
        e0, e1, e2: s = 0.1, 1.5, 2; any further ones (`num_domains`) have s = 10^U(-2, 1).
    Classes:
        None, a regression of one value.
    Rows per domain:
        30000, 30000, 30000.
    Licence:
        None needed: the data are computed.
    Source:
        Drawn from `data_seed`; nothing is downloaded.
    Splits:
        Official: `in`, `val` and `test` of 10,000 rows in every domain. In `test` the spurious features are
        those of other rows of the domain.
    Known defects:
        None known.
    Reference:
        Aubin et al., "Linear unit-tests for invariance discovery", 2021: example 1.
    """

    card = invariance_card(
        summary="Five causes and five effects of a value, noisier in some domains; what is the value?",
        classes=(),
    )
    example = staticmethod(cause_and_effect)

    def make_task(self) -> Task:
        """A regression of one value."""
        return Task("regression", 1)
