"""Methods that break one clause of the contract each; all but that is empirical risk minimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from dgbench.algorithm import Algorithm, Needs
from dgbench.hparams import choices, fixed, hparam, uniform


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of the healthy method."""

    weight: float = hparam(1.0, uniform(1, 2), "factor of the loss")
    turn: int = hparam(20, fixed(20), "step at which nothing happens", is_step=True)


class Healthy(Algorithm):
    """Minimise `weight * mean(loss)`."""

    HParams = HParams

    def loss(self, batch):
        risk = self.domain_risks(batch).mean()
        return {"loss": self.hp.weight * risk, "risk": risk}


class Demanding(Healthy):
    """Needs all that a run can lack, brings a sampler, and restarts its optimizer at the best weights."""

    needs = Needs(pretrained=True, min_domains=3, tasks=("regression",), domain_rows=True)

    def make_sampler(self, targets, domains):
        return OwnSampler(len(targets), self.num_domains)

    def on_evaluation(self, value):
        if self.step == 2:
            self.keep_best()
        if self.step == 5:
            self.restore_best()


@dataclass
class OwnSampler:
    num_examples: int
    num_domains: int

    def __call__(self, anchors, generator):
        return torch.randint(self.num_examples, (self.num_domains, 8), generator=generator)


class Mute(Healthy):
    __doc__ = None


class UnsaidVersion(Healthy):
    """No integer."""

    version = "1"  # type: ignore[assignment]


class UnsaidNeeds(Healthy):
    """A task that does not exist."""

    needs = Needs(tasks=("ranking",))


class UnsaidHParam(Healthy):
    """A field without facts."""

    @dataclass(kw_only=True)
    class HParams(HParams):
        """One more."""

        extra: float = field(default=1.0)


class UnsaidMeaning(Healthy):
    """A field without a meaning."""

    @dataclass(kw_only=True)
    class HParams(HParams):
        """One more."""

        extra: float = hparam(1.0, fixed(1.0), " ")


class NumpyDraws(Healthy):
    """Values that are no plain Python."""

    @dataclass(kw_only=True)
    class HParams(HParams):
        """One more."""

        extra: float = hparam(1.0, choices(np.float32(1)), "drawn by numpy")


class RestlessDraws(Healthy):
    """Values that the seed does not decide."""

    @dataclass(kw_only=True)
    class HParams(HParams):
        """One more."""

        extra: float = hparam(1.0, fixed(1)._replace(sample=lambda r: float(np.random.rand())), "global draw")


class Unbuildable(Healthy):
    """Reads what is not there."""

    def __init__(self, *args):
        super().__init__(*args)
        self.width = self.network.width


class Silent(Needs):
    def unmet(self, *args, **kwargs):
        return None


class AcceptsAll(Healthy):
    """Builds with unmet needs."""

    needs = Silent(min_domains=2)


class LambdaSampler(Healthy):
    """A sampler that workers cannot receive."""

    def make_sampler(self, targets, domains):
        return lambda anchors, generator: torch.randint(len(targets), (self.num_domains, 4), generator=generator)


class GlobalSampler(Healthy):
    """A sampler that does not heed its generator."""

    def make_sampler(self, targets, domains):
        return draw_anything


def draw_anything(anchors, generator):
    return torch.randint(24, (2, 4))


class LossOfRows(Healthy):
    """One loss per domain."""

    def loss(self, batch):
        return {"loss": self.domain_risks(batch)}


class BareLoss(Healthy):
    """No dict."""

    def loss(self, batch):
        return super().loss(batch)["loss"]


class InfiniteLoss(Healthy):
    """Not finite from the start."""

    def loss(self, batch):
        return {"loss": super().loss(batch)["loss"] / 0}


class FlatShape(Healthy):
    """The first output alone."""

    def forward(self, x):
        return super().forward(x)[:, 0]


class NotComposite(Healthy):
    """Forward is not what its parts say."""

    def forward(self, x):
        return 2 * super().forward(x) + 1


