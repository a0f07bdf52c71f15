from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from dgbench import hparams
from dgbench.hparams import Optim, by_regime, choices, draw, facts, filled, fixed, hparam, like, seed_hash, uniform
from dgbench.registry import UnknownName
from tests.test_search_spaces import REGIMES, SEEDS, hashed, optim_table


@pytest.mark.parametrize(
    ("args", "seed"),
    [
        ((0, 0), 894182419),
        ((1, 0), 785910682),
        ((0, 1), 1514274641),
        (("VLCS", "ERM", [1, 2], 1, 0), 360234358),
        ((785910682, "lr"), 2037049235),
        (("PACS", "ERM", [0], 0, 0), 94828300),
    ],
)
def test_seeds_hash_to_the_known_values(args, seed):
    assert seed_hash(*args) == hashed(*args) == seed
    assert type(seed_hash(*args)) is int


def test_the_first_random_draw_of_erm_on_photographs_is_the_published_one():
    drawn = draw(Optim, 1, 0, regime="large")
    assert (drawn.lr, drawn.weight_decay) == (2.7028930742148706e-05, 0.00044832883881609976)
    assert (drawn.batch_size, drawn.dropout) == (39, 0.5)
    assert drawn.num_steps is None


def test_the_draw_differs_between_trials_and_not_between_calls():
    assert draw(Optim, 1, 0) == draw(Optim, 1, 0) == draw(Optim, 1)
    assert draw(Optim, 1, 0).lr != draw(Optim, 1, 1).lr
    assert draw(Optim, 0, 0) == draw(Optim, 0, 1)


@dataclass(kw_only=True)
class Few:
    weight: float = hparam(1.0, uniform(0, 1), "a weight", key="w")


@dataclass(kw_only=True)
class Many:
    first: int = hparam(0, fixed(3), "a new first one")
    weight: float = hparam(1.0, uniform(0, 1), "a weight", key="w")
    layers: Any = hparam([1, 2], choices([3], [4]), "a list")
    steps: int = hparam(5, fixed(5), "steps", is_step=True, presets={"other": 7})
    own_lr: float | None = like("lr", "learning rate of its own")
    lr: float | None = like("lr", key="lr_d")
    rate: float | None = like("dropout")
    size: int | None = by_regime("a size", small=(1, fixed(10)), large=(2, fixed(20)))
    remark: str = "no hyper-parameter"


@pytest.mark.parametrize("seeds", SEEDS)
def test_another_hyper_parameter_shifts_no_draw(seeds):
    assert draw(Many, *seeds).weight == draw(Few, *seeds).weight


@pytest.mark.parametrize("regime", REGIMES)
def test_like_is_the_distribution_of_optim_by_a_draw_of_its_own(regime):
    lr = optim_table(regime)["lr"]
    for seeds in SEEDS:
        drawn, root = draw(Many, *seeds, regime=regime), hashed(*seeds)
        assert drawn.own_lr == lr[2](np.random.RandomState(hashed(root, "own_lr")))
        assert drawn.lr == lr[2](np.random.RandomState(hashed(root, "lr_d")))
        assert len({drawn.own_lr, drawn.lr, draw(Optim, *seeds, regime=regime).lr}) == 3
    assert filled(Many(), regime).own_lr == lr[1]
    assert filled(Many(), regime).rate == 0.0


def test_what_a_file_says_is_read_as_it_stands():
    said = facts(Many)
    assert list(said) == [f.name for f in fields(Many) if f.name != "remark"]
    assert (said["weight"].key, said["weight"].doc, said["weight"].name) == ("w", "a weight", "weight")
    assert (said["first"].key, said["first"].is_step, said["first"].presets) == ("first", False, {})
    assert (said["steps"].is_step, said["steps"].presets) == (True, {"other": 7})
    assert said["own_lr"].doc == "learning rate of its own"
    assert said["lr"].doc == facts(Optim)["lr"].doc == "learning rate"
    assert said["own_lr"].choice("small").sampler.text == "10^U(-4.5, -2.5)"
    assert facts(Many, {"weight": like("lr", key="k")})["weight"].key == "k"


def test_a_regime_that_is_not_spelled_out_follows_large():
    assert [filled(Many(), regime).size for regime in REGIMES] == [1, 2, 2]
    assert [draw(Many, 1, regime=regime).size for regime in REGIMES] == [10, 20, 20]


def test_a_bare_instance_leaves_open_what_depends_on_the_regime_and_filling_keeps_what_is_given():
    bare = Optim()
    assert (bare.lr, bare.weight_decay, bare.batch_size, bare.dropout) == (None, None, None, 0.0)
    assert (Many().size, Many().own_lr, Many().lr) == (None, None, None)
    given = Optim(lr=0.5, weight_decay=0.0, optimizer="sgd", num_steps=9)
    assert filled(given, "large") == Optim(
        lr=0.5, weight_decay=0.0, batch_size=32, optimizer="sgd", num_steps=9, dropout=0.0
    )
    assert given.batch_size is None


def test_two_instances_never_share_a_list():
    for first in (Many(), draw(Many, 0), draw(Many, 1)):
        again = {Many: Many(), 0: draw(Many, 0), 1: draw(Many, 1)}
        first.layers.append(99)
        assert all(99 not in other.layers for other in again.values())
        assert all(99 not in draw(Many, seed).layers for seed in (0, 1))


def test_integers_are_cut_and_choices_follow_numpy():
    for seed in range(50):
        cut = hparams.log10_int(0, 4).sample(np.random.RandomState(seed))
        assert cut == int(10 ** np.random.RandomState(seed).uniform(0, 4))
        assert hparams.uniform_int(70, 100).sample(np.random.RandomState(seed)) in range(70, 100)
        picked = choices("a", "b", "c").sample(np.random.RandomState(seed))
        assert picked == np.random.RandomState(seed).choice(["a", "b", "c"])


def test_an_unknown_regime_or_field_is_answered_with_the_list():
    with pytest.raises(UnknownName, match=r"'smal' is not a known regime. Did you mean 'small'"):
        draw(Optim, 0, regime="smal")
    with pytest.raises(UnknownName, match=r"'larg' is not a known regime. Did you mean 'large'"):
        by_regime("a size", small=(1, fixed(1)), larg=(2, fixed(2)))
    with pytest.raises(UnknownName, match=r"'learning' is not a known field of Optim. Known: lr, weight_decay"):
        like("learning")
    with pytest.raises(ValueError, match=r"by_regime gives small, expected also large, which the others follow"):
        by_regime("a size", small=(1, fixed(1)))
