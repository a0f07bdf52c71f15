"""Causes and effects of a regressed value, all three noisier in some domains than in others, hidden by a rotation."""

from __future__ import annotations

from dataclasses import replace

from .iut_1 import IUT1


class IUT1s(IUT1):
    """The rows of `iut_1`, multiplied by a random orthogonal matrix: no feature is invariant by itself, (10,).

    The matrix is shared by the domains; it is the Q of the QR decomposition of normal numbers. All else is as in
    `iut_1`: so are the best errors.

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
        Aubin et al., "Linear unit-tests for invariance discovery", 2021: example 1s.
    """

    card = replace(
        IUT1.card,
        summary="Five causes and five effects of a value, noisier in some domains, rotated; what is the value?",
    )
    is_scrambled = True
