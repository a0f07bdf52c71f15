"""Cows and camels, mostly on their usual ground, hidden by a rotation."""

from __future__ import annotations

from dataclasses import replace

from .iut_2 import IUT2


class IUT2s(IUT2):
    """The rows of `iut_2`, multiplied by a random orthogonal matrix: no feature is invariant by itself, (10,).

    The matrix is shared by the domains; it is the Q of the QR decomposition of normal numbers. All else is as in
    `iut_2`: so are the best errors.

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
        Aubin et al., "Linear unit-tests for invariance discovery", 2021: example 2s.
    """

    card = replace(
        IUT2.card,
        summary="Cows and camels in small features, their usual ground in large ones, rotated; is it a cow?",
    )
    is_scrambled = True
