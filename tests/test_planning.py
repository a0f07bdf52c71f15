"""Plans of sweeps: counts against counts by hand, times as arithmetic, and nothing that is left behind."""

import json
import os
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dgbench
from dgbench import cli, expansion, plan_text, planning, stopwatch
from dgbench.algorithms.erm import ERM
from dgbench.planning import Plan, Row, Work
from dgbench.stopwatch import Timing

# digits_color: three domains of 599 examples, of which 480 are `in` and 119 are `out`.
IN, OUT = 480, 119
EVALUATED = 2 * OUT + IN + OUT
SHORT = ["dataset=digits_color", "protocol.num_steps=5", "protocol.evaluate_every=2", "network.width=8"]
TINY = [*SHORT, "optim.batch_size=4"]


@pytest.fixture
def timed(monkeypatch):
    """The runs that are timed; what each is said to take: 0.1 s per step, and so much per step and example."""
    runs = []

    def measure(run):
        runs.append(run)
        size = run.optim.batch_size
        return Timing(start=1.0, step=0.1 + (0 if size == "all" else size), evaluation=2.0, example=0.5, num_examples=7)

    monkeypatch.setattr(planning, "measure", measure)
    return runs


def test_counts_are_those_made_by_hand(timed):
    made = planning.plan(["-m", *TINY, "algorithm=erm,vrex", "test_domains=each"])
    assert [(row.algorithm, row.dataset, row.network) for row in made.rows] == [
        ("erm", "digits_color", "mlp"),
        ("vrex", "digits_color", "mlp"),
    ]
    for row in made.rows:
        assert (row.runs, row.done, row.todo) == (3, 0, 3)
        assert row.trained == 3 * 5 * (2 * 4)  # runs, steps, examples of two training domains
        assert row.evaluated == 3 * 3 * EVALUATED  # runs, evaluations after the steps 0, 2 and 4
    assert [run.algorithm for run in timed] == ["erm", "vrex"]
    assert made.total("trained") == 2 * made.rows[0].trained


def test_criteria_and_pairs_decide_what_is_counted(timed):
    (one,) = planning.plan([*TINY, "test_domains=each", "criteria=[train_validation]"]).rows
    assert one.evaluated == 3 * 3 * (2 * OUT + IN)
    singles, pairs = planning.plan([*TINY, "test_domains=each,pairs"]).rows
    assert (singles.network, singles.runs, pairs.network, pairs.runs) == ("mlp, domains=2", 3, "mlp, domains=1", 3)
    assert (singles.trained, pairs.trained) == (5 * 4 * 3 * 2, 5 * 4 * 3 * 1)
    assert (singles.evaluated, pairs.evaluated) == (3 * 3 * EVALUATED, 3 * 3 * (OUT + 2 * (IN + OUT)))


@pytest.mark.parametrize(("averaging", "times"), [("none", 1), ("ema", 2), ("swad", 1)])
def test_an_average_is_evaluated_too(averaging, times, timed):
    (row,) = planning.plan([*SHORT, f"averaging={averaging}", "test_domains=[0]"]).rows
    assert row.evaluated == times * 3 * EVALUATED


@pytest.mark.parametrize(
    ("keys", "examples"),
    [
        (["optim.batch_size=4", "protocol.sampling=pooled"], 8),
        (["optim.batch_size=4", "protocol.sampling=domains:1"], 4),
        (["optim.batch_size=4", "protocol.replacement=false"], 8),
        (["optim.batch_size=all"], 2 * IN),
    ],
)
def test_examples_of_a_step_are_those_that_are_drawn(keys, examples, timed):
    (row,) = planning.plan([*SHORT, *keys, "test_domains=[0]"]).rows
    assert row.trained == 5 * examples


def test_estimates_are_arithmetic_on_what_was_measured(timed):
    (short,) = planning.plan([*TINY, "test_domains=[0]"]).rows
    assert short.seconds == pytest.approx(1 + 5 * 4.1 + 3 * (2 + 0.5 * (EVALUATED - 7)))
    (long,) = planning.plan([*TINY, "test_domains=each", "protocol.num_steps=50"]).rows
    assert long.step_seconds == pytest.approx(10 * 3 * short.step_seconds)
    assert long.longest == pytest.approx(long.seconds / 3)


def test_batches_of_several_sizes_lie_on_a_line_through_two_that_are_timed(timed):
    (row,) = planning.plan([*SHORT, "test_domains=[0]", "optim.batch_size=8,4,32"]).rows
    assert [run.optim.batch_size for run in timed] == [8, 32]
    assert row.step_seconds == pytest.approx(5 * (8.1 + 4.1 + 32.1))


def test_networks_that_differ_in_an_option_are_timed_apart(timed):
    rows = planning.plan([*TINY, "test_domains=each", "network.width=8,16"]).rows
    assert [(row.network.split()[1], row.runs) for row in rows] == [("network.width=8", 3), ("network.width=16", 3)]


