"""What a batch costs with each adapter, in units of the unadapted model's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from dgbench.adapter import Adapter, build_adapter
from dgbench.algorithm import Algorithm, build_algorithm
from dgbench.batch import Batch
from dgbench.network import build_network
from dgbench.registry import adapters, algorithms
from dgbench.task import Task
from tests.benchmarks.timing import alternate, processor_time, ratios, row, seconds, show

pytestmark = pytest.mark.bench

N, SHAPE, CLASSES, BATCHES, ROUNDS = 64, (3, 96, 96), 7, 3, 3
# Entries of a memory of source features.
SOURCE = 10_000
# Look at every image many times.
SLOW = ("memo", "cotta")
TARGETS = {"bn_adapt": 1.2, "t3a": 1.5, "adanpc": 1.5, "tent": 4.0}


def model(name: str) -> Algorithm:
    """As small as it can be for what the adapter needs."""
    needs = adapters[name].needs
    norm = "instance_aware" if needs.norms == ("instance_aware",) else "batch"
    network = build_network("small_resnet", SHAPE, CLASSES, norm=norm)
    method = needs.method or "erm"
    domains = 3 if algorithms[method].needs.domain_rows else 1
    return build_algorithm(method, task=Task("classification", CLASSES), network=network, num_domains=domains).eval()


class Source:
    """Source data, drawn when they are read."""

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, SOURCE, 100):
            x = torch.rand(1, 100, *SHAPE, generator=torch.Generator().manual_seed(start))
            yield Batch(x, torch.arange(100)[None] % CLASSES, torch.zeros(1, 100, dtype=torch.long))


def seconds_per_batch(adapter: Adapter, num_batches: int) -> float:
    adapter.reset()
    batches = [torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(1 + num_batches)]
    if num_batches > 1:
        adapter.step(batches[0])

    def rest() -> None:
        for x in batches[1:]:
            adapter.step(x)

    return seconds(rest, processor_time) / num_batches


def test_cost_of_a_batch():
    torch.set_num_threads(1)
    rows = []
    for name in adapters.names():
        algorithm = model(name)
        made = build_adapter(name, algorithm, source=Source() if adapters[name].needs.source else None)
        # The unadapted model of the same network stands beside each.
        sides = {"base": build_adapter("source", algorithm), name: made}
        rounds, num_batches = (1, 1) if name in SLOW else (ROUNDS, BATCHES)
        calls = {side: partial(seconds_per_batch, adapter, num_batches) for side, adapter in sides.items()}
        times = alternate(calls, rounds)
        target = f"<= {TARGETS[name]:.1f}" if name in TARGETS else ""
        rows.append(row(name, ratios(times[name], times["base"]), "{:.2f}", target))
    show(f"Time of a batch over that of source: small_resnet, {N} images of 96 x 96, processor time", *rows)
