"""Diabetes patients by sex and age, a control: hardly any shift that a method could exploit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_diabetes

from dgbench.dataset import TensorDomain

from ._tables import RegressionTable, table_card, table_domains

# First ages of the second and of the third group, in years.
AGES = (42, 56)


class DiabetesSexAge(RegressionTable):
    """Progression of diabetes after a year from body mass index, blood pressure and six serum values, (8,).

    A negative control. A linear model that has seen half of a domain predicts the rest of it only 1 % better
    than one that has seen none of it (42 % in `wine_cultivar`). What a method gains over ERM here beyond
    that is no robustness to the shift but less overfitting, chance, or test data that leaked into the
    selection of a model.

    Domains:
        sex1_under_42, sex1_42_to_55, sex1_from_56, sex2_under_42, sex2_42_to_55, sex2_from_56: sex as the
        table codes it, and age in years.
    Classes:
        None, a regression.
    Examples per domain:
        82, 97, 56, 55, 65, 87.
    Licence:
        None stated.
    Source:
        The table that scikit-learn ships, before scaling; nothing is downloaded.
    Splits:
        None official.
    Known defects:
        Which sex is coded 1 is not recorded, nor is what the target counts; it reaches from 25 to 346.
    Reference:
        Efron et al., "Least angle regression", 2004.
    """

    card = table_card(
        summary="Diabetes patients by sex and age; how far does the disease progress in a year?",
        domains=(
            "sex1_under_42",
            "sex1_42_to_55",
            "sex1_from_56",
            "sex2_under_42",
            "sex2_42_to_55",
            "sex2_from_56",
        ),
        sizes=(82, 97, 56, 55, 65, 87),
        classes=(),
        licence="none stated",
        source="diabetes data of Efron et al., shipped with scikit-learn; checksums are those since its release 1.8",
        checksums={
            "diabetes_data_raw.csv.gz": "7fc0ded571454b1982210d3bb43f0aca44eae01a0b8654a3b24022bdb6b38009",
            "diabetes_target.csv.gz": "8e53f65eb811df43c206f3534bb3af0e5fed213bc37ed6ba36310157d6023803",
        },
        citation=(
            "B. Efron, T. Hastie, I. Johnstone and R. Tibshirani (2004). Least angle regression. "
            "Annals of Statistics 32(2). https://doi.org/10.1214/009053604000000067"
        ),
        defects=("which sex is coded 1 is not recorded, nor is what the target counts",),
    )
    files = ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz")

    def load(self) -> Iterator[TensorDomain]:
        """The groups: three ages of sex 1, then of sex 2."""
        table = load_diabetes(scaled=False)
        age, sex = table.data[:, 0], table.data[:, 1]
        group = 3 * (sex.astype(int) - 1) + np.digitize(age, AGES)
        return table_domains(self.card.domains, group, table.data[:, 2:], table.target)
