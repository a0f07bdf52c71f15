"""CondCAD: CAD within each class, features whose nearest others of the same class are as likely of any domain.

Ruan, Dubois, Maddison. Optimal Representations for Covariate Shift. ICLR 2022. https://arxiv.org/abs/2201.00057

The bottleneck is the one in DomainBed, as in CAD; here examples without another one of their class in another domain
(not flipped: in their own) are left out of it.

Differs from DomainBed: the option of a projection, which crashes there, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import cad


@dataclass(kw_only=True)
class HParams(cad.HParams):
    """Hyper-parameters of CondCAD: those of CAD."""


class CondCAD(cad.CAD):
    """Minimise `R - lambda * T / 0.07 * mean_i log p(d_j != d_i | i)`, p(j | i) ~ exp(z_i . z_j / T) over y_j = y_i.

    `R` () is the mean loss of the task, `z` (D*B, F) the features, `y` and `d` (D*B,) classes and domains; j is not i.
    """

    HParams = HParams
    cost = 1.0
    is_conditional: ClassVar[bool] = True