class Contrast(Healthy):
    """Predictions relative to the batch."""

    composite = False

    def forward(self, x):
        outputs = super().forward(x)
        return outputs - outputs.mean(0)


class CountsForwards(Healthy):
    """Remembers how often it was asked."""

    asked: torch.Tensor

    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x):
        self.asked += 1
        return super().forward(x)


class DrawsInForward(Healthy):
    """Touches the global generator."""

    def forward(self, x):
        torch.rand(1)
        return super().forward(x)


class Bystander(Healthy):
    """A parameter without a part in the loss."""

    def __init__(self, *args):
        super().__init__(*args)
        self.unused = nn.Parameter(torch.ones(3))


class SilentAtFive(Healthy):
    """No training with more than two domains."""

    def loss(self, batch):
        values = super().loss(batch)
        return {"loss": values["loss"] * (len(batch.x) < 3)}


class StumblesAtTurn(Healthy):
    """Fails where its own hyper-parameter says that something happens."""

    def loss(self, batch):
        if self.step == self.hp.turn:
            raise IndexError("off by one")
        return super().loss(batch)


class AssumesRows(Healthy):
    """Needs rows of domains, but does not say so."""

    def loss(self, batch):
        assert len(batch.x) == self.num_domains
        return super().loss(batch)


class OwnNoise(Healthy):
    """Noise from a generator that nobody seeds."""

    def loss(self, batch):
        noise = float(np.random.default_rng().uniform())
        return {"loss": super().loss(batch)["loss"] * (1 + noise)}


class ForgetsOffset(Healthy):
    """Predictions depend on what is no buffer."""

    offset = 0.0

    def loss(self, batch):
        self.offset += 1
        return super().loss(batch)

    def classify(self, features):
        return super().classify(features) + self.offset

    def forward(self, x):
        return self.classify(self.features(x))


class ForgetsCount(Healthy):
    """Later steps depend on what is no buffer."""

    count = 0

    def loss(self, batch):
        self.count += 1
        return {"loss": super().loss(batch)["loss"] * self.count}


class UnsafeState(Healthy):
    """A checkpoint that holds more than tensors and primitives."""

    def training_state(self):
        return {**super().training_state(), "extra": HParams()}


BROKEN: list[tuple[str, type[Algorithm], str]] = [
    ("documented", UnsaidMeaning, "extra has no meaning"),
    ("documented", Mute, "no docstring"),
    ("declares", UnsaidVersion, "version is '1'"),
    ("declares", UnsaidNeeds, "tasks among classification, regression"),
    ("declares", UnsaidHParam, r"extra is a bare field, expected hparam\("),
    ("draws", NumpyDraws, r"extra draws .*float32"),
    ("draws", RestlessDraws, "then something else"),
    ("builds", Unbuildable, "has no attribute 'width'"),
    ("refuses", AcceptsAll, "1 training domains got 'no error'"),
    ("sampler", LambdaSampler, "cannot be pickled"),
    ("sampler", GlobalSampler, "from the same generator"),
    ("loss", LossOfRows, r"'loss' on classification is shape \(2,\)"),
    ("loss", BareLoss, "returns Tensor, expected a dict"),
    ("loss", InfiniteLoss, "is inf at step 0"),
    ("shape", FlatShape, r"of shape \(6,\) for 6 examples"),
    ("composite", NotComposite, r"differs from forward\(x\)"),
    ("independent", Contrast, "example alone differs"),
    ("evaluation_pure", CountsForwards, "changes asked"),
    ("evaluation_pure", DrawsInForward, "the generator of torch"),
    ("trains", Bystander, "unused never changes"),
    ("trains", SilentAtFive, r"never changes \(classification, 5 training domains"),
    ("trains", StumblesAtTurn, "IndexError: off by one"),
    ("trains", AssumesRows, "rows of mixed domains"),
    ("deterministic", OwnNoise, "differs at step 0"),
    ("round_trip", ForgetsOffset, "predicts otherwise"),
    ("round_trip", UnsafeState, "weights_only=True"),
    ("resumes", ForgetsCount, "differs at step 3"),
]
