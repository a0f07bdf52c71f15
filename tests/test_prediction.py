"""Predictions: the rows of the file give the recorded metrics, and what does not fit is a sentence."""

import dataclasses
import json
import sys

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import dgbench
import dgbench.run
from dgbench import cli, prediction
from dgbench.algorithms.erm import ERM
from dgbench.dataset import MissingData
from dgbench.datasets.digits_color import DigitsColor
from dgbench.protocol import split_indices
from dgbench.record import RunFolder
from dgbench.registry import UnknownName, datasets
from dgbench.run import open_dataset
from dgbench.task import Task
from dgbench.writing import CannotWrite


@pytest.fixture
def keys(tmp_path):
    return {
        "dataset": "digits_rot",
        "test_domains": ["rot0"],
        "protocol": {"num_steps": 7, "evaluate_every": 3},
        "optim": {"batch_size": 4},
        "network.width": 8,
        "runs_dir": str(tmp_path / "runs"),
    }


@pytest.fixture
def run(keys):
    return dgbench.train(**keys).folder


def recorded(run, step):
    (line,) = [line for line in RunFolder(run).lines() if line["step"] == step]
    return line


def matrix(column):
    values = column.to_numpy() if column.dtype.is_numeric() else np.stack(column.to_list())
    return torch.tensor(values.reshape(len(column), -1))


def metrics(rows, task):
    """All metrics, from nothing but the rows."""
    if task.is_classification:
        return task.metrics(matrix(rows["logits"]), torch.tensor(rows["target"].to_list()))
    return task.metrics(matrix(rows["prediction"]), matrix(rows["target"]))


def assert_as_recorded(run, answers, step, task):
    line = recorded(run, step)
    for (split, domain), rows in answers.group_by("split", "domain", maintain_order=True):
        if f"{split}/{domain}" not in line["n"]:
            continue
        assert len(rows) == line["n"][f"{split}/{domain}"]
        assert metrics(rows, task) == {
            key.rpartition("/")[2]: value
            for key, value in line["values"].items()
            if key.startswith(f"{split}/{domain}/")
        }
        if task.is_classification:
            accuracy = (rows["prediction"] == rows["target"]).sum() / len(rows)
            assert accuracy == line["values"][f"{split}/{domain}/accuracy"]


