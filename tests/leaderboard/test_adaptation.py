"""Tables of adaptations, of files written by hand, against scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import dgbench
from dgbench.leaderboard.adaptation import Adaptations, adaptations, ranks_adaptations
from dgbench.leaderboard.statistics import holm
from dgbench.record import SCHEMA, RunFolder, identity_hash
from dgbench.registry import UnknownName

DOMAINS = ("b", "a")


def make(
    runs_dir: Path,
    adapter: str,
    values: dict[str, float | None],
    *,
    trial: int = 0,
    hparams: dict[str, Any] | None = None,
    seconds: float = 0.01,
    kept: float = 0.9,
    status: str = "complete",
    rounds: int = 1,
    answers: str = "before",
    **columns: Any,
) -> RunFolder:
    """Write the adaptation of one model, whose test domains `values` names."""
    said: dict[str, Any] = {
        "dataset": "toy",
        "data": "data0",
        "dataset_domains": " ".join(DOMAINS),
        "train_domains": "t",
        "val_domains": "",
        "test_domains": " ".join(values),
        "score": "accuracy",
        "protocol_key": "protocol0",
        "network": "cnn",
        "network_key": "network0",
        "norm": "batch",
        "algorithm": "erm",
        "averaging": "none",
        "label": "",
        "variant": "",
        "tuned": "",
        "draw": "h",
        "source_step": None,
        "trial_seed": trial,
        "data_seed": -1,
        "seed": 0,
        "source": f"run{trial}{''.join(values)}",
        "target": "test",
        "hparams_seed": 0,
        "adapter": adapter,
        "adapter_hparams": identity_hash({"hparams": hparams}),
        "stream": "online",
        "stream_options": "",
        "stream_key": "stream0",
        "batch_size": 64,
        "examples": None,
        **columns,
    }
    identity = {"adapter": {"hparams": hparams or {}, "version": 1}}
    folder = RunFolder(runs_dir / identity_hash({**said, "own": identity}))
    folder.create()
    facts = {"kind": "adapt", "schema": SCHEMA, "status": status, "seconds_per_batch": seconds, "answers": answers}
    folder.begin(**facts, run_id=folder.path.name, columns=said, identity=identity)
    with folder.lock.held():
        for round in range(rounds):
            for name, value in values.items():
                scores = {"accuracy": value, "nll": None if value is None else 1 - value}
                folder.append(line(f"stream/{name}", scores, round, "stream"))
        folder.append(line("out/t", {"accuracy": kept, "nll": 1 - kept}, 0, "source_after"))
    return folder


def line(name: str, scores: dict[str, float | None], round: int, phase: str) -> dict[str, Any]:
    values = {f"{name}/{metric}": value for metric, value in scores.items()}
    return {"step": 0, "phase": phase, "round": round, "values": values, "n": {name: 10}}


def test_tables_of_trained_runs_say_whose_tables_these_are(tmp_path):
    make(tmp_path, "source", {"a": 0.5})
    assert isinstance(dgbench.adaptations(tmp_path), Adaptations)
    with pytest.raises(ValueError, match=r"are adaptations, no trained runs\. dgbench table ranks them, in Py"):
        dgbench.table(tmp_path)


NUMBERS = {
    "source": {"a": (0.50, 0.52, 0.48, 0.50), "b": (0.60, 0.62, 0.61, 0.59)},
    "tent": {"a": (0.60, 0.61, 0.58, 0.62), "b": (0.69, 0.73, 0.70, 0.68)},
    "t3a": {"a": (0.51, 0.49, 0.52, 0.50), "b": (0.60, 0.65, 0.58, 0.60)},
}


@pytest.fixture
def folder(tmp_path):
    for name, by_domain in NUMBERS.items():
        for trial in range(4):
            for domain, values in by_domain.items():
                cost = 0.03 if name == "tent" else 0.01
                make(tmp_path / "out", name, {domain: values[trial]}, trial=trial, seconds=cost)
    return tmp_path / "out"


def rows(made, place=0):
    return {row.name: row for row in made.sheets[place].rows}


def test_means_differences_and_stars_are_scipys(folder):
    made = adaptations(folder)
    sheet, found = made.sheets[0], rows(made)
    assert (sheet.domains, [row.name for row in sheet.rows]) == (DOMAINS, ["tent", "t3a", "source"])
    means = {name: np.mean([values["a"], values["b"]], axis=0) for name, values in NUMBERS.items()}
    p = {name: stats.ttest_rel(means[name], means["source"]).pvalue for name in ("tent", "t3a")}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    for name, row in found.items():
        assert row.cells == pytest.approx([np.mean(NUMBERS[name][domain]) for domain in DOMAINS])
        assert row.average == pytest.approx(means[name].mean())
        assert row.kept == pytest.approx(0.9)
        if name != "source":
            d, test = row.difference, stats.ttest_rel(means[name], means["source"])
            low, high = test.confidence_interval(0.95)
            assert (d.mean, d.low, d.high) == pytest.approx((np.mean(means[name] - means["source"]), low, high))
            assert d.holm_p == pytest.approx(corrected[name])
    assert (found["tent"].slowdown, found["t3a"].slowdown) == pytest.approx((3, 1))
    tent, t3a, source = (next(line for line in str(made).splitlines() if f" {name} " in line) for name in found)
    assert corrected["tent"] < 0.05 < corrected["t3a"]
    assert "+9.9 [" in tent
    assert ("*" in tent, "*" in t3a, "[" in source) == (True, False, False)
    assert "3.0x" in tent


def test_of_two_trials_no_gain_is_claimed_however_small_p_is(tmp_path):
    for trial in (0, 1):
        make(tmp_path / "out", "source", {"a": 0.5 + trial / 10}, trial=trial)
        make(tmp_path / "out", "tent", {"a": 0.7 + trial * 0.101}, trial=trial)
    made = adaptations(tmp_path / "out")
    assert rows(made)["tent"].difference.holm_p < 0.05
    assert "]*" not in str(made)
    assert "2 trials: too few to claim a gain or a loss." in str(made)


def test_a_lower_error_ranks_first(folder):
    sheet = adaptations(folder, "nll").sheets[0]
    assert [row.name for row in sheet.rows] == ["tent", "t3a", "source"]
    assert sheet.title == "toy: nll (lower is better) on the stream online"
    with pytest.raises(UnknownName, match=r"'nnl' is not a known metric of toy. Did you mean 'nll'"):
        adaptations(folder, "nnl")


def test_without_the_unadapted_model_it_says_so(tmp_path):
    make(tmp_path / "out", "tent", {"a": 0.5})
    made = adaptations(tmp_path / "out")
    assert "Adapt with adapter=source too: without it there is nothing to compare with." in " ".join(str(made).split())
    (row,) = made.sheets[0].rows
    assert (row.difference.mean, row.slowdown, row.cells) == (None, None, (0.5,))
    assert "1 trial: too few" in str(made)


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_trial_lacks_is_a_dash_and_no_part_of_a_mean(folder, whole):
    for file in folder.glob("*/run.json"):
        said = (RunFolder(file.parent).read() or {})["columns"]
        if (said["adapter"], said["trial_seed"]) == ("tent", 2) and (whole or said["test_domains"] == "a"):
            RunFolder(file.parent).write(status="failed")
    made = adaptations(folder)
    tent = rows(made)["tent"]
    assert tent.cells == (None if whole else pytest.approx(0.7), None)
    assert tent.average is None
    assert tent.difference.num_trials == 3
    assert made.sheets[0].rows[-1].name == "tent"
    text = " ".join(str(made).split())
    assert "tent: Compared on the 3 of 4 trials that both it and the baseline have in full." in text
    assert f"Left out, as not complete: {2 if whole else 1} of tent (failed)." in text
    assert "t3a: Compared" not in text


def test_several_hyper_parameters_are_named_by_what_differs(tmp_path):
    for lr in (0.1, 0.01):
        make(tmp_path / "out", "tent", {"a": 0.5 + lr}, hparams={"lr": lr, "num_updates": 1})
    make(tmp_path / "out", "source", {"a": 0.5})
    assert list(rows(adaptations(tmp_path / "out"))) == ["tent lr=0.1", "tent lr=0.01", "source"]


def test_two_streams_are_two_tables_that_say_which(tmp_path):
    for stream, options in (("continual", ""), ("continual", "rounds=3"), ("online", "")):
        make(tmp_path / "out", "source", {"a": 0.5}, stream=stream, stream_options=options, stream_key=options + stream)
    titles = [sheet.title.partition("stream ")[2] for sheet in adaptations(tmp_path / "out").sheets]
    assert titles == ["continual", "continual (rounds=3)", "online"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"norm": "group", "network_key": "network1"}, "network cnn (group norm)"),
        ({"network_key": "network1"}, "network_key network1"),
        ({"draw": "hparams_seed=3"}, "draw hparams_seed=3"),
        ({"protocol_key": "protocol1"}, "protocol_key protocol1"),
        ({"train_domains": "t u"}, "num_train 2"),
        ({"batch_size": 8}, "batches of 8"),
        ({"examples": 20}, "batches of 64; 20 examples of each"),
        ({"label": "wide"}, "wide, network cnn"),
        ({"averaging": "swad"}, "erm + swad"),
        ({"source_step": 50}, "network cnn (batch norm), step 50"),
    ],
)
def test_different_models_are_never_averaged(tmp_path, columns, said):
    make(tmp_path / "out", "source", {"a": 0.5})
    make(tmp_path / "out", "source", {"a": 0.7}, **columns)
    sheets = adaptations(tmp_path / "out").sheets
    assert sorted(row.cells[0] for sheet in sheets for row in sheet.rows) == [0.5, 0.7]
    assert len({sheet.subtitle for sheet in sheets}) == 2
    assert sum(said in sheet.subtitle for sheet in sheets) == 1


def test_streams_of_one_model_are_no_trials(tmp_path):
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        make(tmp_path / "out", "source", {"a": value}, seed=seed)
        make(tmp_path / "out", "tent", {"a": value + 0.1 + 0.01 * seed}, seed=seed)
    tent = rows(adaptations(tmp_path / "out"))["tent"]
    assert (tent.difference.num_trials, tent.difference.low) == (1, None)
    assert tent.difference.mean == pytest.approx(0.11)


def test_rounds_and_corruptions_are_averaged(tmp_path):
    make(tmp_path / "out", "source", {"a_fog_1": 0.4, "a_fog_2": 0.6, "b_fog_1": 0.1, "mixed": 0.8}, rounds=2)
    sheet = adaptations(tmp_path / "out").sheets[0]
    assert (sheet.domains, sheet.rows[0].cells) == (("b", "a", "mixed"), pytest.approx((0.1, 0.5, 0.8)))


def test_copies_count_once_and_two_numbers_for_one_place_are_refused(tmp_path):
    for copy in ("one", "two"):
        make(tmp_path / copy, "source", {"a": 0.5})
    assert len(adaptations([tmp_path / "one", tmp_path / "two"]).values) == 2
    other = make(tmp_path / "two", "source", {"a": 0.7}, source="another")
    with pytest.raises(ValueError, match=r"The adaptations .* both hold source on t/a/0/a in trial 0/-1, expected one"):
        adaptations([tmp_path / "one", other.path])


def test_numbers_that_are_not_there_stay_so(tmp_path):
    make(tmp_path / "out", "source", {"a": None, "b": 0.5})
    row = adaptations(tmp_path / "out").sheets[0].rows[0]
    assert (row.cells, row.average) == ((0.5, None), None)


def test_nothing_to_rank_is_a_sentence(tmp_path):
    make(tmp_path / "out", "source", {"a": 0.5}, status="failed")
    with pytest.raises(
        ValueError, match=r"out holds no complete adaptation. Left out, .*: 1 of source \(failed\). Make"
    ):
        adaptations([tmp_path / "out"])


def test_options_of_other_tables_are_refused():
    ranks_adaptations("train_validation", "text", None)
    for options in (("oracle", "text", None), ("train_validation", "csv", None), ("train_validation", "text", "x")):
        with pytest.raises(ValueError, match=r"are options of tables of trained runs. Leave them out for adaptations"):
            ranks_adaptations(*options)
