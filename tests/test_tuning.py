"""Hyper-parameters: one draw per trial or per sweep, or those that another sweep chose."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import dgbench
from dgbench import composition, config, expansion, record, tuning
from dgbench.selection import selection
from tests.fabricate import make_run, make_scores

FEW = {"protocol": {"num_steps": 4, "evaluate_every": 2}, "optim.batch_size": 4, "network.width": 4}
FEW_TEXT = ["protocol.num_steps=4", "protocol.evaluate_every=2", "optim.batch_size=4", "network.width=4"]


def resolved(*arguments):
    return config.resolve(composition.compose(["dataset=digits_color", "test_domains=[0]", *FEW_TEXT, *arguments]))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search over three draws in two trials."""
    runs_dir = tmp_path_factory.mktemp("searched")
    dgbench.sweep(
        algorithm=["erm", "vrex"],
        dataset="digits_color",
        test_domains=["plus90"],
        hparams_seed=range(3),
        hparams_per="sweep",
        trial_seed=range(2),
        runs_dir=str(runs_dir),
        **FEW,
    )
    return runs_dir


def test_a_draw_is_that_of_its_trial_or_of_the_sweep():
    for per, is_equal in (("trial", False), ("sweep", True)):
        first, second = (resolved("hparams_seed=1", f"hparams_per={per}", f"trial_seed={t}") for t in (0, 1))
        assert (first.optim.lr == second.optim.lr) is is_equal
    assert resolved("hparams_seed=1", "hparams_per=sweep").optim == resolved("hparams_seed=1").optim
    with pytest.raises(LookupError, match=r"'run' is not a known value of hparams_per\. Known: trial, sweep"):
        resolved("hparams_per=run")


def test_the_draw_with_the_best_mean_over_trials_is_chosen(searched):
    runs = record.runs(searched).filter(algorithm="vrex")
    rows = record.read(runs, ["accuracy"])
    best = {}
    for draw in range(3):
        mine = rows.filter(hparams_seed=draw)
        values = []
        for trial in range(2):
            chosen = selection("train_validation").choose(mine.filter(trial_seed=trial))
            values.append(chosen["selection_value"].item())
        best[sum(values) / 2, draw] = mine
    draw = max(best)[1]
    run = resolved("algorithm=vrex", f"hparams_from={searched}", "trial_seed=5")
    expected = resolved("algorithm=vrex", f"hparams_seed={draw}", "hparams_per=sweep", "trial_seed=5")
    assert (run.hp, run.optim) == (expected.hp, expected.optim)
    assert run.run_id != expected.run_id
    assert run.tuned is not None
    assert (run.tuned["sweep"], run.tuned["criterion"]) == (searched.name, "train_validation")


def test_what_the_user_writes_still_stands(searched):
    run = resolved("algorithm=vrex", f"hparams_from={searched}", "trial_seed=5", "algorithm.penalty_weight=7")
    assert run.hp.penalty_weight == 7


def test_another_criterion_may_choose(searched):
    run = resolved(f"hparams_from={searched}", "trial_seed=5", "hparams_by=oracle")
    assert run.tuned is not None
    assert run.tuned["criterion"] == "oracle"


