"""Cows and camels, mostly on their usual ground."""

from __future__ import annotations

from dgbench.task import Task

from ._invariance import InvarianceDataset, cows_and_camels, invariance_card


class IUT2(InvarianceDataset):
    """Two classes told by five features a hundredth the size of five others, (10,).

    A cow stands on grass and a camel on sand with the probability p; a row is a cow with the probability s. The
    ground shows in features of size 1, the animal in features of size 0.01, which separate the classes perfectly:
    the invariant model makes no error.

    The authors train linear models on the inputs as they are: `network.depth=0 network.normalise=none`; normalising
    would undo the difference in size. With `dataset.permuted=true` ERM is the oracle.

    Differs from the authors: the rows are drawn by numpy, so that a `data_seed` gives other rows than theirs.

    Domains:
        e0, e1, e2: (p, s) = (0.95, 0.3), (0.97, 0.5), (0.99, 0.7); any further ones (`num_domains`) have
        p ~ U(0.9, 1) and s ~ U(0.3, 0.7).
    Classes:
        camel, cow.
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
        Aubin et al., "Linear unit-tests for invariance discovery", 2021: example 2.
    """

    card = invariance_card(
        summary="Cows and camels in small features, their usual ground in large ones; is it a cow?",
        classes=("camel", "cow"),
    )
    example = staticmethod(cows_and_camels)

    def make_task(self) -> Task:
        """A classification by the sign of one output."""
        return Task("classification", 2, single_logit=True)
