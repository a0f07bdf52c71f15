"""Datasets that break one clause of the contract each; all but that is two domains of noise."""

from __future__ import annotations

import dataclasses
import uuid

import numpy as np
import torch

from dgbench.dataset import Card, GeneratedOptions, Items, MultiDomainDataset, TensorDomain, option

SHEET = """Noise.

    Domains:
        dark, light.
    Classes:
        no, yes.
    Images per domain:
        20.
    Licence:
        None.
    Source:
        None.
    Splits:
        None.
    Known defects:
        None.
    Reference:
        None.
    """


class Healthy(MultiDomainDataset):
    __doc__ = SHEET
    Options = GeneratedOptions
    options: GeneratedOptions
    size = 20
    domain = TensorDomain
    card = Card(
        summary="Noise",
        domains=("dark", "light"),
        sizes=(20, 20),
        classes=("no", "yes"),
        regime="small",
        network="mlp",
        num_steps=10,
        evaluate_every=5,
        licence="none",
        source="none",
        checksums={},
        citation="none",
    )

    def rng(self):
        return np.random.default_rng(self.options.data_seed)

    def load(self):
        rng = self.rng()
        for name in ("dark", "light"):
            x = torch.from_numpy(rng.uniform(size=(self.size, 3, 4, 4)).astype(np.float32))
            yield self.domain(name, x, torch.arange(self.size) % 2)


def broken(name, **attributes):
    return type(name, (Healthy,), {"__doc__": SHEET, **attributes})


def changed(**facts):
    return dataclasses.replace(Healthy.card, **facts)


@dataclasses.dataclass(kw_only=True)
class Unsaid(GeneratedOptions):
    extra: int = 3


class Bare(GeneratedOptions):
    extra: int = option(3, "forgot the decorator")


class FlippedTargets(TensorDomain):
    def __getitems__(self, indices):
        x, y = super().__getitems__(indices)
        return Items(x, 1 - y)


class OwnOrder(TensorDomain):
    def __getitems__(self, indices):
        return super().__getitems__(torch.as_tensor(indices).sort().values)


class OtherResident(TensorDomain):
    @property
    def resident(self):
        return self.inputs / 2, self.targets


class OwnAugmentation(TensorDomain):
    def training_items(self, indices):
        x, y = self.__getitems__(indices)
        return Items(x * float(np.random.default_rng().uniform()), y)


class Bright(TensorDomain):
    def __init__(self, name, inputs, targets):
        super().__init__(name, 255 * inputs, targets)


class FloatTargets(TensorDomain):
    def __init__(self, name, inputs, targets):
        super().__init__(name, inputs, targets.float())


class OneClassInTheDark(TensorDomain):
    def __init__(self, name, inputs, targets):
        super().__init__(name, inputs, 0 * targets if name == "dark" else targets)


def global_rng(self):
    np.random.rand()
    return np.random.default_rng(self.options.data_seed)


def only_dark(self):
    yield next(Healthy.load(self))


def splits(**parts):
    return {name: {"dark": torch.tensor([*indices])} for name, indices in parts.items()}


BROKEN = [
    ("card", broken("NoCard", card=None), "expected a Card"),
    ("card", broken("NoSteps", card=changed(num_steps=0)), "card.num_steps is 0"),
    ("card", broken("NoLicence", card=changed(licence=" ")), "card.licence is ' '"),
    ("card", broken("OddRegime", card=changed(regime="tiny")), "one of small, large"),
    (
        "card",
        broken("OddVal", card=changed(val_domains=("dusk",))),
        r"val_domains is \('dusk',\), .*some of its domains",
    ),
    ("card", broken("OneSize", card=changed(sizes=(20,))), "2 domains but 1 sizes"),
    ("data_sheet", broken("NoSheet", __doc__="Noise."), "no heading 'Domains'"),
    ("options", broken("UnsaidOption", Options=Unsaid), "extra has no meaning"),
    ("options", broken("BareOptions", Options=Bare), "Bare is no dataclass"),
    ("loads", broken("NoLoad", load=lambda self: vars(self)["x"]), "KeyError: 'x'"),
    ("loads", broken("OddTask", card=changed(classes=("a",)), make_task=lambda s: s.__dict__.get("task")), "Task"),
    ("domains", broken("Small", size=18), r"have \(18, 18\) examples, expected \(20, 20\)"),
    ("domains", broken("Renamed", card=changed(domains=("dark", "bright"))), "expected dark, bright"),
    (
        "domains",
        broken("Single", load=only_dark, card=changed(domains=("dark",), sizes=(20,))),
        "expected at least two",
    ),
    ("items", broken("BrightImages", domain=Bright), r"expected \[0, 1\]"),
    ("items", broken("Regressed", domain=FloatTargets), "float32 .*expected int64"),
    ("targets", broken("Flipped", domain=FlippedTargets), "has other targets than domain.targets"),
    ("order", broken("Sorted", domain=OwnOrder), "in another order"),
    ("resident", broken("Halved", domain=OtherResident), "holds other examples"),
    ("augmentation", broken("Augmented", domain=OwnAugmentation), "same torch.manual_seed"),
    ("classes", broken("OneClass", domain=OneClassInTheDark), "dark has no example of yes"),
    ("deterministic", broken("Global", rng=global_rng), "generator of numpy"),
    ("deterministic", broken("Fresh", rng=lambda self: np.random.default_rng()), "dark differs"),
    ("data_seed", broken("Grows", size=property(lambda s: 20 + s.options.data_seed)), r"sizes \[21, 21\]"),
    ("fingerprint", broken("Unique", fingerprint=lambda self: uuid.uuid4().hex), "expected twice the same"),
    ("splits", broken("Overlapping", splits=splits(train=[0, 1], test=[1, 2])), "Example 1 of dark"),
    ("splits", broken("Beyond", splits=splits(train=[0, 20])), "reaches from 0 to 20"),
]
