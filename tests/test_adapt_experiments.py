"""What `tta_digits` says of itself holds: all adapters, on streams that are long enough for each."""

import itertools

import pytest

from dgbench import adaptation, composition, expansion, experiment
from dgbench.protocol import split_indices
from dgbench.registry import adapters, datasets

# Answers each image from the trained weights: its rounds are all alike.
NO_ROUNDS = {"memo"}


@pytest.fixture(scope="module")
def plan():
    """The stages and what they train."""
    return experiment.plan("tta_digits")


@pytest.fixture(scope="module")
def asked(plan):
    """What each stage adapts, as its fields adapter, stream, options and keys."""
    stages = [composition.parse(stage.adapt) for stage, _ in plan if stage.adapt]
    every = [chosen for stage in stages for chosen in itertools.product(*map(expansion.choices, stage))]
    return [adaptation.check(adaptation.compose([f"{key}={text}" for key, text, _ in one])) for one in every]


def test_every_adapter_meets_every_stream_that_tells_something_of_it(asked):
    tried: dict[str, set[str]] = {}
    for made in asked:
        tried.setdefault(made["stream"], set()).add(made["adapter"])
    every = set(adapters.names())
    assert tried == {"online": every, "correlated": every, "continual": every - NO_ROUNDS}


def test_each_trained_model_that_an_adapter_needs_is_trained(plan):
    methods = {job.run.algorithm for _, sweeps in plan for s in sweeps for job in s.jobs}
    assert methods == {"erm"} | {adapters[name].needs.method for name in adapters.names()} - {None}


def test_adapters_that_gather_examples_before_they_learn_do_so_within_a_stream(asked):
    smallest = min(size for name in ("digits_style", "digits_rot") for size in datasets[name].card.sizes)
    for made in asked:
        keys = made["keys"]
        # All that are asked for are there, and one batch at least comes after the first update.
        assert keys.examples <= len(split_indices(smallest, 0.2, 0, 0)[0])
        first_update = -(-getattr(made["hp"], "update_every", 1) // keys.batch_size) * keys.batch_size
        assert first_update + keys.batch_size <= keys.examples
