"""Sixty pairs of clusters on a spiral, and a graph of which pairs are alike."""

from __future__ import annotations

from ._spiral import SpiralDataset, spiral_card


class DG60(SpiralDataset):
    """Sixty pairs of clusters, points of the plane, (2,).

    The classes are normal clusters around +m and -m, cut off at a distance of 1, where m has the domain's angle a
    and the length 1 + 3 a / pi. Domains at similar angles share their boundary, those at opposite angles swap the
    classes: no single boundary fits all. Two domains are adjacent with the probability cos(a_i - a_j), if that is at
    least 0.2.

    Differs from the authors: they publish one draw, here angles, points and graph are drawn from `data_seed`.

    Domains:
        d0 to d59, at angles drawn from U(0, 2 pi). Metadata: cosine and sine of the angle. `adjacency` holds the
        graph of domains that are alike.
    Classes:
        along, opposite: the side that the angle points to, and the other.
    Points per domain:
        100 in each of the 60.
    Licence:
        None needed: the data are computed.
    Source:
        Drawn from `data_seed`; nothing is downloaded.
    Splits:
        None official.
    Known defects:
        None known.
    Reference:
        Xu et al., "Graph-Relational Domain Adaptation", ICLR 2022; for generalization Yao et al., "Improving
        Domain Generalization with Domain Relations", ICLR 2024.
    """

    card = spiral_card(
        60,
        sources=(2, 14, 23, 33, 41, 59),
        summary="Sixty pairs of clusters, turned by an angle that is the domain's; which of the two?",
    )
    least_affinity = 0.2
