"""Averages of the weights against the weights of every step, kept and averaged in numpy."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import dgbench
from dgbench import composition, config, record, runner
from dgbench.averaging import AVERAGINGS, make_averaging, weights_name
from dgbench.evaluation import Evaluation
from dgbench.registry import UnknownName, algorithms

KEYS = ["dataset=digits_color", "test_domains=[0]", "optim.batch_size=8", "network.width=8", "threads=1"]


def run_of(tmp_path, *overrides):
    return config.resolve(composition.compose([*KEYS, f"runs_dir={tmp_path}", *overrides]))


@pytest.fixture
def trajectory(monkeypatch):
    """The parameters after every step, filled by the next run."""
    kept, before = [], Evaluation.on_train_batch_end

    def spy(self, trainer, pl_module, *args):
        kept.append({name: p.detach().double().numpy().copy() for name, p in pl_module.named_parameters()})
        before(self, trainer, pl_module, *args)

    monkeypatch.setattr(Evaluation, "on_train_batch_end", spy)
    return kept


def exponential(values, decay):
    mean = values[0]
    for t, value in enumerate(values[1:], start=2):
        d = min(decay, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * value
    return mean


AVERAGES = {
    "ema:0.6": lambda values: exponential(values, 0.6),
    "ema": lambda values: exponential(values, 0.999),
    "sma:5": lambda values: np.mean(values[3:], axis=0),  # from the weights before the fifth step on
    "sma": lambda values: values[-1],  # not begun
    # Evaluated after 1, 4, 7, 10 and 13 steps; the loss falls throughout, and the valley has not begun.
    "swad": lambda values: np.mean(values[10:13], axis=0),
}


@pytest.mark.parametrize("averaging", AVERAGES)
def test_weights_that_are_kept_are_the_average_of_the_trajectory(averaging, tmp_path, trajectory):
    run = run_of(tmp_path, f"averaging={averaging}", "protocol.num_steps=13", "protocol.evaluate_every=3")
    assert runner.execute(run).status == "complete"
    got = dgbench.load(run.folder.path, step=12).state_dict()
    assert len(trajectory) == 13
    for name in trajectory[0]:
        expected = AVERAGES[averaging]([weights[name] for weights in trajectory])
        np.testing.assert_allclose(got[name].numpy(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("averaging", ["ema", "sma:3", "swad:0.2"])
def test_both_weights_are_evaluated_and_the_last_are_as_without(averaging, tmp_path):
    run = run_of(tmp_path, f"averaging={averaging}", "protocol.num_steps=9", "protocol.evaluate_every=4", "seed=5")
    plain = run_of(tmp_path, "protocol.num_steps=9", "protocol.evaluate_every=4", "seed=5")
    runner.execute(plain)
    runner.execute(run)
    rows = record.read(tmp_path).filter(run_id=run.run_id)
    name = weights_name(averaging)
    every = [8] if name == "swad" else [0, 4, 8]
    assert sorted(rows.filter(weights=name)["step"].unique()) == every
    keep = ["step", "split", "domain", "metric", "value"]
    last = rows.filter(weights="last").select(keep).sort(keep)
    assert last.equals(record.read(tmp_path).filter(run_id=plain.run_id).select(keep).sort(keep), null_equal=True)
    # What is loaded is what competes: its predictions have the recorded accuracy.
    answers = dgbench.predict(run.folder.path, step=8)
    for row in rows.filter(weights=name, step=8, metric="accuracy", split="in").iter_rows(named=True):
        mine = answers.filter(split="in", domain=row["domain"])
        assert (mine["prediction"] == mine["target"]).mean() == pytest.approx(row["value"])


def test_a_table_names_the_average(tmp_path):
    for averaging in ("none", "swad", "ema:0.9"):
        runner.execute(run_of(tmp_path, f"averaging={averaging}", "protocol.num_steps=4", "protocol.evaluate_every=2"))
    text = str(dgbench.table(tmp_path))
    for name in ("erm + swad", "erm + ema:0.9"):
        assert name in text


def test_batch_norms_of_the_valley_are_taken_anew_from_the_first_batches(tmp_path):
    overrides = ["network.norm=batch", "protocol.num_steps=7", "protocol.evaluate_every=3", "averaging=swad"]
    run = run_of(tmp_path, *overrides)
    runner.execute(run)
    algorithm = dgbench.load(run.folder.path)
    norm = next(m for m in algorithm.modules() if isinstance(m, torch.nn.BatchNorm1d))
    first: Any = algorithm.network.body.stage(algorithm.network.stages[0])[0]
    splits = runner.make_splits(run)
    batches = runner.make_loader(run, splits, algorithm, torch.device("cpu")).batches
    with torch.no_grad():
        maps = [first(algorithm.network.normalise(batches[s].x.flatten(0, 1)).flatten(1)) for s in range(7)]
    means, variances = ([getattr(m, how)(0) for m in maps] for how in ("mean", "var"))
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("averaging", AVERAGINGS)
@pytest.mark.parametrize("name", ["erm", "sam", "dann", "fish", "vrex", "erm_plus_plus"])
def test_every_kind_of_method_can_be_averaged(name, averaging, tmp_path):
    assert name in algorithms.names()
    overrides = [f"algorithm={name}", f"averaging={averaging}", "protocol.num_steps=5", "protocol.evaluate_every=2"]
    run = run_of(tmp_path, *overrides)
    outcome = runner.execute(run)
    assert outcome.status == "complete", outcome.reason
    assert all(torch.isfinite(p).all() for p in dgbench.load(run.folder.path).parameters())
    said = [json.loads(line)["weights"] for line in run.folder.lines_file.read_text().splitlines()]
    assert set(said) == {"last", averaging}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("mean", UnknownName, "'mean' is not a known value of averaging. Known: none, ema, sma, swad"),
        ("ema:x", ValueError, r"averaging=ema:x, expected a number after the colon. Write averaging=ema:0\.999\."),
        ("ema:1", ValueError, "averaging=ema:1, expected a decay from 0 to below 1"),
        ("sma:0.5", ValueError, r"averaging=sma:0\.5, expected a number of steps from 1"),
        ("swad:-1", ValueError, "averaging=swad:-1, expected a tolerance of 0 or more, as a share of the loss"),
        ("swad:nan", ValueError, "averaging=swad:nan, expected a tolerance of 0 or more"),
    ],
)
def test_what_is_no_averaging_is_refused_in_a_sentence(text, error, message):
    with pytest.raises(error, match=message):
        make_averaging(text)