def test_what_is_done_and_what_was_begun_is_subtracted(timed, monkeypatch):
    dgbench.sweep(**{"dataset": "digits_color", "test_domains": ["plus90"], "optim.batch_size": 4, "network.width": 8},
                  protocol={"num_steps": 5, "evaluate_every": 2})  # fmt: skip
    (row,) = planning.plan([*TINY, "test_domains=each"]).rows
    assert (row.runs, row.done, row.todo) == (3, 1, 2)
    assert row.trained == 2 * 5 * 8
    assert timed[0].domains.test == ("plus80",)

    run = expansion.expand([*TINY, "test_domains=[plus80]"])[0].run
    run.folder.create()
    run.folder.resume_file.touch()
    run.folder.lines_file.write_text("".join(json.dumps({"step": step}) + "\n" for step in (0, 2)))
    (row,) = planning.plan([*TINY, "test_domains=[plus80]"]).rows
    assert row.work == (Work(steps=2, examples=8, evaluations=1, evaluated=EVALUATED),)
    (row,) = planning.plan([*TINY, "test_domains=[plus80],[plus90]", "overwrite=true"]).rows
    assert (row.done, row.trained) == (0, 2 * 5 * 8)

    (row,) = planning.plan([*TINY, "test_domains=[plus90]"]).rows
    assert (row.todo, row.seconds, row.longest) == (0, 0, 0)
    assert "nothing to do" in plan_text._of_work(row)


@pytest.mark.parametrize("key", ["protocol.evaluate_every=2", "protocol.num_steps=1", "protocol.num_steps=2"])
def test_a_real_timing_leaves_nothing_behind(key, tmp_path):
    torch.set_num_threads(2)
    try:
        torch.manual_seed(5)
        before = torch.get_rng_state(), random.getstate(), pickle.dumps(np.random.get_state())
        (row,) = planning.plan([*TINY, key, "algorithm=dann", "test_domains=[0]", "runs_dir=out", "threads=1"]).rows
        after = torch.get_rng_state(), random.getstate(), pickle.dumps(np.random.get_state())
        threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(1)
    assert row.problem is None
    ((examples, timing),) = row.timings
    assert (examples, timing.num_examples) == (8, 4 * stopwatch.FEW)
    assert min(timing.start, timing.step, timing.evaluation) > 0
    assert row.seconds > timing.start
    assert list(tmp_path.iterdir()) == []
    assert threads == 2
    assert after[1:] == before[1:]
    assert torch.equal(after[0], before[0])


def test_few_steps_are_made_and_their_time_is_of_a_step(monkeypatch):
    made = []
    before = ERM.loss

    def loss(self, batch):
        made.append(self.step)
        stopwatch.time.sleep(0.03)
        return before(self, batch)

    monkeypatch.setattr(ERM, "loss", loss)
    run = expansion.expand([*TINY, "test_domains=[0]", "protocol.num_steps=100000"])[0].run
    timing = stopwatch.measure(run)
    assert stopwatch.STEPS <= len(made) <= stopwatch.STEPS + 10
    assert timing.step >= 0.03
    assert timing.start < 100 * timing.step


def test_a_run_that_cannot_be_made_says_why_and_the_others_are_timed():
    lines = [*TINY, "algorithm=coral,erm", "test_domains=[1]", "train_domains=[0]"]
    coral, erm = planning.plan([*lines, "network=mlp"]).rows
    assert erm.problem is None
    assert erm.seconds > 0
    assert coral.problem == "coral needs at least 2 training domains, got 1."
    assert (coral.seconds, coral.trained, coral.todo) == (0, 0, 1)
    grid, said = plan_text.sheet(Plan((coral, erm), None))
    assert "no time" in str(next(iter(grid.columns[-1].cells)))
    assert any(coral.problem in sentence for sentence in said)


@pytest.mark.parametrize(
    ("loss", "text"), [(float("nan"), "The loss was NaN or infinite by step 0."), (None, "TypeError: ")]
)
def test_a_run_that_fails_in_its_first_steps_says_why(loss, text, monkeypatch):
    monkeypatch.setattr(ERM, "loss", lambda self, batch: {"loss": self.domain_risks(batch).mean() * loss})
    (row,) = planning.plan([*TINY, "test_domains=[0]"]).rows
    assert (row.problem or "").startswith(text)


def test_workers_are_those_that_the_launcher_has(timed, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    asked = [*TINY, "test_domains=each"]
    joblib = [*asked, "hydra/launcher=joblib"]
    assert planning.plan(asked).workers is None
    assert planning.plan(joblib).workers == 6
    assert planning.plan([*joblib, "hydra.launcher.n_jobs=-2"]).workers == 5
    made = planning.plan([*joblib, "hydra.launcher.n_jobs=2"])
    assert made.workers == 2
    assert made.seconds_at_once == pytest.approx(made.total("seconds") / 2)
    many = planning.plan([*joblib, "hydra.launcher.n_jobs=40"])
    assert many.seconds_at_once == pytest.approx(many.rows[0].longest)
    with pytest.raises(ValueError, match=r"hydra.launcher.n_jobs=0, expected a number of workers, or -1"):
        planning.plan([*joblib, "hydra.launcher.n_jobs=0"])


def test_the_command_prints_a_table_and_the_total(monkeypatch, capsys):
    hour = Row("erm", "digits_rot", "mlp", 3, 1, (Work(1800, 96, 4, 500),) * 2, ((96, Timing(0, 2, 0, 0, 0)),))
    asked = []

    def plan(overrides, tell):
        asked.extend(overrides)
        return Plan((hour,), 2)

    monkeypatch.setattr(planning, "plan", plan)
    monkeypatch.setattr(sys, "argv", ["dgbench", "plan", "-m", "algorithm=erm", "hydra/launcher=joblib"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert asked == ["-m", "algorithm=erm", "hydra/launcher=joblib"]
    assert "erm digits_rot mlp 3 1 2 345,600 4,000 2 0 1 h 0 min 2 h 0 min" in said
    assert "3 runs: 1 done, 2 to do, which train on 345,600 images and evaluate 4,000." in said
    assert "About 2 h 0 min on one worker, 1 h 0 min on 2 if each is then as fast as one alone." in said
    assert "Times are those of the first steps" in said
    assert not Path("runs").exists()
