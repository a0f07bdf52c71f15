"""One run: its statuses, what stops it, what it keeps, and how it is read back."""

import dataclasses
import json
import os
import re
import signal
import time

import pytest
import torch

import dgbench
import dgbench.config
import dgbench.protocol
from dgbench import record
from dgbench.algorithms.erm import ERM
from dgbench.lock import RunIsLocked
from dgbench.record import RunFolder
from dgbench.writing import CannotWrite
from tests import children

KILL_AT_LAST_ROW = """
import os, signal
from dgbench import record
before = record.RunFolder.append
def append(self, line):
    before(self, line)
    if line["step"] == 6:
        os.kill(os.getpid(), signal.SIGKILL)
record.RunFolder.append = append
"""


@pytest.fixture
def keys(tmp_path):
    return {
        "algorithm": "erm",
        "dataset": "digits_rot",
        "test_domains": ["rot0"],
        "protocol": {"num_steps": 7, "evaluate_every": 3},
        "optim": {"batch_size": 4},
        "network.width": 8,
        "runs_dir": str(tmp_path / "runs"),
    }


def said(outcome):
    return json.loads((outcome.folder / "run.json").read_text())


def steps(outcome):
    return [line["step"] for line in RunFolder(outcome.folder).lines()]


def kept(outcome):
    return sorted(file.name for file in (outcome.folder / "checkpoints").iterdir())


def test_a_complete_run_records_what_it_was_and_is_not_run_again(keys):
    outcome = dgbench.train(**keys)

    assert (outcome.status, outcome.reason, outcome.skipped) == ("complete", None, False)
    assert steps(outcome) == [0, 3, 6]
    run = said(outcome)
    assert run["run_id"] == outcome.folder.name == record.identity_hash(run["identity"])
    assert run["steps_done"] == 7
    assert run["seconds"] > 0
    assert run["peak_memory"] > 0
    assert run["versions"]["torch"] == torch.__version__
    assert len(run["weights"]) == 16
    assert run["identity"]["optim"]["lr"] == 1e-3
    line = RunFolder(outcome.folder).lines()[-1]
    assert {key.rsplit("/", 1)[0] for key in line["values"]} == set(line["n"]) == set(run["evaluated"])
    assert set(line["n"]) == {"in/rot0", "out/rot0", *(f"out/rot{a}" for a in (15, 30, 45, 60, 75))}
    for name, n in line["n"].items():
        correct = line["values"][f"{name}/correct"]
        assert isinstance(correct, int)
        assert line["values"][f"{name}/accuracy"] == correct / n

    assert dgbench.train(**keys).skipped
    assert not dgbench.train(**keys, overwrite=True).skipped


def test_identity_does_not_depend_on_paths_or_on_how_a_default_is_written(keys, tmp_path):
    first = dgbench.train(**keys)
    moved = dgbench.train(
        **{**keys, "runs_dir": str(tmp_path / "elsewhere"), "data_dir": str(tmp_path), "test_domains": [0]},
        **{"optim.lr": 0.001, "network.depth": 1, "checkpoints": "none", "group": "again"},
    )
    other = dgbench.train(**{**keys, "optim.lr": 0.002})

    assert moved.folder.name == first.folder.name
    assert other.folder.name != first.folder.name
    assert (moved.folder / "evaluations.jsonl").read_text() == (first.folder / "evaluations.jsonl").read_text()


def test_evaluating_more_often_changes_nothing_that_is_trained(keys):
    rare = dgbench.train(**keys, **{"optim.dropout": 0.5})
    often = dgbench.train(**{**keys, "protocol": {"num_steps": 7, "evaluate_every": 1}}, **{"optim.dropout": 0.5})

    assert steps(often) == list(range(7))
    assert RunFolder(rare.folder).lines()[-1] == RunFolder(often.folder).lines()[-1]


def test_a_nan_loss_ends_as_diverged_with_its_step(keys, monkeypatch):
    before = ERM.loss

    def loss(self, batch):
        values = before(self, batch)
        return {"loss": values["loss"] * (float("nan") if self.step == 4 else 1)}

    monkeypatch.setattr(ERM, "loss", loss)
    outcome = dgbench.train(**keys)

    assert (outcome.status, outcome.reason) == ("diverged", "The loss was NaN or infinite by step 4.")
    assert steps(outcome) == [0, 3, 4]
    assert RunFolder(outcome.folder).lines()[-1]["values"]["in/rot0/nll"] is None  # JSON has no NaN
    assert dgbench.train(**keys).skipped


