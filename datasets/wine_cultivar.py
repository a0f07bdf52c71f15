"""Wines of three cultivars, whose chemistry has other ranges in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.datasets import load_wine

from dgbench.dataset import DatasetOptions, TensorDomain, option
from dgbench.registry import UnknownName

from ._tables import RegressionOptions, RegressionTable, table_card, table_domains

TARGETS = ("color_intensity", "proline", "alcohol")


@dataclass(kw_only=True)
class WineOptions(RegressionOptions):
    """Options of the wines."""

    target: str = option("color_intensity", "column to predict from the others: color_intensity, proline or alcohol")

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UnknownName("target (dataset.target)", self.target, TARGETS)


class WineCultivar(RegressionTable):
    """One chemical property of a wine from the 12 others, (12,), in the units of the table.

    With `color_intensity` a linear model is better than the mean of its training domains. `proline` and
    `alcohol` are traps: there that constant is better than the linear model, and what does not beat it has
    learned nothing that transfers.

    Domains:
        cultivar_0, cultivar_1, cultivar_2: the grape, numbered as in the table.
    Classes:
        None, a regression.
    Examples per domain:
        59, 71, 48.
    Licence:
        CC BY 4.0.
    Source:
        The table that scikit-learn ships; nothing is downloaded.
    Splits:
        None official.
    Known defects:
        The names of the cultivars and the units of most columns are not recorded.
    Reference:
        Aeberhard and Forina, "Wine", 1992.
    """

    Options: ClassVar[type[DatasetOptions]] = WineOptions
    options: WineOptions
    card = table_card(
        summary="Wines of three cultivars; what is the colour intensity, given twelve other properties?",
        domains=("cultivar_0", "cultivar_1", "cultivar_2"),
        sizes=(59, 71, 48),
        classes=(),
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        source="UCI Wine, shipped with scikit-learn",
        checksums={"wine_data.csv": "10e8a802908b34f86e5da8ce962f3c806694bc98450a18f61851af59f324bede"},
        citation=(
            "S. Aeberhard and M. Forina (1992). Wine. UCI Machine Learning Repository. https://doi.org/10.24432/C5PC7J"
        ),
        defects=("the names of the cultivars and the units of most columns are not recorded",),
    )
    files = ("wine_data.csv",)

    def load(self) -> Iterator[TensorDomain]:
        """The cultivars."""
        wine = load_wine()
        column = wine.feature_names.index(self.options.target)
        others = np.delete(wine.data, column, axis=1)
        return table_domains(self.card.domains, wine.target, others, wine.data[:, column])
