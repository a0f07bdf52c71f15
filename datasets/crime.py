"""Violent crime in communities of the United States: trained on some states, tested on others."""

from __future__ import annotations

from collections.abc import Sequence

from dgbench.dataset import TensorDomain

from ._uci import UciDataset, uci_card

# fmt: off
SIZES = {
    1: 43, 2: 3, 4: 20, 5: 25, 6: 278, 8: 25, 9: 69, 10: 1, 11: 1, 12: 90, 13: 37, 16: 7, 18: 48, 19: 20, 20: 1,
    21: 26, 22: 22, 23: 17, 24: 12, 25: 121, 27: 7, 28: 19, 29: 42, 32: 5, 33: 21, 34: 211, 35: 10, 36: 46, 37: 46,
    38: 8, 39: 109, 40: 36, 41: 31, 42: 101, 44: 26, 45: 28, 46: 9, 47: 35, 48: 156, 49: 24, 50: 4, 51: 33, 53: 40,
    54: 14, 55: 60, 56: 7,
}
# fmt: on
"""Rows of each state, by its number."""
LAST_TRAINING, FIRST_TEST = 39, 47
STATES = {f"state_{number}": number for number in SIZES}


class Crime(UciDataset):
    """Violent crimes per inhabitant, as a share of the highest, from 122 figures of a community, (122,).

    The authors train on inputs whose gaps are filled by the mean of all rows and on raw targets, in batches of 16 of
    all states together; `dgbench experiment crime_c_mixup` does so, and the card's steps are then their 200 epochs.
    Their average is over all test rows together.

    Differs from the authors: gaps are filled and inputs scaled by the rows of the designated training states,
    whichever states train.

    Domains:
        state_1 to state_56: the 46 states in the data, by the number that the data give them.
    Classes:
        None, a regression of one value.
    Rows per domain:
        1 to 278, on the card.
    Licence:
        CC BY 4.0.
    Source:
        `<data_dir>/uci/communities.data`, from the UCI repository.
    Splits:
        Official: `in` is all of the 31 states up to state_39 (1390 rows) and of the 6 from state_40 to state_46 (231),
        which are there to validate; `test` is all of the 9 from state_47 on (373). The authors cut before the state in
        which 70 % of the rows are reached, then before the one in which 10 % more than with that state are.
    Known defects:
        22 inputs, on the police, are unknown in 1675 of the 1994 rows. The authors fill these gaps by all rows:
        `dataset.scaling=all`. Values are cut off at both ends and rounded to 0.01. state_10, state_11 and state_20
        have one row each: random splits cannot hold any out, and a score on one row is chance.
    Reference:
        Redmond and Baveja, "A data-driven software tool for enabling cooperative information sharing among police
        departments", 2002; these splits Yao et al., "C-Mixup: Improving Generalization in Regression", NeurIPS 2022.
    """

    file = "communities.data"
    url = "https://archive.ics.uci.edu/ml/machine-learning-databases/communities/communities.data"
    num_columns = 128
    card = uci_card(
        summary="Communities of the United States by state; how much violent crime is there?",
        domains=tuple(STATES),
        sizes=tuple(SIZES.values()),
        train_domains=tuple(name for name, number in STATES.items() if number <= LAST_TRAINING),
        test_domains=tuple(name for name, number in STATES.items() if number >= FIRST_TEST),
        val_domains=tuple(name for name, number in STATES.items() if LAST_TRAINING < number < FIRST_TEST),
        num_steps=17200,
        evaluate_every=86,
        source=url,
        checksums={file: "d90d85bd66bad9a00fa0ed6c15ac017b5966d528e55ba2940ad028d071353f95"},
        citation=(
            "M. Redmond (2002). Communities and Crime. UCI Machine Learning Repository. "
            "https://doi.org/10.24432/C53W3X; splits: H. Yao et al. C-Mixup: Improving Generalization in Regression. "
            "NeurIPS 2022. arXiv:2210.05775."
        ),
        defects=(
            "22 inputs are unknown in 1675 of the 1994 rows",
            "the authors fill these gaps by the mean of all rows, which lets the test rows in: dataset.scaling=all",
            "state_10, state_11 and state_20 have one row each",
        ),
    )

    def load(self) -> Sequence[TensorDomain]:
        """The states by number, and the official splits."""
        # State, county, community, its name and a fold of cross-validation are no inputs.
        table = self.read_table(separator=",", texts=(3,))
        return self.group_domains(STATES, table[:, 0], table[:, 5:-1], table[:, -1])