def test_a_failed_run_gives_its_reason_and_is_tried_once_more_then_only_on_demand(keys, monkeypatch):
    def loss(self, batch):
        raise RuntimeError("no\n  such luck")

    with monkeypatch.context() as broken:
        broken.setattr(ERM, "loss", loss)
        outcome = dgbench.train(**keys)
        assert (outcome.status, outcome.reason) == ("failed", "RuntimeError: no such luck")
        assert not dgbench.train(**keys).skipped
        third = dgbench.train(**keys)
    assert (third.status, third.skipped) == ("failed", True)
    assert not (outcome.folder / "run.lock").exists()

    assert dgbench.train(**keys, retry=True).status == "complete"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_run_that_the_same_command_continues(number, keys, tmp_path):
    process = children.start({**keys, "protocol": {"num_steps": 100000, "evaluate_every": 20}}, tmp_path / "log")
    deadline = time.time() + 60
    while not list((tmp_path / "runs").glob("*/checkpoints/resume.pt")) and time.time() < deadline:
        time.sleep(0.02)
    (folder,) = (file.parent for file in (tmp_path / "runs").glob("*/run.json"))
    assert RunFolder(folder).status() == "running"
    os.kill(process.pid or 0, number)
    process.join(30)

    assert process.exitcode not in (0, None)
    assert RunFolder(folder).status() == "interrupted"
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert not (folder / "run.lock").exists()
    assert not list(folder.rglob(".*"))
    assert all(json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines())


def test_two_processes_never_write_one_run(keys, tmp_path):
    folder = RunFolder(dgbench.train(**keys).folder)
    with folder.lock.held(), pytest.raises(RunIsLocked, match=rf"being written by process {os.getpid()} on .*Wait"):
        dgbench.train(**keys, overwrite=True)
    assert folder.status() == "complete"


def test_a_full_disk_is_a_sentence_and_leaves_whole_files(keys, monkeypatch):
    def full(number):
        raise OSError(28, os.strerror(28))

    before = record.RunFolder.append

    def append(self, line):
        if line["step"] == 3:
            monkeypatch.setattr(os, "fsync", full)
        before(self, line)

    monkeypatch.setattr(record.RunFolder, "append", append)
    with pytest.raises(CannotWrite, match=r"No space left on device. Free room, .* the same command continues"):
        dgbench.train(**keys)
    monkeypatch.undo()

    (folder,) = record.find(keys["runs_dir"])
    assert [line["step"] for line in folder.lines()] == [0]
    assert not list(folder.path.rglob(".*"))
    assert folder.status() == "interrupted"
    outcome = dgbench.train(**keys)
    assert steps(outcome) == [0, 3, 6]


def test_a_folder_that_cannot_be_written_is_a_sentence(keys, tmp_path):
    (tmp_path / "runs").write_text("a file, not a folder")
    with pytest.raises(CannotWrite, match=r"Cannot write under .*Not a directory"):
        dgbench.train(**keys)


def test_a_read_only_folder_is_a_sentence(keys, monkeypatch):
    def mkdir(*args, **kwargs):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr("pathlib.Path.mkdir", mkdir)
    with pytest.raises(CannotWrite, match="Read-only file system"):
        dgbench.train(**keys)


@pytest.mark.parametrize("how", ["none", "selected", "all"])
def test_checkpoints_are_kept_as_asked(how, keys):
    outcome = dgbench.train(**keys, checkpoints=how)

    every = ["step_000000.pt", "step_000003.pt", "step_000006.pt"]
    if how == "selected":
        scores = [
            sum(
                v
                for k, v in line["values"].items()
                if k.startswith("out/") and "rot0" not in k and k.endswith("/accuracy")
            )
            for line in RunFolder(outcome.folder).lines()
        ]
        best = scores.index(max(scores))
        assert kept(outcome) == sorted({every[best], every[2]})
    else:
        assert kept(outcome) == {"none": [], "all": every}[how]


def test_load_gives_the_model_that_was_evaluated(keys):
    outcome = dgbench.train(**keys, checkpoints="all")
    domain = dgbench.run.open_dataset("digits_rot", "data", {}).domains[0]
    inside, _ = dgbench.protocol.split_indices(len(domain), 0.2, 0, 0)
    x, y = domain.__getitems__(torch.from_numpy(inside))
    for line in RunFolder(outcome.folder).lines():
        model = dgbench.load(outcome.folder, step=line["step"])
        with torch.no_grad():
            accuracy = (model(x).argmax(1) == y).double().mean()
        assert float(accuracy) == pytest.approx(line["values"]["in/rot0/accuracy"], abs=1e-12)
        assert model.step == line["step"] + 1
        assert not model.training


