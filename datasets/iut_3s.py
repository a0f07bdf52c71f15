"""Classes with a small margin that holds everywhere and a large one that is each domain's own, hidden by a rotation."""

from __future__ import annotations

from dataclasses import replace

from .iut_3 import IUT3


class IUT3s(IUT3):
    """The rows of `iut_3`, multiplied by a random orthogonal matrix: no feature is invariant by itself, (10,).

    The matrix is shared by the domains; it is the Q of the QR decomposition of normal numbers. All else is as in
    `iut_3`: so are the best errors.

    Domains:
        e0, e1, e2, and any further ones (`num_domains`): each with a mu of its own.
    Classes:
        plus, minus; half of the rows each.
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
        Aubin et al., "Linear unit-tests for invariance discovery", 2021: example 3s.
    """

    card = replace(
        IUT3.card,
        summary="Classes with a small margin everywhere and a large one of each domain's own, rotated; which side?",
    )
    is_scrambled = True
