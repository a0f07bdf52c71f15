"""What makes a row of its own: a label, a draw of the data as a trial; and how the last step is taken."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import numpy as np
import pytest

import dgbench
from dgbench import composition, config, description, record
from dgbench.selection import selection
from tests.fabricate import make_run, make_scores


def columns(*arguments):
    return description.columns(config.resolve(composition.compose(["test_domains=[0]", *arguments])))


def test_labelled_rows_stand_in_one_table_whatever_they_do_otherwise():
    keys = ("dataset", "data", "protocol_key", "network_key")
    for other in ("network.width=9", "protocol.num_steps=7", "dataset.exclude_invert=true"):
        plain, changed = columns("dataset=digits_style"), columns("dataset=digits_style", other)
        labelled = columns("dataset=digits_style", "label=a"), columns("dataset=digits_style", "label=b", other)
        assert [labelled[0][key] for key in keys] == [labelled[1][key] for key in keys]
        assert [plain[key] for key in keys] != [changed[key] for key in keys]
        assert [one["label"] for one in (plain, *labelled)] == ["", "a", "b"]
    assert columns("label=a")["data"] != columns("label=a", "dataset=digits_color")["data"]
    assert columns("label=a", "algorithm=vrex")["hparams"] != columns("label=a")["hparams"]


def test_a_label_is_the_row_and_its_note_says_what_it_is(tmp_path: Path):
    make_run(tmp_path, [(0, make_scores("a", 0.5))], label="wide", num_steps=9, designated_domains="a")
    make_run(tmp_path, [(0, make_scores("a", 0.25))], label="deep", network="small_cnn", designated_domains="a")
    made = dgbench.table(tmp_path)
    assert [line.method for line in made.sheets[0].lines] == ["wide", "deep"]
    said = " ".join(str(made).split())
    assert "options of the data: deep (erm, small_cnn, 1 steps), wide (erm, mlp, 9 steps)." in said


def test_draws_of_generated_data_are_trials(tmp_path: Path):
    values = (0.5, 0.7, 0.9)
    for seed, value in enumerate(values):
        make_run(tmp_path, [(0, make_scores("a", value))], data_seed=seed)
    cell = dgbench.table(tmp_path).sheets[0].lines[0].cells[0]
    assert cell.num_trials == cell.expected_trials == 3
    assert cell.mean == pytest.approx(0.7)
    assert cell.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))


def test_draws_of_generated_data_are_recorded_as_such():
    first, second = columns("dataset.data_seed=0"), columns("dataset.data_seed=4")
    assert (first["data_seed"], second["data_seed"]) == (0, 4)
    assert first["data"] == second["data"] != columns("dataset=digits_color")["data"]
    assert columns("dataset=wine_cultivar")["data_seed"] == description.NOT_DRAWN


def test_the_last_step_is_the_runs_last(tmp_path: Path):
    make_run(tmp_path, [(0, {"in/a": 0.9}), (9, {"in/a": 0.4})], num_steps=10)
    make_run(tmp_path, [(0, {"in/a": 0.8})], num_steps=10, trial_seed=1)
    make_run(tmp_path, [(0, {"in/a": 0.7})], num_steps=10, trial_seed=2, status="diverged")
    make_run(tmp_path, [(0, {"in/a": 0.6})], num_steps=10, trial_seed=3, oracle_last_record=True)
    chosen = selection("last_step").choose(record.read(tmp_path))
    found = {row["trial_seed"]: (row["step"], row["value"]) for row in chosen.iter_rows(named=True)}
    assert found == {0: (9, 0.4), 2: (0, 0.7), 3: (0, 0.6)}


def test_a_record_of_another_schema_is_refused(tmp_path: Path):
    run_id = make_run(tmp_path, [(0, make_scores("a", 0.5))])
    record.RunFolder(tmp_path / run_id).write(schema=1)
    with pytest.raises(ValueError, match=r"run\.json has schema 1, expected 2: another version of dgbench wrote it"):
        dgbench.table(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["dataset=digits_color", "test_domains=[plus90,plus80]", "hparams_seed=3", "optim.lr=1e-4"],
        ["algorithm=dann", "algorithm.form=alternating", "protocol=domainbed_2020", "network=small_cnn", "label='a b'"],
        ["dataset=iut_1", "dataset.num_domains=4", "network.depth=0", "criteria=[oracle]", "test_domains=[e1]"],
    ],
)
def test_the_command_of_a_configuration_makes_the_same_run(arguments):
    composed = composition.compose(["test_domains=[0]", *arguments])
    words = shlex.split(composition.command(composed))
    assert words[:2] == ["dgbench", "train"]
    assert config.resolve(composition.compose(words[2:])).run_id == config.resolve(composed).run_id
    assert len(words) < 2 + 3 + 8


def test_where_nothing_was_evaluated_to_choose_by_the_table_says_so(tmp_path: Path):
    make_run(tmp_path, [(0, {"in/a": 0.4})], designated_domains="a")
    said = " ".join(str(dgbench.table(tmp_path)).split())
    assert "Nothing that train_validation chooses by was evaluated: erm on a (trial 0). Choose by another" in said
    assert "Reported:" not in said
    assert "Nothing that" not in str(dgbench.table(tmp_path, "last_step"))


def test_one_label_on_two_methods_is_two_rows(tmp_path: Path):
    for algorithm, value in (("erm", 0.5), ("irm", 0.75)):
        lines = [(0, make_scores("a", value))]
        make_run(tmp_path, lines, label="mine", algorithm=algorithm, designated_domains="a")
    lines = dgbench.table(tmp_path).sheets[0].lines
    assert [(line.method, line.cells[0].mean) for line in lines] == [("mine (irm)", 0.75), ("mine (erm)", 0.5)]


def test_one_label_on_two_networks_is_two_rows():
    one, other = columns("label=a", "network.width=8"), columns("label=a", "network.width=9")
    assert (one["network_key"], one["label"]) == (other["network_key"], other["label"])
    assert one["variant"] != other["variant"]
    assert columns("label=a")["protocol_key"] != columns("label=a", "protocol.holdout_fraction=0.5")["protocol_key"]
    assert (columns()["variant"], columns("label=''")["label"]) == ("", "")


def test_rows_tuned_in_two_sweeps_are_told_apart(tmp_path: Path):
    for sweep in ("one", "two"):
        lines = [(0, make_scores("a", 0.5))]
        make_run(tmp_path, lines, tuned=f"oracle in {sweep}", designated_domains="a")
    names = {line.method for line in dgbench.table(tmp_path).sheets[0].lines}
    assert names == {"erm (tuned) (oracle in one)", "erm (tuned) (oracle in two)"}


def test_tuned_rows_are_expected_in_their_own_trials(tmp_path: Path):
    make_run(tmp_path, [(0, make_scores("a", 0.5))], designated_domains="a")
    make_run(tmp_path, [(0, make_scores("a", 0.5))], tuned="oracle in one", trial_seed=3, designated_domains="a")
    assert [line.found for line in dgbench.table(tmp_path).sheets[0].lines] == ["1/1", "1/1"]


@pytest.mark.parametrize("error_bar", ["n", "n-1"])
def test_of_one_trial_there_is_no_error(tmp_path: Path, error_bar):
    make_run(tmp_path, [(0, make_scores("a", 0.5))], error_bar=error_bar, designated_domains="a")
    assert dgbench.table(tmp_path).sheets[0].lines[0].cells[0].se is None


def test_the_last_scheduled_evaluation_is_the_last_step(tmp_path: Path):
    asked = columns("protocol.evaluate_last=false", "protocol.num_steps=8", "protocol.evaluate_every=3")
    assert (asked["num_steps"], asked["last_evaluation"]) == (8, 6)
    make_run(tmp_path, [(0, {"in/a": 0.9}), (6, {"in/a": 0.4})], num_steps=8, last_evaluation=6)
    assert selection("last_step").choose(record.read(tmp_path))["step"].item() == 6


def test_missing_trials_are_named_with_the_draw_of_the_data(tmp_path: Path):
    for algorithm, seeds in (("erm", (1, 2)), ("irm", (1,))):
        for seed in seeds:
            lines = [(0, make_scores("a", 0.5))]
            make_run(tmp_path, lines, data_seed=seed, algorithm=algorithm, designated_domains="a")
    assert "Missing, no finished run: irm on a (trial 0)" in " ".join(str(dgbench.table(tmp_path)).split())
    make_run(tmp_path, [(0, make_scores("a", 0.5))], data_seed=3, designated_domains="a")
    assert "irm on a (trials 0/2, 0/3)" in " ".join(str(dgbench.table(tmp_path)).split())