def test_the_file_gives_the_recorded_metrics_of_the_selected_step(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dgbench", "predict", str(run)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    path = run / "predictions.parquet"
    assert capsys.readouterr().out.strip() == str(path)

    rows = pl.read_parquet(path)
    assert rows.schema == {
        "domain": pl.String,
        "split": pl.String,
        "index": pl.Int64,
        "target": pl.Int64,
        "prediction": pl.Int64,
        "logits": pl.List(pl.Float32),
    }
    assert rows.equals(dgbench.predict(run))
    assert_as_recorded(run, rows, dgbench.load(run).step - 1, Task("classification", 10))
    inside, outside = split_indices(300, 0.2, 0, 0)
    assert rows["domain"].unique().to_list() == ["rot0"]
    for split, indices in (("in", inside), ("out", outside)):
        assert rows.filter(split=split)["index"].to_list() == indices.tolist()
    domain = open_dataset("digits_rot", "data", {}).domains[0]
    assert rows["target"].to_list() == domain.targets[rows["index"].to_list()].tolist()
    with torch.no_grad():
        logits = dgbench.load(run)(domain.__getitems__([5]).x)
    np.testing.assert_allclose(rows.filter(index=5)["logits"].to_list(), logits.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        {"trainer.precision": "bf16-mixed"},
        {"protocol.uda_holdout_fraction": 0.5, "trial_seed": 2},
        {"protocol.draw_data_per_run": True},
        {"dataset": "iris_simpson", "test_domains": ["setosa"], "dataset.target_scale": "standard"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_every_domain_and_step_gives_what_was_recorded(more, keys):
    run = dgbench.train(**{**keys, **more}, checkpoints="all").folder
    data = open_dataset(more.get("dataset", "digits_rot"), "data", {})
    for step in (0, 6):
        answers = dgbench.predict(run, step=step, domain=list(data.domain_names))
        assert set(answers.select(pl.concat_str("split", "domain", separator="/")).to_series()) >= set(
            recorded(run, step)["n"]
        )
        assert_as_recorded(run, answers, step, data.task)
        for (name,), rows in answers.group_by("domain"):
            domain = data.domains[data.domain_names.index(name)]
            assert sorted(rows["index"]) == list(range(len(domain)))


def test_regression_answers_in_original_units(keys):
    run = dgbench.train(**{**keys, "dataset": "iris_simpson", "test_domains": [0]}).folder
    rows = dgbench.predict(run)
    assert rows.columns == ["domain", "split", "index", "target", "prediction"]
    inside = rows.filter(split="in")
    rmse = np.sqrt(np.mean((inside["prediction"].cast(pl.Float64) - inside["target"].cast(pl.Float64)).to_numpy() ** 2))
    assert rmse == pytest.approx(recorded(run, dgbench.load(run).step - 1)["values"]["in/setosa/rmse"], rel=1e-12)


def test_official_splits_keep_their_names(keys, monkeypatch):
    class Official(DigitsColor):
        @property
        def splits(self):
            first, second, _ = self.domains
            n = len(first)
            return {
                "in": {first.name: torch.arange(0, n - 9)},
                "val": {first.name: torch.arange(n - 9, n)},
                "test": {second.name: torch.arange(1, 20)},
            }

    monkeypatch.setitem(datasets._given, "official", Official)
    names = DigitsColor.card.domains
    asked = {"dataset": "official", "train_domains": [names[0]], "test_domains": [names[1]]}
    run = dgbench.train(**{**keys, **asked, "protocol.splits": "official"}).folder
    answers = dgbench.predict(run, domain=[0, 1, 2])
    assert answers["split"].unique(maintain_order=True).to_list() == ["in", "val", "test", None]
    assert answers.filter(split="test")["index"].to_list() == list(range(1, 20))
    assert_as_recorded(run, answers, dgbench.load(run).step - 1, Task("classification", 2))


def test_a_method_that_predicts_jointly_gets_its_batches(keys, monkeypatch):
    monkeypatch.setattr(ERM, "needs", dataclasses.replace(ERM.needs, joint_prediction=7))
    forward = ERM.forward
    # The answer depends on who else is in the batch.
    monkeypatch.setattr(ERM, "forward", lambda self, x: forward(self, x - 2 * x.mean(0)))
    run = dgbench.train(**keys).folder
    answers = dgbench.predict(run, domain="rot0")
    assert_as_recorded(run, answers, dgbench.load(run).step - 1, Task("classification", 10))


def test_other_data_are_whole_and_unsplit(run, tmp_path):
    out = tmp_path / "new" / "other.parquet"
    path = prediction.write(run, ["dataset=digits_rot", "dataset.data_seed=4", "domain=rot15,rot75"], out=out)
    rows = pl.read_parquet(path)
    assert path == out
    data = open_dataset("digits_rot", "data", {"data_seed": 4})
    assert rows["split"].null_count() == len(rows)
    for name in ("rot15", "rot75"):
        domain = data.domains[data.domain_names.index(name)]
        assert rows.filter(domain=name)["target"].to_list() == domain.targets.tolist()
    assert rows.equals(dgbench.predict(run, dataset={"data_seed": 4}, domain=[1, 5]))
    assert dgbench.predict(run, dataset="digits_rot")["domain"].n_unique() == 6


def test_files_that_moved_are_found_again_by_their_root(keys, tmp_path):
    for domain, shade in (("dark", 40), ("light", 200)):
        for name, offset in (("no", 0), ("yes", 30)):
            (folder := tmp_path / "before" / domain / name).mkdir(parents=True)
            for number in range(10):
                Image.new("RGB", (16, 16), (shade + offset + number,) * 3).save(folder / f"{number}.png")
    given = {"dataset": "image_folder", "dataset.root": str(tmp_path / "before"), "dataset.image_size": 16}
    network = {"network.name": "small_cnn", "network.weights": "none", "workers": 0}
    run = dgbench.train(**{**keys, **given, **network, "test_domains": ["light"]}).folder
    before = dgbench.predict(run, domain=["dark", "light"])
    assert_as_recorded(run, before, dgbench.load(run).step - 1, Task("classification", 2))
    (tmp_path / "before").rename(tmp_path / "after")
    dgbench.run._opened.cache_clear()  # as in another process
    with pytest.raises(MissingData, match="before"):
        dgbench.predict(run)
    after = dgbench.predict(run, domain=["dark", "light"], **{"dataset.root": str(tmp_path / "after")})
    assert after.equals(before)


@pytest.mark.parametrize("single_logit", [True, False])
def test_answers_of_a_batch_by_hand(single_logit):
    task = Task("classification", 2, single_logit=single_logit)
    outputs = torch.tensor([[-1.0], [0.0], [2.0]]) if single_logit else torch.tensor([[1.0, 0], [3, 3], [0, 2]])
    columns = prediction._columns(task, outputs, torch.tensor([0, 1, 1]))
    assert columns["prediction"].to_list() == [0, 0, 1]
    assert columns["logits"].to_list() == outputs.tolist()
    several = prediction._columns(Task("regression", 2), outputs.expand(3, 2), torch.eye(3)[:, :2])
    assert several["target"].to_list() == [[1, 0], [0, 1], [0, 0]]
    assert several["prediction"].to_list() == outputs.expand(3, 2).tolist()


def test_data_are_looked_for_where_recorded_then_where_the_environment_says(run, tmp_path, monkeypatch):
    looked = []

    def open_dataset(name, place, options):
        looked.append(place)
        raise MissingData(f"nothing in {place}")

    monkeypatch.setattr(prediction, "open_dataset", open_dataset)
    monkeypatch.setenv("DGBENCH_DATA", "/photos")
    with pytest.raises(MissingData, match="nothing in /photos"):
        dgbench.predict(run)
    with pytest.raises(MissingData, match="nothing in /here"):
        dgbench.predict(run, data_dir="/here")
    assert looked == [json.loads((run / "run.json").read_text())["config"]["data_dir"], "/photos", "/here"]


def test_changed_data_are_refused_under_the_runs_own_name(run):
    file = run / "run.json"
    said = json.loads(file.read_text())
    said["identity"]["dataset"]["fingerprint"] = "0" * 16
    file.write_text(json.dumps(said))
    with pytest.raises(
        ValueError,
        match=r"was trained on digits_rot version 1 with fingerprint 0+, but under .* it is version 1 with fingerprint "
        r"[1-9a-f]\w+\. Say where those data are with --data-dir or dataset\.root=.*, or dataset=digits_rot",
    ):
        dgbench.predict(run)
    assert len(dgbench.predict(run, dataset="digits_rot")) == 1797


@pytest.mark.parametrize(
    ("keys_", "error", "text"),
    [
        ({"domains": "rot0"}, UnknownName, "'domains' is not a known key of predict. Did you mean 'domain'?"),
        ({"domain": "rot10"}, UnknownName, r"'rot10' is not a known domain \(domain\). Did you mean"),
        ({"dataset.seed": 1}, UnknownName, "'dataset.seed' is not a known key. Did you mean 'dataset.data_seed'?"),
        ({"dataset": "digit_rot"}, UnknownName, "'digit_rot' is not a known dataset. Did you mean 'digits_rot'"),
        ({"dataset": ["a", "b"]}, ValueError, r"dataset=\['a', 'b'\]: expected one name. Predict on one"),
        (
            {"dataset": "digits_color"},
            ValueError,
            r"The data have inputs of shape \(2, .*\) and 2 classes, but the model of .* was trained on inputs of "
            r"shape \(1, 12, 12\) and 10 classes\. Name data of that form",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence(keys_, error, text, run):
    with pytest.raises(error, match=text):
        dgbench.predict(run, **keys_)


def test_what_load_misses_predict_misses(keys, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run\.json"):
        dgbench.predict(tmp_path)
    run = dgbench.train(**keys, checkpoints="none").folder
    with pytest.raises(FileNotFoundError, match="keeps no weights of step"):
        dgbench.predict(run)


def test_a_file_that_cannot_be_written_is_a_sentence(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match="Cannot write under"):
        prediction.write(run, out=tmp_path / "file" / "x.parquet")