def test_load_says_what_is_missing(keys, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run.json. Name the folder of one run"):
        dgbench.load(tmp_path)
    outcome = dgbench.train(**keys, checkpoints="none")
    with pytest.raises(
        FileNotFoundError, match=r"keeps no weights of step \d+ \(kept: none\). Run it again with checkpoints=all"
    ):
        dgbench.load(outcome.folder)
    (outcome.folder / "evaluations.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="has not been evaluated yet; its status is complete"):
        dgbench.load(outcome.folder)


@pytest.mark.parametrize(
    ("algorithm", "option", "value", "text"),
    [
        (
            "sam",
            "accumulate_grad_batches",
            2,
            "does not reach sam, .* would not be accumulated. Leave it at its default",
        ),
        ("sam", "gradient_clip_val", 1.0, "would not be clipped"),
        ("sam", "precision", "16-mixed", "would not be scaled for float16. .* or use bf16-mixed"),
    ],
)
def test_what_the_trainer_cannot_do_for_a_method_is_refused_before_step_0(algorithm, option, value, text, keys):
    outcome = dgbench.train(**{**keys, "algorithm": algorithm, f"trainer.{option}": value})
    assert outcome.status == "failed"
    assert re.search(text, outcome.reason)
    assert not (outcome.folder / "evaluations.jsonl").exists()


@pytest.mark.parametrize("algorithm", ["erm", "irm", "vrex", "coral", "mixup", "dann", "sam"])
def test_every_method_trains_in_bfloat16(algorithm, keys):
    outcome = dgbench.train(**{**keys, "algorithm": algorithm, "trainer.precision": "bf16-mixed"})
    assert outcome.status == "complete", outcome.reason


def test_channels_last_trains_an_image_network_and_is_refused_for_vectors(keys):
    keys = {**keys, "network.channels_last": True}
    outcome = dgbench.train(**{**keys, "network.name": "small_cnn"})
    assert outcome.status == "complete", outcome.reason
    with pytest.raises(ValueError, match="channels_last"):
        dgbench.train(**{**keys, "network.name": "mlp"})


def test_accumulated_and_clipped_gradients_reach_erm(keys):
    plain, accumulated, clipped = (
        dgbench.train(**keys, **{f"trainer.{k}": v})
        for k, v in (("benchmark", False), ("accumulate_grad_batches", 2), ("gradient_clip_val", 1e-6))
    )
    rows = {(o.folder / "evaluations.jsonl").read_text() for o in (plain, accumulated, clipped)}
    assert len(rows) == 3
    # With accumulation the resume point waits for an update: nothing half-accumulated is ever saved.
    assert accumulated.status == "complete"


def test_validation_and_target_domains_get_the_splits_that_were_asked_for(keys):
    outcome = dgbench.train(**keys, val_domains=["rot75"], **{"protocol.uda_holdout_fraction": 0.5})
    n = RunFolder(outcome.folder).lines()[-1]["n"]
    assert n["in/rot75"] == 240
    assert "out/rot75" not in n
    assert n["uda/rot0"] == n["in/rot0"] == 120
    assert said(outcome)["identity"]["domains"]["val"] == ["rot75"]


def test_an_empty_split_is_refused(keys):
    outcome = dgbench.train(**keys, **{"protocol.holdout_fraction": 0.001})
    assert outcome.status == "failed"
    assert "split of rot0 is empty" in outcome.reason


def test_overwriting_makes_the_old_results_not_count_before_it_deletes_them(keys, monkeypatch):
    outcome = dgbench.train(**keys)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            dgbench.train(**keys, overwrite=True)
    assert RunFolder(outcome.folder).status() == "interrupted"
    again = dgbench.train(**keys)
    assert (again.status, again.skipped, steps(again)) == ("complete", False, [0, 3, 6])


def test_a_damaged_checkpoint_starts_the_run_anew(keys, tmp_path, caplog):
    log = tmp_path / "log"
    children.train(keys, log, KILL_AT_LAST_ROW)
    (folder,) = record.find(keys["runs_dir"])
    whole = folder.resume_file.read_bytes()
    folder.resume_file.write_bytes(whole[: len(whole) // 2])

    outcome = dgbench.train(**keys)

    assert (outcome.status, steps(outcome)) == ("complete", [0, 3, 6])
    assert "resume.pt cannot be read" in caplog.text
    assert "the run starts anew" in caplog.text


def test_a_run_that_started_from_weights_is_loaded_without_them(keys, tmp_path):
    first = dgbench.train(**keys)
    weights = tmp_path / "weights.pt"
    torch.save(dgbench.load(first.folder).network.state_dict(), weights)
    second = dgbench.train(**{**keys, "network.weights": str(weights), "seed": 3})
    weights.unlink()

    model = dgbench.load(second.folder)

    assert model.network.pretrained
    assert model.network.recipe == said(second)["identity"]["network"]
    assert said(second)["identity"]["network"]["weights"].startswith("sha256:")


def test_a_folder_that_holds_no_record_is_named(keys, tmp_path):
    outcome = dgbench.train(**keys)
    for content in ("", '{"foo": 1}', "[]"):
        (outcome.folder / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"run\.json is no record of a run\. Delete that folder, or name another"):
            dgbench.train(**keys)


def test_a_method_that_needs_metadata_is_refused_where_there_is_none(keys, monkeypatch):
    monkeypatch.setattr(ERM, "needs", dataclasses.replace(ERM.needs, metadata=True))
    outcome = dgbench.train(**keys)
    assert outcome.status == "failed"
    assert outcome.reason == "ValueError: erm needs domain metadata, which digits_rot does not have."
