"""A process that is asked to stop does so soon, whatever wandb does, and what wandb raises comes as one sentence."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import wandb

from dgbench import wandb_logger
from dgbench.record import Interrupted, RunFolder
from dgbench.wandb_logger import WandbLogger, logged
from tests.fabricate import make_run, make_scores

# A wait of wandb's own would last that long; a scheduler kills a process 30 s after it was asked to end.
PATIENCE_SECONDS = 8
GRACE_SECONDS = 0.5
STOPS = [Interrupted("SIGTERM"), KeyboardInterrupt()]


class Standing:
    """A W&B run of a service that stands still: every call stays without an answer until the test ends."""

    def __init__(self) -> None:
        self.test_ended = threading.Event()
        self.teardowns = 0

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.test_ended.wait(60)

    def teardown(self) -> None:
        self.teardowns += 1
        self()


@pytest.fixture
def standing(monkeypatch):
    run = Standing()
    monkeypatch.setattr(wandb_logger, "_open", lambda folder, mode: run)
    monkeypatch.setattr(wandb, "teardown", run.teardown)
    monkeypatch.setattr(wandb_logger, "FINISH_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(wandb_logger, "INIT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(wandb_logger, "GRACE_SECONDS", GRACE_SECONDS)
    monkeypatch.setattr(WandbLogger, "mode", None)
    monkeypatch.setattr(WandbLogger, "has_said", False)
    yield run
    run.test_ended.set()


def fabricated() -> RunFolder:
    return RunFolder(Path("out") / make_run(Path("out"), [(0, make_scores("a", 0.5))]))


@pytest.mark.parametrize("stop", STOPS, ids=repr)
def test_a_stop_in_the_middle_of_a_run_is_held_up_for_the_grace_only(stop, standing, capfd):
    started = time.perf_counter()
    with pytest.raises(type(stop)), logged(fabricated()):
        raise stop
    assert 2 * GRACE_SECONDS <= time.perf_counter() - started < PATIENCE_SECONDS
    assert standing.teardowns == 1
    assert f"W&B is out of reach (no answer within {GRACE_SECONDS} s)" in capfd.readouterr().err


def test_an_error_of_the_run_leaves_wandb_the_time_that_it_has_to_finish(standing, monkeypatch, capfd):
    monkeypatch.setattr(wandb_logger, "FINISH_SECONDS", 1)
    with pytest.raises(ValueError, match="the sensor fell off"), logged(fabricated()):
        raise ValueError("the sensor fell off")
    assert f"W&B is out of reach (no answer within {1 + GRACE_SECONDS} s)" in capfd.readouterr().err


@pytest.mark.parametrize("stop", STOPS, ids=repr)
@pytest.mark.parametrize("wait", ["INIT_SECONDS", "FINISH_SECONDS"])
def test_a_stop_while_wandb_is_waited_for_ends_the_wait_and_leaves_the_service(wait, stop, standing, monkeypatch):
    """Python would otherwise wait for that service at its exit, without end."""
    usual = threading.Thread.join

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout == 2 * PATIENCE_SECONDS + GRACE_SECONDS:
            raise stop  # as a signal does
        usual(thread, timeout)

    monkeypatch.setattr(wandb_logger, wait, 2 * PATIENCE_SECONDS)
    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(type(stop)), logged(fabricated()):
        pass
    assert standing.teardowns == 1


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError("gone"), GeneratorExit()], ids=repr)
def test_what_is_no_error_of_wandb_is_said_as_one(error, standing, monkeypatch, capfd):
    def end(self: WandbLogger, run: Any) -> None:
        raise error

    monkeypatch.setattr(WandbLogger, "_end", end)
    with logged(fabricated()):
        pass
    said = capfd.readouterr().err
    assert said.startswith(f"W&B is out of reach (wandb ended with {error!r}). ")
    assert said.count("\n") == 1
    assert "no answer" not in said
