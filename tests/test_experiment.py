"""Experiments: what a file asks for, what replaces what, that it continues, how it ends."""

import struct
import subprocess
import sys

import pytest
from PIL import Image

from dgbench import experiment, record, stages
from dgbench.algorithms.erm import ERM
from dgbench.hparams import facts, filled
from dgbench.registry import algorithms
from tests.datasets.test_uci import write_files

FEW = """
      - dataset=digits_color
      - test_domains=[0],[1]
      - protocol.num_steps=3
      - protocol.evaluate_every=2
      - optim.batch_size=4
      - network.width=8
"""
TWO_STAGES = f"""
summary: Two methods, two ways.
stages:
  - train:{FEW}      - trial_seed=range(2)
    per_algorithm:
      erm: [optim.lr=0.01]
      vrex: [algorithm.penalty_weight=3]
  - train:{FEW}      - label=again
  - table: {{criterion: last_step}}
  - compare: {{baseline: erm}}
"""


@pytest.fixture
def write(tmp_path):
    """Write an experiment's file; returns its name for the command."""

    def write_(text=TWO_STAGES):
        (tmp_path / "mine.yaml").write_text(text)
        return "mine.yaml"

    return write_


def planned(name, *changes):
    """The runs of each stage that trains."""
    return [
        [job.run for sweep in sweeps for job in sweep.jobs] for _, sweeps in experiment.plan(name, changes) if sweeps
    ]


def test_a_method_has_overrides_of_its_own(write):
    first, second = planned(write())
    assert [(run.algorithm, run.optim.lr) for run in first[::4]] == [("erm", 0.01), ("vrex", 0.001)]
    assert first[4].hp.penalty_weight == 3
    assert (len(first), len(second)) == (2 * 2 * 2, 2)
    assert {run.keys.runs_dir for run in first + second} == {"runs/experiments/mine"}


def test_the_command_line_replaces_a_key_in_every_stage_or_adds_it(write):
    first, second = planned(write(), "network.width=16", "trial_seed=0", "hparams_seed=range(3)", "runs_dir=there")
    assert {run.network.width for run in first + second} == {16}
    assert {run.keys.runs_dir for run in first + second} == {"there"}
    assert (len(first), len(second)) == (2 * 2 * 3, 2 * 3)
    first, second = planned(write(), "network=small_cnn")
    assert {run.network.name for run in first + second} == {"small_cnn"}


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """MNIST's four files, of a few gray images."""
    folder = tmp_path / "data/MNIST/raw"
    folder.mkdir(parents=True)
    for part, n in (("train", 60), ("t10k", 10)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 0x803, n, 28, 28) + bytes(range(196)) * 4 * n
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + bytes(range(10)) * (n // 10))
    monkeypatch.setenv("DGBENCH_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("name", stages.names())
def test_every_experiment_expands(name, mnist, tmp_path):
    write_files(tmp_path / "data/uci")
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        for kind in ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"):
            folder = tmp_path / "data/PACS" / domain / kind
            folder.mkdir(parents=True)
            for i in range(5):
                Image.new("RGB", (8, 8), color=(i, 40 * i, 9)).save(folder / f"{i}.png")
    planned_ = experiment.plan(name)
    assert any(stage.table for stage, _ in planned_)
    runs = [job.run for _, sweeps in planned_ for sweep in sweeps for job in sweep.jobs]
    assert len({run.run_id for run in runs}) == len(runs)


def test_labelled_rows_stand_in_one_table(command, mnist):
    changes = ["dataset.data_seed=0,1", "protocol.num_steps=2", "network.width=4", "runs_dir=out"]
    code, out, _ = command("experiment", "colored_mnist_irm", *changes)
    assert code == 0
    table, comparison = out.split("colored_mnist_irm: accuracy in %, selected by last_step")[1:]
    assert sorted(line.split()[1] for line in table.splitlines() if "2/2" in line) == ["erm", "gray_scale", "irm"]
    assert [name for name in ("gray_scale", "irm") if f"\n {name} " in comparison] == ["gray_scale", "irm"]


def test_the_values_of_irms_authors_arrive_as_they_are(mnist):
    of = {run.keys.label: run for runs in planned("colored_mnist_irm") for run in runs}
    irm, erm, gray = of["irm"], of["erm"], of["gray_scale"]
    assert (irm.hp.penalty_weight, irm.hp.anneal_steps, irm.hp.l2_weight) == (91257.18613115903, 190, 0.00110794568)
    assert (irm.hp.estimator, irm.hp.rescale, irm.hp.resets_optimizer) == ("squared", True, False)
    assert [(run.recipe["width"], run.protocol.num_steps) for run in (irm, erm, gray)] == [
        (390, 501),
        (256, 501),
        (83, 101),
    ]
    assert [run.optim.weight_decay for run in (irm, erm, gray)] == [0, 2 * 0.001, 2 * 0.0008602868865288383]
    assert [run.dataset.options.grayscale for run in (irm, erm, gray)] == [False, False, True]
    for run in (irm, erm, gray):
        assert (run.optim.batch_size, run.optim.optimizer, run.protocol.splits) == ("all", "adam", "official")
        same = {"depth": 2, "init": "xavier", "activation": "relu", "norm": "none", "normalise": "none"}
        assert same.items() <= run.recipe.items()


def test_the_stages_are_done_in_turn_and_not_twice(command, write, tmp_path):
    code, out, _ = command("experiment", write())
    assert code == 0
    said = out.splitlines()
    assert said[:4] == [
        "1. train: 8 runs, erm, vrex on digits_color",
        "2. train: 2 runs, again on digits_color",
        "3. table: criterion last_step",
        "4. compare: baseline erm",
    ]
    assert out.count("4 runs: 4 complete") == 2
    assert "2 runs: 2 complete" in out
    assert "accuracy in %, selected by last_step\n" in out
    assert "selected by train_validation; differences from erm" in out
    assert [line.split()[0] for line in said if line.startswith(" vrex")] == ["vrex"]
    runs = tmp_path / "runs/experiments/mine"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("run.json")}
    assert len(before) == 10
    code, _, err = command("experiment", "mine.yaml")
    assert (code, err.count("Nothing to do")) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("run.json")} == before


