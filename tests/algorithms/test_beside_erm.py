"""No method is ERM under another name."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench.algorithm import build_algorithm
from dgbench.dataset import TensorDomain
from dgbench.hparams import Optim, facts, filled
from dgbench.loader import Batches, Split
from dgbench.network import build_network
from dgbench.registry import algorithms
from dgbench.task import Task
from tests.algorithms.reference import train

STEPS = 200
SHAPE = (1, 6, 6)
NETWORK: dict[str, Any] = {"name": "small_cnn", "input_shape": SHAPE, "width": 2, "depth": 2}
SAYS = re.compile(r"Until step `(\w+)` it is ERM\.")


def splits(kind: str) -> list[Split]:
    made = []
    for domain in range(3):
        generator = torch.Generator().manual_seed(domain)
        x = torch.rand(24, *SHAPE, generator=generator) * (0.4 + 0.3 * domain)
        y = torch.arange(24) % 3 if kind == "classification" else x.flatten(1)[:, :3].contiguous()
        made.append(Split(TensorDomain(f"d{domain}", x, y), torch.arange(24)))
    return made


def trained(name: str, kind: Any, steps: int, folder: Path, hparams: dict[str, Any] | None = None) -> dict:
    torch.manual_seed(0)
    task, weights = Task(kind, 3), None
    network = build_network(num_outputs=3, **NETWORK)
    if algorithms[name].needs.pretrained:
        weights = folder / "weights.pt"
        torch.save(network.state_dict(), weights)
        loaded = build_network(num_outputs=3, weights=weights, **NETWORK)
        loaded.load_state_dict(network.state_dict())
        network = loaded
    optim = Optim(lr=0.01, batch_size=6, num_steps=STEPS)
    algorithm = build_algorithm(name, task=task, network=network, num_domains=3, hparams=hparams, optim=optim)
    algorithm.seed = 0
    data = splits(kind)
    targets, owners = torch.cat([s.domain.targets for s in data]), torch.arange(3).repeat_interleave(24)
    batches = Batches(data, 6, seed=0, draw=algorithm.make_sampler(targets, owners))
    train(algorithm, [batches[step] for step in range(steps)])
    return {key: value.detach() for key, value in algorithm.network.state_dict().items()}


def is_same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def erm(tmp_path_factory):
    known: dict[tuple[str, int], dict] = {}

    def get(kind: str, steps: int) -> dict:
        if (kind, steps) not in known:
            known[kind, steps] = trained("erm", kind, steps, tmp_path_factory.mktemp("erm"))
        return known[kind, steps]

    return get


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
@pytest.mark.parametrize("name", [name for name in algorithms.names() if name != "erm"])
def test_after_200_default_steps_its_weights_are_not_erms_or_its_file_says_until_when(name, erm, tmp_path):
    cls = algorithms[name]
    kind = cls.needs.tasks[0]
    said = SAYS.search(" ".join((sys.modules[cls.__module__].__doc__ or "").split()))
    # What differs early is not trained on.
    is_erm = all(is_same(trained(name, kind, steps, tmp_path), erm(kind, steps)) for steps in (9, STEPS))
    if said is None:
        assert not is_erm, f"{name} equals ERM after {STEPS} steps, and its file names no step until which it does"
        return
    field = said[1]
    assert facts(cls.HParams)[field].is_step
    assert is_erm == (getattr(filled(cls.HParams(), "small"), field) >= STEPS), (
        f"{name} says otherwise of its first {STEPS} steps"
    )
    early = {f.name: 3 for f in dataclasses.fields(cls.HParams) if f.name == field}
    assert is_same(trained(name, kind, 3, tmp_path, early), erm(kind, 3))
    assert not is_same(trained(name, kind, 9, tmp_path, early), erm(kind, 9))
