"""An adapter that keeps the contract, and others that break one clause each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dgbench.adapter import Adapter, Baseline, Needs
from dgbench.hparams import choices, hparam


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of the toys."""

    lr: float = hparam(0.01, choices(0.001, 0.01), "learning rate")


class Healthy(Adapter):
    """Make the head's bias less confident of what it sees."""

    HParams = HParams
    baseline: ClassVar[Baseline | None] = Baseline("source", {"lr": 0.0})

    def prepare(self, source):
        self.bias = self.algorithm.network.head.bias.requires_grad_()
        self.optimizer = torch.optim.SGD([self.bias], lr=self.hp.lr)
        self.seen = 0

    def adapt(self, x):
        self.seen += len(x)
        logits = self.logits(x)
        self.descend(logits.logsumexp(1).mean(), self.optimizer)
        return logits


class Mute(Healthy):
    __doc__ = None


class Stateless(Healthy):
    """Names no needs."""

    needs: ClassVar[Any] = None


class Wide(Healthy):
    """Answers one class too many."""

    def adapt(self, x):
        return torch.cat([super().adapt(x), x.new_zeros(len(x), 1)], 1)


class Unnormalised(Healthy):
    """Calls logits probabilities."""

    output = "probabilities"
    baseline = None


KEPT: list[int] = []


class Outside(Healthy):
    """Keeps a count outside itself, which no reset reaches."""

    def adapt(self, x):
        KEPT.append(len(x))
        return super().adapt(x) + 1e-3 * len(KEPT)

    baseline = None


class Curious(Healthy):
    """Counts what it is merely asked."""

    def answer(self, x):
        self.seen += len(x)
        return self.logits(x)


class Otherwise(Healthy):
    """Is not the source when its update is disabled."""

    def adapt(self, x):
        return super().adapt(x) + torch.arange(3.0)


class Elsewhere(Healthy):
    """Names a baseline that reads the source, and is not what it equals."""

    baseline = Baseline("eata", {"lr": 123.0})


class Unbatched(Otherwise):
    """Takes no batch norm, which is all that its baseline adapts: it is not the source either."""

    needs = Needs(norms=("group",))
    baseline = Baseline("bn_adapt", {"lr": 0.0})


class Incomparable(Healthy):
    """Names a baseline that takes none of its models."""

    baseline = Baseline("drm_select", {"lr": 0.0})


class Sociable(Healthy):
    """Cannot do with a single example, and does not say so."""

    def adapt(self, x):
        return super().adapt(x) / torch.tensor(len(x) - 1.0)

    baseline = None


class Fragile(Healthy):
    """Divides by the spread of the batch, which may be 0, and takes the step whatever comes of it."""

    baseline = None

    def adapt(self, x):
        logits = self.logits(x)
        spread = x.flatten(1).std(0, correction=0).sum()
        grads = torch.autograd.grad((logits.mean() * 0 / spread), [self.bias])
        with torch.no_grad():
            self.bias -= grads[0]
        return logits.detach()


class Patient(Healthy):
    """Is finite until it has collected 64 images, of which it then divides by the spread of the first pixel."""

    def prepare(self, source):
        super().prepare(source)
        self.pixels = torch.zeros(0)

    def adapt(self, x):
        self.pixels = torch.cat([self.pixels, x[:, 0, 0, 0]])
        if len(self.pixels) >= 64:
            with torch.no_grad():
                self.bias += 0 / self.pixels.std(correction=0)
        return super().adapt(x)

    baseline = None


class Secret(Healthy):
    """Changes what it does not name."""

    def adapt(self, x):
        with torch.no_grad():
            self.algorithm.network.head.weight.mul_(1.01)
        return super().adapt(x)

    baseline = None


BROKEN: list[tuple[str, type[Adapter], str]] = [
    ("documented", Mute, "Mute has no docstring"),
    ("states", Stateless, r"Stateless\.needs is None"),
    ("adapts", Wide, r"Wide answers \(12, 4\)"),
    ("adapts", Unnormalised, "The probabilities of Unnormalised sum to"),
    ("resets", Outside, "Outside answers the same stream otherwise the second time"),
    ("predicts_without_trace", Curious, "predict of Curious changes seen"),
    ("falls_back", Otherwise, "Otherwise with {'lr': 0.0} differs from source by"),
    ("falls_back", Elsewhere, "Elsewhere with {'lr': 123.0} differs from eata by"),
    ("falls_back", Unbatched, r"Unbatched with {'lr': 0.0} differs from bn_adapt by .*norm=group"),
    (
        "falls_back",
        Incomparable,
        "drm_select takes no model of Incomparable's, expected .*: DRMSelect adapts models trained by drm",
    ),
    ("takes_one", Sociable, "Sociable answers NaN or infinity .* a batch of one"),
    ("stays_finite", Fragile, "becomes NaN .* constant images|answers NaN"),
    ("stays_finite", Patient, "Patient answers NaN or infinity .* constant images"),
    ("names_what_it_adapts", Secret, r"Secret changes network\.head\.weight"),
]


class Demanding(Healthy):
    """Needs everything a model or a stream may lack."""

    needs = Needs(source=True, composite=True, norms=("group",), images=True)

    def prepare(self, source):
        super().prepare(source)
        self.mean = torch.cat([batch.x.flatten(0, 1) for batch in source]).mean()
