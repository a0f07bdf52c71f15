"""The linear unit tests of invariance: mechanisms that hold in every domain, beside shortcuts that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from dgbench.dataset import Card, GeneratedOptions, MultiDomainDataset, TensorDomain, option

DIM = 5
"""Features in the invariant block, and in the spurious one."""

SPLITS = ("in", "val", "test")
"""What a domain's rows are for, in their order."""


class Rows(NamedTuple):
    """Examples of one domain before anything is hidden or mixed."""

    invariant: np.ndarray
    """(N, 5)."""
    spurious: np.ndarray
    """(N, 5)."""
    targets: np.ndarray
    """(N,) bool, or (N, 1) float."""


Sampler = Callable[[int], Rows]
Example = Callable[[np.random.Generator, int], list[Sampler]]


@dataclass(kw_only=True)
class InvarianceOptions(GeneratedOptions):
    """Options of the unit tests of invariance."""

    num_domains: int = option(3, "number of domains; those beyond the third draw their parameters from data_seed")
    num_examples: int = option(10_000, "rows per domain in each of the splits in, val and test")
    permuted: bool = option(
        False, "the oracle's data: the spurious block is shuffled in every split, not in test alone"
    )


class InvarianceDataset(MultiDomainDataset):
    """Ten features of which five predict the target alike in every domain; a subclass gives `card` and `example`.

    In `test` the five spurious features are those of other rows of the domain, so that nothing but the invariant ones
    helps. Whatever the options, targets and invariant features of a `data_seed` are the same with `permuted` and
    without, plain and scrambled.
    """

    Options = InvarianceOptions
    options: InvarianceOptions
    example: Example
    """Draws what the domains share, and returns one sampler of rows per domain."""
    is_scrambled: ClassVar[bool] = False
    """Whether a random rotation mixes both blocks."""

    @property
    def designated(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Every domain trains and is tested on, on other rows."""
        return self.domain_names, self.domain_names

    def load(self) -> Sequence[TensorDomain]:
        """The domains, and the official splits."""
        num_domains, n = self.options.num_domains, self.options.num_examples
        if num_domains < 2:
            raise ValueError(
                f"dataset.num_domains={num_domains}, expected at least 2: within one domain nothing tells what is "
                "invariant. Give it more."
            )
        if n < 2:
            raise ValueError(f"dataset.num_examples={n}, expected at least 2 rows per split. Give it more.")
        rng = np.random.default_rng(self.options.data_seed)
        # Drawn in the plain variant too, so that both variants draw the same rows.
        rotation, _ = np.linalg.qr(rng.standard_normal((2 * DIM, 2 * DIM)))
        self.mixing = rotation if self.is_scrambled else np.eye(2 * DIM)
        """(10, 10): the inputs are rows [invariant, spurious] times this."""
        names = [f"e{index}" for index in range(num_domains)]
        samplers = self.example(rng, num_domains)
        domains = [self._domain(name, sampler, rng) for name, sampler in zip(names, samplers, strict=True)]
        self.splits = {
            split: {name: torch.arange(index * n, (index + 1) * n) for name in names}
            for index, split in enumerate(SPLITS)
        }
        return domains

    def _domain(self, name: str, sample: Sampler, rng: np.random.Generator) -> TensorDomain:
        inputs, targets = [], []
        for split in SPLITS:
            rows = sample(self.options.num_examples)
            # Drawn whether it is used or not, so that `permuted` changes no other draw.
            order = rng.permutation(len(rows.targets))
            is_broken = split == "test" or self.options.permuted
            spurious = rows.spurious[order] if is_broken else rows.spurious
            inputs.append(np.hstack([rows.invariant, spurious]) @ self.mixing)
            targets.append(rows.targets)
        x, y = np.concatenate(inputs), np.concatenate(targets)  # (3N, 10), (3N,) or (3N, 1)
        dtype = np.int64 if y.dtype == np.bool_ else np.float32
        return TensorDomain(name, torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(dtype)))


def invariance_card(**facts: Any) -> Card:
    """A card with the facts that hold for all of them, at three domains."""
    names = ("e0", "e1", "e2")
    return Card(
        **facts,
        domains=names,
        sizes=(30_000, 30_000, 30_000),
        regime="small",
        network="mlp",
        num_steps=10_000,
        evaluate_every=500,
        splits="official",
        train_domains=names,
        test_domains=names,
        licence="none needed, the data are computed",
        source="generated from data_seed",
        checksums={},
        citation=(
            "B. Aubin, A. Slowik, M. Arjovsky, L. Bottou and D. Lopez-Paz. "
            "Linear unit-tests for invariance discovery. arXiv:2102.10867, 2021."
        ),
    )


def cause_and_effect(rng: np.random.Generator, num_domains: int) -> list[Sampler]:
    """Example 1: causes x, effects z = W_yz y + noise of the regressed y = W_xy x + noise.

    A domain is the deviation of x and of y's noise: 0.1, 1.5, 2, then 10^U(-2, 1).
    """
    to_target = rng.standard_normal((DIM, DIM)) / DIM
    to_effect = rng.standard_normal((DIM, DIM)) / DIM
    more = 10 ** rng.uniform(-2, 1, max(num_domains - 3, 0))

    def draw(deviation: float, n: int) -> Rows:
        cause = deviation * rng.standard_normal((n, DIM))
        target = cause @ to_target + deviation * rng.standard_normal((n, DIM))
        effect = target @ to_effect + rng.standard_normal((n, DIM))
        return Rows(cause, effect, target.sum(1, keepdims=True))

    return [partial(draw, deviation) for deviation in [0.1, 1.5, 2.0, *more][:num_domains]]


def cows_and_camels(rng: np.random.Generator, num_domains: int) -> list[Sampler]:
    """Example 2: the animal decides the class in features a hundredth the size of its background's.

    A domain is (p, s), the probabilities of an animal on its usual ground and of a cow: (0.95, 0.3), (0.97, 0.5),
    (0.99, 0.7), then p ~ U(0.9, 1), s ~ U(0.3, 0.7). Noise has variance 0.1 before the animal is scaled.
    """
    more = rng.uniform((0.9, 0.3), (1.0, 0.7), (max(num_domains - 3, 0), 2))

    def draw(usual: float, cows: float, n: int) -> Rows:
        animal = np.where(rng.random(n) < cows, 1, -1)  # (N,), cows are 1
        ground = np.where(rng.random(n) < usual, animal, -animal)  # (N,), grass is 1
        noise = np.sqrt(0.1) * rng.standard_normal((2, n, DIM))
        invariant, spurious = 0.01 * (animal[:, None] + noise[0]), ground[:, None] + noise[1]
        return Rows(invariant, spurious, invariant.sum(1) > 0)

    return [partial(draw, *pair) for pair in [(0.95, 0.3), (0.97, 0.5), (0.99, 0.7), *more][:num_domains]]


def small_margin(rng: np.random.Generator, num_domains: int) -> list[Sampler]:
    """Example 3: classes lie at +0.1 and -0.1 in the invariant block, at +mu and -mu in the spurious one.

    A domain is mu ~ N(0, I). Noise has deviation 0.1 in both blocks.
    """
    means = rng.standard_normal((num_domains, DIM))

    def draw(mean: np.ndarray, n: int) -> Rows:
        sign = np.where(np.arange(n) < n // 2, 1, -1)[:, None]  # (N, 1)
        noise = 0.1 * rng.standard_normal((2, n, DIM))
        return Rows(0.1 * sign + noise[0], mean * sign + noise[1], sign[:, 0] < 0)

    return [partial(draw, mean) for mean in means]