def test_the_plan_alone_trains_nothing(command, write, tmp_path):
    code, out, _ = command("experiment", write(), "--plan", "trial_seed=range(5)")
    assert (code, out.splitlines()[0]) == (0, "1. train: 20 runs, erm, vrex on digits_color")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_failed_runs_let_the_rest_go_on_and_end_in_code_1(command, write, monkeypatch):
    def loss(self, batch):
        raise RuntimeError("the sensor fell off")

    monkeypatch.setattr(ERM, "loss", loss)
    code, out, err = command("experiment", write(), "trial_seed=0")
    assert code == 1
    assert "2 runs: 2 failed" in out
    assert "vrex: Compared on the 0 of 1 trials" in out
    assert "the sensor fell off" in err


def test_a_launcher_runs_every_sweep(write, tmp_path):
    # One job at a time: workers in processes of their own would import torch for each sweep.
    changes = ["trial_seed=0", "test_domains=[0]", "hydra/launcher=joblib"]
    changes += ["hydra.launcher.n_jobs=1", "hydra.launcher.verbose=10"]
    command = [sys.executable, "-W", "ignore", "-m", "dgbench", "experiment", write(), *changes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 runs: 1 complete") == 3
    assert "[Parallel(n_jobs=1)]: Done" in done.stdout + done.stderr
    assert "differences from erm" in done.stdout
    assert list(record.runs(tmp_path / "runs/experiments/mine")["status"]) == ["complete"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "runs"]


def test_an_error_in_a_launched_sweep_ends_the_experiment(command, write, monkeypatch):
    monkeypatch.setattr("dgbench.application.main", lambda command, arguments: sys.exit(130))
    code, out, _ = command("experiment", write(), "hydra/launcher=joblib")
    assert code == 130
    assert "\n2. train\n" not in out
    assert sys.argv[1] == "experiment"


def test_hyper_parameters_that_a_stage_will_choose_do_not_hinder_the_plan(write):
    text = TWO_STAGES.replace("- label=again", "- hparams_from=runs/experiments/mine\n      - trial_seed=5")
    assert [len(runs) for runs in planned(write(text))] == [8, 2]


def test_the_roster_has_every_method_with_a_fifth_of_its_steps():
    planned = experiment.plan("embedded_roster", ["test_domains=[0]", "dataset=digits_color"])
    runs = {job.run.algorithm: job.run for _, sweeps in planned for sweep in sweeps for job in sweep.jobs}
    assert set(runs) <= set(algorithms.names())
    assert len(runs) > 40
    for name, run in runs.items():
        hparams = algorithms[name].HParams
        default = filled(hparams(), "small")
        for field, fact in facts(hparams).items():
            if fact.is_step:
                assert getattr(run.hp, field) == getattr(default, field) // 5, (name, field)
