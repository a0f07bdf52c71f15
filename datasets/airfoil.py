"""Noise of airfoils in a wind tunnel: an ordinary regression, without any shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dgbench.dataset import GeneratedOptions, TensorDomain

from ._uci import UciDataset, UciOptions, make_domain, uci_card

NUM_ROWS, NUM_TRAIN, NUM_VAL = 1503, 1003, 300


@dataclass(kw_only=True)
class AirfoilOptions(UciOptions, GeneratedOptions):
    """Options of `Airfoil`."""


class Airfoil(UciDataset):
    """Sound pressure level in dB from five properties of an airfoil and its flow, (5,).

    The inputs are frequency, angle of attack, chord length, free-stream velocity and displacement thickness. All
    rows are one domain, cut at random: what generalizes here does so to more of the same. It is the measure of what a
    method costs, or gains, where there is no shift.

    `network.normalise=data`, the default, undoes the scaling of the inputs. The authors train on inputs scaled by the
    range of all rows and on raw targets, in batches of 16; `dgbench experiment airfoil_c_mixup` does so, and the card's
    steps are then their 100 epochs.

    Differs from the authors: the inputs are scaled by the training rows, and the rows are shuffled by numpy from
    `data_seed`, so that a seed gives other splits than theirs.

    Domains:
        tunnel: all rows.
    Classes:
        None, a regression of one value.
    Rows per domain:
        1503.
    Licence:
        CC BY 4.0.
    Source:
        `<data_dir>/uci/airfoil_self_noise.dat`, from the UCI repository.
    Splits:
        Official: `in`, `val` and `test` of 1003, 300 and 200 rows; which rows is drawn from `data_seed`.
    Known defects:
        The authors scale by the range of all rows, the test rows' among them: `dataset.scaling=all`. Rows are spectra,
        several frequencies of one setting, so that a setting stands in all three splits.
    Reference:
        Brooks, Pope and Marcolini, "Airfoil Self-Noise and Prediction", 1989; these splits Yao et al., "C-Mixup:
        Improving Generalization in Regression", NeurIPS 2022.
    """

    Options = AirfoilOptions
    options: AirfoilOptions
    file = "airfoil_self_noise.dat"
    url = "https://archive.ics.uci.edu/ml/machine-learning-databases/00291/airfoil_self_noise.dat"
    num_columns = 6
    card = uci_card(
        summary="Airfoils in a wind tunnel, without a shift; how loud are they, in dB?",
        domains=("tunnel",),
        sizes=(NUM_ROWS,),
        train_domains=("tunnel",),
        test_domains=("tunnel",),
        num_steps=6200,
        evaluate_every=62,
        source=url,
        checksums={file: "10ee06e6cfb27dae6b44213d421d217012fb1f9b697592e73a4e4016b52d425f"},
        citation=(
            "T. Brooks, D. Pope and M. Marcolini (1989). Airfoil Self-Noise. UCI Machine Learning Repository. "
            "https://doi.org/10.24432/C5VW2C; splits: H. Yao et al. C-Mixup: Improving Generalization in Regression. "
            "NeurIPS 2022. arXiv:2210.05775."
        ),
        defects=(
            "the authors scale the inputs by the range of all rows, which lets the test rows in: dataset.scaling=all",
            "frequencies of one setting of the tunnel stand in all three splits",
        ),
    )

    def load(self) -> Sequence[TensorDomain]:
        """The one domain, its rows shuffled, and the official splits."""
        table = self.read_table()
        if len(table) != NUM_ROWS:
            raise self.refuse(f"{len(table)} rows", str(NUM_ROWS))
        table = table[np.random.default_rng(self.options.data_seed).permutation(NUM_ROWS)]
        x = self.scaled(table[:, :-1], np.arange(NUM_ROWS) < NUM_TRAIN)
        (name,) = self.card.domains
        parts = torch.arange(NUM_ROWS).tensor_split([NUM_TRAIN, NUM_TRAIN + NUM_VAL])
        self.splits = {split: {name: part} for split, part in zip(("in", "val", "test"), parts, strict=True)}
        return [make_domain(name, x, table[:, -1])]
