import math

import pytest
import torch

from dgbench.registry import algorithms
from dgbench.workbench import Workbench
from tests.algorithms.reference import adam_steps, assert_weights, erm_loss, make, random_batches, train, weights_of
from tests.algorithms.test_fish import fish_steps


def evaluated(fish, scores):
    """It is told `scores[s]` after step s, as a run would."""
    training_step = fish.training_step

    def spy(*arguments):
        if 0 < fish.step <= len(scores):
            fish.on_evaluation(scores[fish.step - 1])
        return training_step(*arguments)

    fish.training_step = spy
    return fish


@pytest.mark.parametrize(("scores", "best"), [([0.1, 0.9, 0.5, 2.0], 2), ([0.9, 0.9, 0.5], 1), ([], 3)])
def test_fish_starts_from_the_best_of_its_pretraining(scores, best):
    fish, batches = make("fish", {"form": "domainbed", "pretrain_steps": 3}), random_batches(5)
    start, orders = weights_of(fish), [range(3)] * 2
    train(evaluated(fish, scores), batches)
    pretrained = [w.detach() for w in adam_steps(start, batches[:best], erm_loss)]
    assert_weights(fish, fish_steps(pretrained, batches[3:], 0.5, orders))
    assert fish.step == 5


def test_without_pretraining_evaluations_change_nothing():
    fish, told = (make("fish", {"form": "domainbed"}) for _ in range(2))
    batches = random_batches(4)
    train(fish, batches), train(evaluated(told, [0.5, 0.1, 0.9]), batches)
    assert all(torch.equal(value, told.state_dict()[name]) for name, value in fish.state_dict().items())
    assert told.training_state()["best"] is None


def test_a_checkpoint_within_pretraining_keeps_the_best(tmp_path):
    bench, hp = Workbench(algorithms["fish"], tmp_path), algorithms["fish"].HParams(pretrain_steps=5)
    straight, fresh = bench.build(hp=hp), bench.build(hp=hp, seed=1)
    bench.train(straight, range(7))
    bench.train(fresh, range(4, 7), resume=bench.train(bench.build(hp=hp), range(4), save=True).saved)
    assert straight.best_score == pytest.approx(math.sin(2))
    for name, value in straight.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
