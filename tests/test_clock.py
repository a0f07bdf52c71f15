import copy
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from dgbench.clock import seed_everything
from tests.toy import AtStep, Automatic, Manual, build, fit, seeded

both = pytest.mark.parametrize("cls", [Automatic, Manual])


@both
def test_a_step_is_one_batch_in_any_trainer(cls):
    algorithm = build(cls)
    assert algorithm.step == 0
    fit(algorithm, 4)
    assert [seen[0] for seen in algorithm.seen] == [0, 1, 2, 3]
    assert algorithm.step == algorithm.steps_done == 4
    fit(algorithm, 6)
    assert [seen[0] for seen in algorithm.seen] == [0, 1, 2, 3, 4, 5]


@both
def test_the_step_travels_with_the_weights(cls):
    algorithm, other = fit(build(cls), 3), build(cls)
    assert algorithm.state_dict()["steps_done"] == 3
    other.load_state_dict(algorithm.state_dict())
    assert (other.step, type(other.step)) == (3, int)
    assert copy.deepcopy(algorithm.cpu()).step == 3


@both
def test_the_randomness_of_a_step_is_a_function_of_seed_and_step(cls):
    runs = [fit(seeded(cls, seed), 4).seen for seed in (7, 7, 8)]
    assert runs[0] == runs[1]
    assert all(a[1:] != b[1:] for a, b in zip(runs[0], runs[2], strict=True))
    later = seeded(cls)
    later.load_state_dict({**later.state_dict(), "steps_done": torch.tensor(2)})
    noise = [seen[2:] for seen in runs[0]]
    assert [seen[2:] for seen in fit(later, 4).seen] == noise[2:]
    assert len(set(noise)) == 4
    disturbed = fit(seeded(cls), 4, AtStep(_1=[lambda: torch.rand(9)], _2=[lambda: seed_everything(5)])).seen
    assert disturbed == runs[0]


def test_without_a_seed_the_generators_are_left_alone():
    def noise(seed):
        algorithm = build()
        torch.manual_seed(seed)
        return [seen[2] for seen in fit(algorithm, 3).seen]

    assert noise(5) == noise(5)
    assert not set(noise(5)) & set(noise(6))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_every_entry_of_the_loss_is_logged_by_step(accumulated):
    class Memory(pl.loggers.logger.DummyLogger):
        def __init__(self):
            super().__init__()
            self.rows: list[Any] = []

        def log_metrics(self, metrics, step=None):
            self.rows.append((step, metrics))

    memory = Memory()
    algorithm = fit(build(), 5, logger=memory, log_every_n_steps=2, accumulate_grad_batches=accumulated)
    rows = [(step, row) for step, row in memory.rows if "train/loss" in row]
    assert [step for step, _ in rows] == [0, 2, 4]
    for step, row in rows:
        assert row == {"train/loss": algorithm.seen[step][1], "train/twice": 2 * algorithm.seen[step][1]}
    never = Memory()
    fit(build(), 2, logger=never, log_every_n_steps=0)
    assert never.rows == []
