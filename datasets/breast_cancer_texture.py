"""Tumours in quarters by the texture of their image, between which the share of benign ones falls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_breast_cancer

from dgbench.dataset import TensorDomain

from ._tables import TableDataset, table_card, table_domains

# The quartiles of the 569 values of mean texture; a row that equals one belongs to the domain above.
QUARTILES = (16.17, 18.84, 21.80)


class BreastCancerTexture(TableDataset):
    """Is a tumour malignant or benign, given 27 measurements of its cell nuclei, (27,), in the table's units?

    The domains differ in what they contain rather than in how it looks: 91.5, 76.2, 49.3 and 34.3 % are
    benign. Calibration tells more here than accuracy, which is high for every method.

    Domains:
        texture_q1, texture_q2, texture_q3, texture_q4: quarters by mean texture, from smooth to rough; the
        three columns on texture are left out of the inputs.
    Classes:
        malignant, benign.
    Examples per domain:
        141, 143, 142, 143.
    Licence:
        CC BY 4.0.
    Source:
        The table that scikit-learn ships; nothing is downloaded.
    Splits:
        None official.
    Known defects:
        The domains are cut from a continuous value. Patients are not identified.
    Reference:
        Street, Wolberg and Mangasarian, "Nuclear feature extraction for breast tumor diagnosis", 1993.
    """

    card = table_card(
        summary="Breast tumours in quarters by the texture of their image; malignant or benign?",
        domains=("texture_q1", "texture_q2", "texture_q3", "texture_q4"),
        sizes=(141, 143, 142, 143),
        classes=("malignant", "benign"),
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        source="UCI Breast Cancer Wisconsin (Diagnostic), shipped with scikit-learn",
        checksums={"breast_cancer.csv": "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed"},
        citation=(
            "W. Wolberg, O. Mangasarian, N. Street and W. Street (1993). Breast Cancer Wisconsin (Diagnostic). "
            "UCI Machine Learning Repository. https://doi.org/10.24432/C5DW2B"
        ),
        defects=("the domains are cut from a continuous value", "patients are not identified"),
    )
    files = ("breast_cancer.csv",)

    def load(self) -> Iterator[TensorDomain]:
        """The quarters, from smooth to rough."""
        table = load_breast_cancer()
        quarter = np.digitize(table.data[:, list(table.feature_names).index("mean texture")], QUARTILES)
        others = [column for column, name in enumerate(table.feature_names) if "texture" not in name]
        return table_domains(self.card.domains, quarter, table.data[:, others], table.target)
