"""Players of a strategy game by league: trained on the lower ones, tested on the higher ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgbench.dataset import TensorDomain

from ._uci import UciDataset, uci_card

LEAGUES = {
    "bronze": 1,
    "silver": 2,
    "gold": 3,
    "platinum": 4,
    "diamond": 5,
    "master": 6,
    "grandmaster": 7,
    "professional": 8,
}
LEAGUE, LATENCY = 1, 13
"""Indices of columns; column 0 numbers the games."""


class SkillCraft(UciDataset):
    """Latency of a StarCraft II player's actions, in ms by UCI's account, from age, practice and habits, (17,).

    The better the league, the shorter the latency: the test leagues lie beyond what training sees. The league itself
    is no input.

    The authors train on inputs scaled by the range of all rows and on raw targets, in batches of 32 of all leagues
    together; `dgbench experiment skillcraft_c_mixup` does so, and the card's steps are then their 100 epochs. Their
    average is over all test rows together.

    Differs from the authors: gaps are filled and inputs scaled by the rows of the designated training leagues,
    whichever leagues train.

    Domains:
        bronze, silver, gold, platinum, diamond, master, grandmaster, professional: LeagueIndex 1 to 8.
    Classes:
        None, a regression of one value.
    Rows per domain:
        167, 347, 553, 811, 806, 621, 35, 55.
    Licence:
        CC BY 4.0.
    Source:
        `<data_dir>/uci/SkillCraft1_Dataset.csv`, from the UCI repository.
    Splits:
        Official: `in` is all of bronze to platinum (1878 rows) and of diamond (806), which is there to validate;
        `test` is all of master, grandmaster and professional (711). The authors cut before the league in which 70 %
        of the rows are reached, then before the one in which 10 % more than with that league are.
    Known defects:
        Age, HoursPerWeek and TotalHours are unknown for all professionals, who get the training mean. A row of diamond
        claims 1,000,000 hours of play. The authors fill gaps and scale by all rows: `dataset.scaling=all`.
    Reference:
        Thompson et al., "Video Game Telemetry as a Critical Tool in the Study of Complex Skill Learning", PLoS ONE
        2013; these splits Yao et al., "C-Mixup: Improving Generalization in Regression", NeurIPS 2022.
    """

    file = "SkillCraft1_Dataset.csv"
    url = "https://archive.ics.uci.edu/ml/machine-learning-databases/00272/SkillCraft1_Dataset.csv"
    num_columns = 20
    card = uci_card(
        summary="Players of StarCraft II by league; how long do their actions take, in ms?",
        domains=tuple(LEAGUES),
        sizes=(167, 347, 553, 811, 806, 621, 35, 55),
        train_domains=("bronze", "silver", "gold", "platinum"),
        test_domains=("master", "grandmaster", "professional"),
        val_domains=("diamond",),
        num_steps=5800,
        evaluate_every=58,
        source=url,
        checksums={file: "f622d45649c69f0a493d6b45ea1a90aa2de1b5a7a29f724f34fe877ca5c93b11"},
        citation=(
            "M. Blair, J. Thompson, A. Henrey and B. Chen (2013). SkillCraft1 Master Table Dataset. UCI Machine "
            "Learning Repository. https://doi.org/10.24432/C5161N; splits: H. Yao et al. C-Mixup: Improving "
            "Generalization in Regression. NeurIPS 2022. arXiv:2210.05775."
        ),
        defects=(
            "age and hours of play are unknown for all professionals, who get the mean of others",
            "one row of diamond claims 1,000,000 hours of play",
            "the authors fill gaps and scale by all rows, which lets the test rows in: dataset.scaling=all",
        ),
    )

    def load(self) -> Sequence[TensorDomain]:
        """The leagues, the lowest first, and the official splits."""
        table = self.read_table(separator=",", skipped=1)
        inputs = np.delete(table, (0, LEAGUE, LATENCY), axis=1)
        return self.group_domains(LEAGUES, table[:, LEAGUE], inputs, table[:, LATENCY])
