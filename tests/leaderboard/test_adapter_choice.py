"""Which hyper-parameters of an adapter stand in its table, against a choice by hand."""

from __future__ import annotations

from typing import Any

import pytest

from dgbench.leaderboard.adaptation import adaptations
from tests.leaderboard.test_adaptation import make

# Per setting (its draw and lr), by trial: on the training domains, then on the test domain.
SETTINGS = {
    (0, 0.1): ((0.70, 0.90), (0.50, 0.51)),
    (1, 0.2): ((0.80, 0.60), (0.40, 0.61)),
    (2, 0.3): ((0.80, 0.50), (0.90, 0.30)),
}


def write(runs_dir, *, without=()):
    for trial in range(2):
        make(runs_dir, "source", {"a": 0.45}, trial=trial)
        for (draw, lr), (held_out, test) in SETTINGS.items():
            own: dict[str, Any] = {"hparams": {"lr": lr}, "hparams_seed": draw, "trial": trial}
            make(runs_dir, "tent", {"a": test[trial]}, **own)
            if draw not in without:
                where: dict[str, Any] = {"target": "validation", "test_domains": "a", "source": f"run{trial}a"}
                # Two training domains: the mean counts, not the better one.
                make(runs_dir, "tent", {"b": held_out[trial] + 0.1, "c": held_out[trial] - 0.1}, **own, **where)


def averages(runs_dir):
    made = adaptations(runs_dir)
    (sheet,) = made.sheets
    return made, {row.name: row for row in sheet.rows}


def test_defaults_the_choice_of_the_training_domains_and_the_oracle_stand_side_by_side(tmp_path):
    write(tmp_path)
    made, rows = averages(tmp_path)
    assert {name: row.average for name, row in rows.items()} == pytest.approx(
        {
            "source": 0.45,
            "tent": (0.50 + 0.51) / 2,
            # Trial 0: draws 1 and 2 are equal, the first is taken; trial 1: the default is best.
            "tent, chosen": (0.40 + 0.51) / 2,
            "tent, oracle": (0.90 + 0.61) / 2,
        }
    )
    assert list(rows)[-1] == "tent, oracle"
    assert (rows["tent, oracle"].difference.holm_p, rows["tent, oracle"].difference.p is None) == (None, False)
    # Holm corrects for the two that are results.
    p = rows["tent"].difference.p, rows["tent, chosen"].difference.p
    assert rows["tent"].difference.holm_p == pytest.approx(min(1, min(p) * 2) if p[0] == min(p) else max(p))
    assert "Settings: 3 of tent." in str(made)
    assert "Oracle: by the stream itself, so it is no result." in " ".join(str(made).split())


def test_lower_is_better_for_errors(tmp_path):
    make(tmp_path, "source", {"a": 0.5}, score="nll")
    for draw, test in enumerate((0.8, 0.3)):
        own: dict[str, Any] = {"hparams": {"lr": draw}, "hparams_seed": draw, "score": "nll"}
        make(tmp_path, "tent", {"a": test}, **own)
        make(tmp_path, "tent", {"b": test}, target="validation", source="run0a", test_domains="a", **own)
    _, rows = averages(tmp_path)
    # The file holds nll = 1 - value: the first draw has the lower one.
    assert rows["tent, chosen"].average == rows["tent, oracle"].average == pytest.approx(1 - 0.8)


def test_what_was_not_tried_on_the_training_domains_is_not_chosen(tmp_path):
    write(tmp_path, without=(2,))
    made, rows = averages(tmp_path)
    assert set(rows) == {"source", "tent", "tent, oracle"}
    assert "tent: none is chosen, as not every setting has target=validation beside it." in " ".join(str(made).split())


def test_settings_written_by_hand_are_rows_of_their_own_and_compete_where_validation_is_there(tmp_path):
    for lr, test in ((0.1, 0.5), (0.2, 0.6)):
        make(tmp_path, "tent", {"a": test}, hparams={"lr": lr})
    assert set(averages(tmp_path)[1]) == {"tent lr=0.1", "tent lr=0.2"}
    for lr, test in ((0.1, 0.9), (0.2, 0.8)):
        where: dict[str, Any] = {"target": "validation", "test_domains": "a", "source": "run0a"}
        make(tmp_path, "tent", {"b": test}, hparams={"lr": lr}, **where)
    rows = averages(tmp_path)[1]
    assert rows["tent, chosen"].average == 0.5
    assert rows["tent, oracle"].average == 0.6


def test_adaptations_to_training_domains_alone_report_nothing(tmp_path):
    make(tmp_path, "tent", {"b": 0.5}, target="validation")
    with pytest.raises(ValueError, match=r"All adaptations there have target=validation, which nothing reports\. Make"):
        adaptations(tmp_path)