def test_tuned_runs_are_rows_of_their_own(searched, tmp_path):
    dgbench.sweep(
        algorithm=["erm", "vrex"],
        dataset="digits_color",
        test_domains=["plus90"],
        hparams_from=str(searched),
        trial_seed=[2, 3],
        runs_dir=str(tmp_path),
        **FEW,
    )
    runs = record.runs(tmp_path)
    assert runs["tuned"].unique().to_list() == [f"train_validation in {searched.name}"]
    said = " ".join(str(dgbench.table([searched, tmp_path])).split())
    for name in ("erm", "vrex", "erm (tuned)", "vrex (tuned)"):
        assert f" {name} " in said
    assert f"(tuned): hyper-parameters were chosen by train_validation in {searched.name}, in other trials" in said


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["trial_seed=1"], r"trial_seed=1 was used by .* \(its trials: 0, 1\)\. .*trial_seed=range\(2,5\)"),
        (["trial_seed=5", "hparams_seed=2"], "hparams_seed=2 draws hyper-parameters, and hparams_from=.* Leave one"),
        (
            ["trial_seed=5", "algorithm=irm"],
            "has no finished runs of irm on digits_color, test plus90, with this network and protocol",
        ),
        (["trial_seed=5", "network.width=5"], "has no finished runs of erm"),
        (["trial_seed=5", "protocol.holdout_fraction=0.3"], "has no finished runs of erm"),
        (["trial_seed=5", "hparams_by=last_step"], "hparams_by=last_step compares no draws, expected a criterion that"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(searched, arguments, text):
    with pytest.raises(ValueError, match=text):
        resolved(f"hparams_from={searched}", *arguments)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no runs\. Name the runs_dir of a finished sweep"):
        resolved(f"hparams_from={tmp_path}", "trial_seed=5")
    with pytest.raises(FileNotFoundError, match="is not a folder of runs"):
        resolved(f"hparams_from={tmp_path / 'nowhere'}", "trial_seed=5")


def test_what_the_sweep_did_since_is_seen(searched, tmp_path):
    shutil.copytree(searched, tmp_path / "sweep")
    said = record.runs(tmp_path / "sweep").filter(algorithm="vrex", hparams_seed=0, trial_seed=0)["path"].item()
    asked = ["dataset=digits_color", "test_domains=[0]", *FEW_TEXT, "algorithm=vrex", "trial_seed=5"]
    asked += [f"hparams_from={tmp_path / 'sweep'}"]
    (before,) = expansion.expand(asked)
    draws = record.runs(tmp_path / "sweep").filter(algorithm="vrex", hparams=chosen_draw(before.run))
    for path in draws["path"]:
        record.RunFolder(path).write(status="diverged")
    (after,) = expansion.expand(asked)
    assert chosen_draw(after.run) != chosen_draw(before.run)
    assert Path(said).exists()


def chosen_draw(run):
    """The column `hparams` of the run that was chosen."""
    return record.identity_hash({"algorithm": run.identity["algorithm"], "optim": run.identity["optim"]})


def test_a_draw_that_lacks_a_trial_of_the_others_is_not_chosen(tmp_path):
    for draw, values in enumerate([(0.5, 0.5), (0.9,)]):
        for trial, value in enumerate(values):
            make_run(tmp_path, [(0, make_scores("a", 0.1, value))], hparams_seed=draw, trial_seed=trial)
    facts = {**record.runs(tmp_path).row(0, named=True), "trial_seed": 7, "splits": "random"}
    identity: dict[str, dict] = {"algorithm": {"hparams": {}}, "optim": {}}
    for folder in record.find(tmp_path):
        folder.write(identity=identity)
    tuning.forget()
    found = tuning.chosen(tmp_path, "train_validation", facts)
    assert record.runs(tmp_path).filter(run_id=found["run"])["hparams_seed"].item() == 0


def test_with_official_splits_another_trial_seed_is_no_new_trial(tmp_path):
    make_run(tmp_path, [(0, make_scores("a", 0.1))], data_seed=3)
    facts = {**record.runs(tmp_path).row(0, named=True), "trial_seed": 7, "splits": "official"}
    tuning.forget()
    with pytest.raises(ValueError, match=r"data_seed=3 was used by .* e\.g\. data_seed=range\(4,7\)"):
        tuning.chosen(tmp_path, "train_validation", facts)


def test_a_label_and_chosen_hyper_parameters_go_together(searched):
    run = resolved("algorithm=vrex", f"hparams_from={searched}", "trial_seed=5", "label=mine")
    assert (run.hp, run.keys.label) == (
        resolved("algorithm=vrex", f"hparams_from={searched}", "trial_seed=5").hp,
        "mine",
    )
