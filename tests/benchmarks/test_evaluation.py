"""Images per second of an evaluation, against loops by hand: one with the same metrics, one that only counts hits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dgbench import evaluation
from dgbench.algorithm import Algorithm, build_algorithm
from dgbench.dataset import TensorDomain
from dgbench.evaluation import Evaluator
from dgbench.loader import Split
from dgbench.network import build_network
from dgbench.task import Task
from tests.benchmarks.timing import alternate, processor_time, ratios, row, seconds, show

pytestmark = pytest.mark.bench

CASES = (("mlp", 12, 16384), ("small_cnn", 12, 4096), ("mnist_cnn", 28, 384))


def answers(algorithm: Algorithm, x: torch.Tensor) -> torch.Tensor:
    algorithm.eval()
    with torch.no_grad():
        return torch.cat([algorithm.network(part) for part in x.split(evaluation.CPU_BATCH)])


@pytest.mark.parametrize(("name", "side", "num"), CASES)
def test_evaluation(name, side, num):
    torch.manual_seed(0)
    x, y = torch.rand(num, 1, side, side), torch.randint(10, (num,))
    network = build_network(name, (1, side, side), 10)
    algorithm = build_algorithm("erm", task=Task("classification", 10), network=network, num_domains=2)
    evaluator = Evaluator({("in", "random"): Split(TensorDomain("random", x, y), torch.arange(num))}, "cpu")

    def accuracy() -> float:
        return int((answers(algorithm, x).argmax(1) == y).sum()) / num

    def metrics() -> dict[str, float]:
        return algorithm.task.metrics(answers(algorithm, x), y)

    def rate(call: Callable[[], object]) -> float:
        return num / seconds(call, processor_time)

    values, sizes = evaluator(algorithm)
    assert sizes == {"in/random": num}
    assert values == {f"in/random/{metric}": value for metric, value in metrics().items()}
    assert values["in/random/accuracy"] == accuracy()

    rates = alternate(
        {
            "metrics": lambda: rate(metrics),
            "dgbench": lambda: rate(lambda: evaluator(algorithm)),
            "accuracy": lambda: rate(accuracy),
        },
        rounds=9,
    )
    show(
        f"Evaluation of {num} images of {side} x {side}, {name}, images per second of processor time",
        row("a loop by hand, the same metrics", rates["metrics"], "{:,.0f}"),
        row("a loop by hand, accuracy alone", rates["accuracy"], "{:,.0f}"),
        row("dgbench", rates["dgbench"], "{:,.0f}"),
        row("ratio to the same metrics", ratios(rates["dgbench"], rates["metrics"]), "{:.3f}", ">= 0.950"),
        row("ratio to accuracy alone", ratios(rates["dgbench"], rates["accuracy"]), "{:.3f}"),
    )
