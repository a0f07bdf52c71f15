"""Irises, in which the trend across the species is the reverse of the trend within each."""

from __future__ import annotations

from collections.abc import Iterator

from sklearn.datasets import load_iris

from dgbench.dataset import TensorDomain

from ._tables import RegressionTable, table_card, table_domains


class IrisSimpson(RegressionTable):
    """Sepal width in cm from sepal length in cm, (1,): Simpson's paradox in measured flowers.

    Within a species longer sepals are wider: 0.80, 0.32 and 0.23 cm per cm. Over all species together the
    line falls by 0.06. A method that pools its training domains predicts versicolor and virginica with a
    correlation below zero; the slope that the training domains agree on has one above.

    Domains:
        setosa, versicolor, virginica: the species.
    Classes:
        None, a regression.
    Examples per domain:
        50, 50, 50.
    Licence:
        CC BY 4.0.
    Source:
        The table that scikit-learn ships; nothing is downloaded.
    Splits:
        None official.
    Known defects:
        Two rows differ from the copy at UCI, which departs from the paper. Lengths are rounded to 1 mm.
        With 50 rows per domain one flower matters.
    Reference:
        Fisher, "The use of multiple measurements in taxonomic problems", 1936.
    """

    card = table_card(
        summary="Irises of three species; how wide is the sepal, given its length?",
        domains=("setosa", "versicolor", "virginica"),
        sizes=(50, 50, 50),
        classes=(),
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        source="Fisher's irises, shipped with scikit-learn",
        checksums={"iris.csv": "f13ffa8fdd56fd8e6c8d16d4081a3fbd3114bcd0aae4256c43205169cd9d1449"},
        citation=(
            "R. A. Fisher (1936). The use of multiple measurements in taxonomic problems. "
            "Annals of Eugenics 7(2). https://doi.org/10.1111/j.1469-1809.1936.tb02137.x"
        ),
        defects=(
            "two rows differ from the copy at UCI, which departs from the paper",
            "lengths are rounded to 1 mm",
        ),
    )
    files = ("iris.csv",)

    def load(self) -> Iterator[TensorDomain]:
        """The species."""
        iris = load_iris()
        return table_domains(self.card.domains, iris.target, iris.data[:, :1], iris.data[:, 1])
