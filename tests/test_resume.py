"""A run killed at any moment and started again equals one that was never interrupted, bit for bit."""

import json
import signal
from pathlib import Path

import pytest
import torch

from tests import children

# What a child process does to itself; SIGKILL leaves it no chance to tidy up.
KILLS = {
    "inside a training step": """
import os, signal
from dgbench.algorithm import Algorithm
from dgbench.clock import StepClock
before = StepClock.on_train_batch_start
def start(self, trainer, module, batch, index):
    before(self, trainer, module, batch, index)
    head = module.network.head
    if module.step == 7:
        head.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
StepClock.on_train_batch_start = start
""",
    "after the row and before the checkpoint": """
import os, signal
from dgbench import record
before = record.RunFolder.append
def append(self, line):
    before(self, line)
    if line["step"] == 6:
        os.kill(os.getpid(), signal.SIGKILL)
record.RunFolder.append = append
""",
    "during the checkpoint's write": """
import io, os, signal
import torch
before = torch.save
def save(state, file):
    if "resume" in file.name and state["step"] == 7:
        whole = io.BytesIO()
        before(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    before(state, file)
torch.save = save
""",
}
METHODS: dict[str, dict] = {
    "erm": {"optim": {"dropout": 0.5}},
    "dann": {},
    "dann alternating": {"algorithm.form": "alternating"},
    "sam": {"optim": {"dropout": 0.5}},
    "irm": {"algorithm.anneal_steps": 8},
    "erm + ema": {"averaging": "ema:0.9"},
    "sam + sma": {"averaging": "sma:5"},
    "erm + swad": {"averaging": "swad", "network.norm": "batch"},
}


def _keys(method: str, runs_dir: Path) -> dict:
    return {
        "algorithm": method.split()[0],
        "dataset": "digits_rot",
        "test_domains": ["rot0"],
        "protocol": {"num_steps": 11, "evaluate_every": 3},
        "optim.batch_size": 8,
        "network.width": 16,
        "runs_dir": str(runs_dir),
        "threads": 1,
        **METHODS[method],
    }


def _folder(runs_dir: Path) -> Path:
    (file,) = runs_dir.glob("*/run.json")
    return file.parent


def _rows_and_weights(folder: Path) -> tuple[list[str], dict]:
    rows = (folder / "evaluations.jsonl").read_text().splitlines()
    weights = {file.name: torch.load(file, weights_only=True) for file in (folder / "checkpoints").iterdir()}
    return rows, weights


def _assert_equal(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for file, weights in expected.items():
        assert got[file].keys() == weights.keys()
        for name, value in weights.items():
            assert torch.equal(got[file][name], value), f"{file}: {name}"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    done: dict[str, Path] = {}

    def get(method: str) -> Path:
        if method not in done:
            runs_dir = tmp_path_factory.mktemp("whole")
            assert children.train(_keys(method, runs_dir), runs_dir / "log") == 0, (runs_dir / "log").read_text()
            done[method] = _folder(runs_dir)
        return done[method]

    return get


@pytest.mark.parametrize(
    ("method", "kill"),
    [(m, k) for m in ("erm", "dann", "sam") for k in KILLS]
    + [(m, "inside a training step") for m in ("dann alternating", "irm", "erm + ema", "sam + sma", "erm + swad")]
    + [("erm + ema", "after the row and before the checkpoint"), ("erm + swad", "during the checkpoint's write")],
)
def test_a_killed_run_continues_bit_for_bit(method, kill, tmp_path, uninterrupted):
    keys = _keys(method, tmp_path)

    exit_code = children.train(keys, tmp_path / "log", KILLS[kill])

    assert exit_code == -signal.SIGKILL, (tmp_path / "log").read_text()
    folder = _folder(tmp_path)
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    lines = map(json.loads, (folder / "evaluations.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["weights"] == "last"] == [0, 3, 6]
    resumes_from = torch.load(folder / "checkpoints" / "resume.pt", weights_only=True)["step"]
    assert resumes_from == (7 if kill == "inside a training step" else 4)

    assert children.train(keys, tmp_path / "log") == 0, (tmp_path / "log").read_text()

    assert _folder(tmp_path) == folder
    expected_rows, expected_weights = _rows_and_weights(uninterrupted(method))
    rows, weights = _rows_and_weights(folder)
    assert rows == expected_rows
    _assert_equal(weights, expected_weights)
    assert not (folder / "run.lock").exists()
    assert not list(folder.glob("**/.*"))
