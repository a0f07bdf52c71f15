"""What adaptations record: each domain of a pooled stream, errors per batch, memory, the order of examples."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import dgbench
from dgbench import adapt_runner, runner, wandb_logger, wandb_summary
from dgbench.adaptation import expand
from dgbench.leaderboard.adaptation import adaptations
from dgbench.record import RunFolder
from tests import adapted
from tests.fabricate import make_run
from tests.test_adaptation import amend


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that tests on two domains."""
    return adapted.train(tmp_path_factory.mktemp("runs"), test_domains=["plus80", "minus90"])


@pytest.fixture
def adapt(trained, tmp_path):
    """Adapt by some keys; the folder."""

    def run(*keys, run=trained):
        (adaptation,) = expand([f"runs={run}", f"runs_dir={tmp_path / 'out'}", *keys])
        outcome = adapt_runner.execute(adaptation)
        assert outcome.status == "complete", outcome.reason
        return RunFolder(outcome.folder)

    return run


@pytest.mark.parametrize("stream", [["stream=mixed"], ["stream=correlated", "stream.mixed=true"]])
def test_of_pooled_domains_each_is_measured_and_all_of_them(adapt, stream):
    # The unadapted model answers each image alike, in whatever company it comes.
    apart = {key: v for line in adapt("source_after=false").lines() for key, v in line["values"].items()}
    folder = adapt(*stream, "source_after=false")
    (line,) = folder.lines()
    n = line["n"]
    assert set(n) == {"stream/plus80", "stream/minus90", "stream/mixed"}
    assert n["stream/mixed"] == n["stream/plus80"] + n["stream/minus90"] == sum(line["curve"]["n"])
    own = {key: v for key, v in line["values"].items() if "/mixed/" not in key}
    assert own == pytest.approx(apart, rel=1e-5)
    correct = sum(apart[f"stream/{name}/accuracy"] * n[f"stream/{name}"] for name in ("plus80", "minus90"))
    assert line["values"]["stream/mixed/accuracy"] == pytest.approx(correct / n["stream/mixed"])
    assert sum(line["curve"]["correct"]) == line["values"]["stream/mixed/correct"] == round(correct)
    assert {key for row in wandb_logger._curve(line) for key in row} == {
        "position",
        "curve/mixed/seconds",
        "curve/mixed/accuracy",
    }
    mean = np.mean([apart[f"stream/{name}/accuracy"] for name in ("plus80", "minus90")])
    assert wandb_summary.summary(folder)["stream/accuracy"] == pytest.approx(mean)
    sheet = adaptations(folder.path).sheets[0]
    assert sheet.domains == ("plus80", "minus90", "mixed")
    assert sheet.rows[0].cells[2] == pytest.approx(correct / n["stream/mixed"])
    assert sheet.rows[0].average == pytest.approx(mean)
    assert "mixed: all domains' examples together, no part of the Average." in " ".join(sheet.notes)


def test_a_regression_records_its_squared_errors_batch_by_batch(tmp_path, adapt):
    run = adapted.train(tmp_path / "runs", dataset="iris_simpson", test_domains=["setosa"], network="mlp")
    (line,) = adapt("batch_size=16", "source_after=false", run=run).lines()
    curve = line["curve"]
    assert len(curve["squared_error"]) == len(curve["n"]) > 2
    rmse = math.sqrt(sum(curve["squared_error"]) / sum(curve["n"]))
    assert rmse == pytest.approx(line["values"]["stream/setosa/rmse"])
    answers = dgbench.predict(run).filter(split="in")
    assert sum(curve["n"]) == len(answers)
    expected = ((answers["prediction"] - answers["target"]) ** 2).sum()
    assert sum(curve["squared_error"]) == pytest.approx(expected, rel=1e-4)
    shown = [row["curve/setosa/rmse"] for row in wandb_logger._curve(line)]
    assert shown == pytest.approx(np.sqrt(np.divide(curve["squared_error"], curve["n"])))
    # JSON has null for NaN.
    line["curve"]["squared_error"][1] = None
    assert ["curve/setosa/rmse" in row for row in wandb_logger._curve(line)][:3] == [True, False, True]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_the_peak_of_memory_is_that_of_the_run_not_of_those_before():
    cpu, size = torch.device("cpu"), 200 * 2**20
    told = runner.watch_memory(cpu)
    block = np.ones(size, np.uint8)
    before = told()
    del block
    after = runner.watch_memory(cpu)()
    assert before is not None
    assert after is not None
    assert 0 < after < before - size // 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_process_does_not_inherit_the_peak_of_the_one_that_started_it():
    code = "import torch; from dgbench import runner; print(runner.watch_memory(torch.device('cpu'))())"
    block = np.ones(3 * 2**29, np.uint8)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(said.stdout) < len(block)


def test_where_a_peak_cannot_be_forgotten_only_a_higher_one_is_known(monkeypatch):
    def refuse(*any):
        raise PermissionError

    monkeypatch.setattr(runner.Path, "write_text", refuse)
    peaks = [500]
    monkeypatch.setattr(runner, "_process_peak", lambda: peaks[-1])
    told = runner.watch_memory(torch.device("cpu"))
    assert told() is None
    peaks.append(600)
    assert told() == 600


def test_each_trial_and_dataset_has_a_stream_of_its_own_that_all_adapters_share(tmp_path):
    for trial in (0, 1):
        for dataset in ("toy", "toys"):
            name = make_run(tmp_path / "runs", trial_seed=trial, dataset=dataset)
            amend(tmp_path / "runs" / name / "run.json", identity={"network": {}}, label="erm")
    every = expand([f"runs={tmp_path / 'runs'}", "adapter=source,tent", "stream=online,mixed"])
    seeds: dict[tuple[str, int], set[int]] = {}
    for made in every:
        columns = made.columns
        seeds.setdefault((columns["dataset"], columns["trial_seed"]), set()).add(made.seed)
        assert (made.identity["seed"], columns["seed"]) == (made.seed, 0)
    assert [len(own) for own in seeds.values()] == [1, 1, 1, 1]
    drawn = {seed for own in seeds.values() for seed in own}
    assert len(drawn) == 4
    other = expand([f"runs={tmp_path / 'runs'}", "seed=1"])
    assert not {made.seed for made in other} & drawn


def test_the_seed_of_the_trial_orders_the_stream(adapt, trained, monkeypatch):
    seen = []
    own = adapt_runner.make_stream

    def watched(*arguments):
        seen.append(arguments[3])
        return own(*arguments)

    monkeypatch.setattr(adapt_runner, "make_stream", watched)
    adapt("examples=8", "source_after=false")
    (adaptation,) = expand([f"runs={trained}"])
    assert seen == [adaptation.seed]
