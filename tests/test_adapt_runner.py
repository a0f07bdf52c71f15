"""Adaptations end to end, of one short run: what is measured, what is recorded, how they end and go on."""

import dataclasses
import json

import pytest
import torch

import dgbench
from dgbench import adapt_runner
from dgbench.adaptation import expand
from dgbench.adapter import Needs, build_adapter
from dgbench.algorithms.test_time.source import Unadapted
from dgbench.batch import Batch
from dgbench.record import Interrupted, RunFolder, kinds, runs
from dgbench.registry import adapters
from dgbench.stream import STREAMS
from dgbench.task import Task
from dgbench.trained import load
from tests import adapted

# Of batches of a few examples, so that an adaptation takes a moment.
FEW = ["examples=24", "batch_size=8", "runs_dir=out"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that has batch norms."""
    return adapted.train(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def adapt(trained):
    """Adapt by some keys; the folder and how it ended."""

    def run(*keys):
        (adaptation,) = expand([f"runs={trained}", *FEW, *keys])
        return RunFolder(adaptation.folder.path), adapt_runner.execute(adaptation)

    return run


def value(folder, key, line=0):
    return folder.lines()[line]["values"][key]


def test_the_source_model_has_the_accuracy_that_training_recorded(adapt, trained):
    folder, outcome = adapt("examples=null", "batch_size=64")
    assert outcome.status == "complete"
    (line,) = [line for line in RunFolder(trained).lines() if line["step"] == 19]
    for metric in ("accuracy", "macro_accuracy"):
        assert value(folder, f"stream/plus90/{metric}") == line["values"][f"in/plus90/{metric}"]
    assert value(folder, "stream/plus90/nll") == pytest.approx(line["values"]["in/plus90/nll"], rel=1e-5)
    assert folder.lines()[0]["n"]["stream/plus90"] == line["n"]["in/plus90"]
    held_out = {key: v for key, v in line["values"].items() if key.startswith("out/") and "plus90" not in key}
    assert folder.lines()[1]["values"] == pytest.approx(held_out, rel=1e-5)
    assert folder.lines()[1]["phase"] == "source_after"


# What adapters adapt that do not adapt the usual run.
OWN_MODELS: dict[str, dict[str, object]] = {
    "note": {"network": {"name": "small_cnn", "norm": "instance_aware"}},
    "drm_select": {"algorithm": "drm"},
}


@pytest.mark.parametrize("name", adapters.names())
def test_labels_change_no_prediction(name, trained, monkeypatch, tmp_path):
    run = adapted.train(tmp_path / "own", **OWN_MODELS[name]) if name in OWN_MODELS else trained
    answers = []
    own = adapt_runner._follow

    def follow(*arguments):
        made = own(*arguments)
        answers.append(torch.cat([part for tally in made.values() for part in tally.outputs]))
        return made

    monkeypatch.setattr(adapt_runner, "_follow", follow)
    keys = [f"runs={run}", *FEW, f"adapter={name}", "examples=16", "source_after=false"]
    (adaptation,) = expand(keys)
    first = adapt_runner.execute(adaptation)
    accuracy = value(RunFolder(first.folder), "stream/plus90/accuracy")
    read = STREAMS["online"]._read
    monkeypatch.setattr(STREAMS["online"], "_read", lambda self, rows: (one := read(self, rows))._replace(y=1 - one.y))
    (again,) = expand([*keys, "overwrite=true"])
    adapt_runner.execute(again)
    assert torch.equal(*answers)
    assert value(RunFolder(first.folder), "stream/plus90/accuracy") == pytest.approx(1 - accuracy)


def test_what_is_complete_is_skipped_and_overwritten_on_request(adapt):
    folder, first = adapt()
    before = folder.run_file.stat().st_mtime_ns
    _, second = adapt()
    assert (first.skipped, second.skipped, second.status) == (False, True, "complete")
    assert folder.run_file.stat().st_mtime_ns == before
    _, third = adapt("overwrite=true")
    assert not third.skipped
    assert len(folder.lines()) == 2


def test_a_failing_adapter_says_why_and_is_tried_once_more(adapt, monkeypatch):
    def fails(self, x):
        raise RuntimeError("the lens\nfell off")

    own = Unadapted.adapt
    monkeypatch.setattr(Unadapted, "adapt", fails)
    folder, first = adapt()
    assert (first.status, first.reason) == ("failed", "RuntimeError: the lens fell off")
    assert not adapt()[1].skipped
    monkeypatch.setattr(Unadapted, "adapt", own)
    assert adapt()[1].skipped
    assert folder.read()["failures"] == 2
    _, outcome = adapt("retry=true")
    assert (outcome.status, folder.read()["reason"]) == ("complete", None)


def test_an_interrupted_adaptation_begins_anew(adapt, monkeypatch, trained):
    (adaptation,) = expand([f"runs={trained}", *FEW, "stream=continual", "stream.rounds=2", "adapter=tent"])

    def stop(done, of):
        if done == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        adapt_runner.execute(adaptation, stop)
    assert adaptation.folder.status() == "interrupted"
    assert adapt_runner.execute(adaptation).status == "complete"
    lines = adaptation.folder.lines()
    expand_again = expand([f"runs={trained}", *FEW, "stream=continual", "stream.rounds=2", "adapter=tent"])
    adapt_runner.execute(
        dataclasses.replace(expand_again[0], keys=dataclasses.replace(adaptation.keys, overwrite=True))
    )
    assert [line["values"] for line in lines] == [line["values"] for line in adaptation.folder.lines()]
    assert [(line["phase"], line["round"]) for line in lines] == [("stream", 0), ("stream", 1), ("source_after", 0)]


def test_all_adapters_meet_the_same_examples(adapt, monkeypatch):
    seen: list[torch.Tensor] = []
    own = build_adapter
    monkeypatch.setattr(adapt_runner, "build_adapter", lambda *a, **k: watched(own(*a, **k), seen))
    for name in ("source", "tent"):
        assert adapt(f"adapter={name}", "examples=20")[1].status == "complete"
    assert len(seen) == 6
    for one, other in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(one, other)
    assert sum(len(x) for x in seen[:3]) == 20
    adapt("examples=20", "seed=1")
    totals = [torch.cat(part).flatten(1).sum(1).sort().values for part in (seen[:3], seen[6:])]
    assert not torch.equal(*totals)


@pytest.mark.parametrize(("stream", "times"), [("online", 1), ("continual", 0), ("episodic", 3)])
def test_the_stream_says_when_the_adapter_starts_afresh(adapt, monkeypatch, stream, times):
    done = []
    own = Unadapted.reset

    def reset(self):
        done.append(self.steps)
        own(self)

    monkeypatch.setattr(Unadapted, "reset", reset)
    assert adapt(f"stream={stream}")[1].status == "complete"
    assert len(done) == times


def watched(adapter, seen):
    step = adapter.step
    object.__setattr__(adapter, "step", lambda x: (seen.append(x.clone()), step(x))[1])
    monitored = adapter.reset
    object.__setattr__(adapter, "reset", lambda: None if adapter.steps == 0 else monitored())
    return adapter


def test_pixels_that_are_no_numbers_give_a_defined_result(adapt, monkeypatch):
    read = STREAMS["online"]._read

    def broken(self, rows):
        items = read(self, rows)
        items.x[::2] = torch.nan
        return items

    monkeypatch.setattr(STREAMS["online"], "_read", broken)
    for name in ("source", "tent"):
        folder, outcome = adapt(f"adapter={name}")
        assert outcome.status == "complete"
        assert all(number is not None for number in folder.lines()[0]["values"].values())


def test_what_an_adapter_costs_is_recorded(adapt, trained):
    folder, _ = adapt("adapter=tent")
    said = folder.read()
    norms = [m for m in load(trained).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    size = sum(p.numel() for m in norms for p in m.parameters())
    assert said["adapted_parameters"] == {"tensors": 2 * len(norms), "values": size}
    curve = folder.lines()[0]["curve"]
    assert curve["n"] == [8, 8, 8]
    assert said["seconds_per_batch"] == pytest.approx(sum(curve["seconds"]) / 3, abs=1e-5)
    assert sum(curve["correct"]) / 24 == pytest.approx(value(folder, "stream/plus90/accuracy"))
    assert said["peak_memory"] > 0
    assert said["answers"] == "before"
    assert adapt("source_after=false")[0].lines()[-1]["phase"] == "stream"


def test_adapters_that_read_the_source_are_given_the_training_examples(adapt, trained, monkeypatch):
    read = []

    def prepare(self, source):
        read.extend(source)
        assert len(list(source)) == len(read)

    monkeypatch.setattr(Unadapted, "needs", Needs(source=True))
    monkeypatch.setattr(Unadapted, "prepare", prepare)
    adapt()
    assert all(isinstance(batch, Batch) and batch.x.shape[:2] == (1, batch.y.shape[1]) for batch in read)
    sizes = [sum(batch.y.numel() for batch in read if int(batch.domain[0, 0]) == index) for index in (0, 1)]
    data = dgbench.predict(trained, domain=["plus80", "minus90"])
    expected = [
        data.filter(domain=name, split="in").height
        for name in (RunFolder(trained).read() or {})["identity"]["domains"]["train"]
    ]
    assert sizes == expected


@pytest.mark.parametrize(
    ("keys", "rows"),
    [
        (["stream=mixed"], [("stream/plus90", 0, 24)]),
        (["stream=episodic"], [("stream/plus90", 0, 24)]),
        (["stream=correlated"], [("stream/plus90", 0, 24)]),
        (
            ["stream=gradual", "stream.families=[contrast]", "stream.num_examples=5"],
            [
                *((f"stream/plus90_contrast_{severity}", 0, 5) for severity in (1, 2, 3, 4, 5)),
                *((f"stream/plus90_contrast_{severity}", 1, 5) for severity in (4, 3, 2, 1)),
            ],
        ),
    ],
)
def test_rows_are_named_by_domain_corruption_and_round(adapt, keys, rows):
    folder, outcome = adapt(*keys, "source_after=false")
    assert outcome.status == "complete", outcome.reason
    found = [(*line["n"].items(), line["round"]) for line in folder.lines()]
    assert [(name, round, n) for (name, n), round in found] == rows
    assert [line["step"] for line in folder.lines()] == list(range(len(rows)))


def test_several_test_domains_and_a_regression(tmp_path):
    folder = adapted.train(
        tmp_path / "runs",
        dataset="iris_simpson",
        test_domains=["setosa", "virginica"],
        network="mlp",
    )
    report = dgbench.adapt(runs=folder, runs_dir="out", adapter="source", stream="continual", source_after=True)
    assert report.counts == {"complete": 1}
    (file,) = (tmp_path / "out").glob("*/run.json")
    first, second, *_ = RunFolder(file.parent).lines()
    assert (*first["n"], *second["n"]) == ("stream/setosa", "stream/virginica")
    last = [line for line in RunFolder(folder).lines() if line["step"] == 19][-1]
    assert value(RunFolder(file.parent), "stream/setosa/rmse") == pytest.approx(
        last["values"]["in/setosa/rmse"], rel=1e-5
    )


def test_probabilities_and_single_logits_are_measured_alike():
    task = Task("classification", 2, single_logit=True)
    logit, y = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([1, 0, 0])
    two = torch.cat([torch.zeros(3, 1), logit], 1)
    expected = task.metrics(logit, y)
    assert adapt_runner.measured(task, "logits", two, y) == pytest.approx(expected)
    assert adapt_runner.measured(task, "probabilities", two.softmax(1), y) == pytest.approx(expected)


def test_a_gpu_that_is_not_there_is_a_sentence(adapt, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "accelerator=gpu, but torch finds no GPU. Leave it auto" in adapt("accelerator=gpu")[1].reason
    assert adapt("accelerator=cpu")[1].status == "complete"


def test_a_sweep_does_what_is_left_and_lists_what_is_refused(trained, capsys):
    keys = {"runs": trained, "runs_dir": "out", "adapter": ["source", "tent", "note"], "examples": 8}
    report = dgbench.adapt(**keys, skip_refused=True)
    assert report.counts == {"complete": 2}
    ((label, reason),) = report.refused
    assert label == "note on digits_color, small_cnn"
    assert reason.startswith("needs a network with instance_aware normalisation, but small_cnn has batch; train with")
    report = dgbench.adapt(**keys)
    assert report.counts == {"complete": 2, "failed": 1}
    assert "NOTE needs a network with instance_aware" in report.failures[0][1]
    assert "1 of 3 adaptations to do" in capsys.readouterr().err


def test_what_was_held_out_of_the_training_domains_streams_to_choose_hyper_parameters(adapt, trained, monkeypatch):
    folder, _ = adapt("target=validation", "examples=null", "batch_size=64", "source_after=false")
    (line,) = [line for line in RunFolder(trained).lines() if line["step"] == 19]
    said = {key: v for each in folder.lines() for key, v in each["values"].items() if key.endswith("/accuracy")}
    assert said == {f"stream/{name}/accuracy": line["values"][f"out/{name}/accuracy"] for name in ("plus80", "minus90")}
    monkeypatch.setattr("dgbench.adapt_data.held_out", lambda *any: {})
    _, outcome = adapt("target=validation", "adapter=tent")
    assert outcome.reason == (
        "ValueError: target=validation streams what was held out of the training domains, but nothing was. Train with "
        "protocol.splits=random, or leave target=test."
    )


def test_a_model_whose_weights_were_not_kept_fails_with_the_remedy(tmp_path):
    folder = adapted.train(tmp_path / "runs", checkpoints="none")
    for skip in (True, False):
        report = dgbench.adapt(runs=folder, runs_dir="out", skip_refused=skip)
        assert report.counts == {"failed": 1}
        assert "Run it again with checkpoints=all" in report.failures[0][1]


def test_adaptations_beside_runs_are_no_runs(trained, tmp_path):
    runs_dir = trained.parent
    (made,) = expand([f"runs={trained}", *FEW, f"runs_dir={runs_dir}", "batch_size=9"])
    try:
        assert adapt_runner.execute(made).status == "complete"
        assert kinds(runs_dir) == {"train", "adapt"}
        assert list(runs(runs_dir)["run_id"]) == [trained.name]
        assert dgbench.train(**adapted.RUN, runs_dir=str(runs_dir)).skipped
        assert len(expand([f"runs={runs_dir}"])) == 1
        assert str(dgbench.table(runs_dir)).startswith("digits_color: accuracy")
        assert json.loads(made.folder.run_file.read_text())["kind"] == "adapt"
    finally:
        for file in (made.folder.run_file, made.folder.lines_file):
            file.unlink()
