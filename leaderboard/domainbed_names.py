"""DomainBed's names of datasets, domains and methods, and ours."""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """A dataset of DomainBed."""

    ours: str | None
    """Its name here; None: we do not have it."""
    domains: tuple[str, ...]
    """In DomainBed's order, which numbers its environments."""
    regime: str = "large"
    """Of the search space that DomainBed draws hyper-parameters from."""
    network: str = "resnet"


_ROTATIONS = ("rot0", "rot15", "rot30", "rot45", "rot60", "rot75")
_GROUPS = ("test", "sc_group_1", "sc_group_2")
_CARS = ("aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe")
_NUMBERS = ("env0", "env1", "env2")

DATASETS = {
    "Debug28": Names(None, _NUMBERS, "small", "mnist_cnn"),
    "Debug224": Names(None, _NUMBERS),
    "ColoredMNIST": Names("colored_mnist", ("plus90", "plus80", "minus90"), "small", "mnist_cnn"),
    "RotatedMNIST": Names("rotated_mnist", _ROTATIONS, "small", "mnist_cnn"),
    "VLCS": Names(None, ("caltech101", "labelme", "sun09", "voc2007")),
    "PACS": Names("pacs", ("art_painting", "cartoon", "photo", "sketch")),
    "OfficeHome": Names(None, ("art", "clipart", "product", "real_world")),
    "TerraIncognita": Names(None, ("location_100", "location_38", "location_43", "location_46")),
    "DomainNet": Names(None, ("clip", "info", "paint", "quick", "real", "sketch"), "domain_net"),
    "SVIRO": Names(None, _CARS),
    "WILDSCamelyon": Names(None, tuple(f"hospital_{i}" for i in range(5))),
    "WILDSFMoW": Names(None, tuple(f"region_{i}" for i in range(6))),
    "SpawriousO2O_easy": Names(None, _GROUPS),
    "SpawriousO2O_medium": Names(None, _GROUPS),
    "SpawriousO2O_hard": Names(None, _GROUPS),
    "SpawriousM2M_easy": Names(None, _GROUPS),
    "SpawriousM2M_medium": Names(None, _GROUPS),
    "SpawriousM2M_hard": Names(None, _GROUPS),
}
ALGORITHMS = {
    "ERM": "erm",
    "ERMPlusPlus": "erm_plus_plus",
    "Fish": "fish",
    "IRM": "irm",
    "GroupDRO": "group_dro",
    "Mixup": "mixup",
    "MLDG": "mldg",
    "CORAL": "coral",
    "MMD": "mmd",
    "DANN": "dann",
    "CDANN": "cdann",
    "MTL": "mtl",
    "SagNet": "sag_net",
    "ARM": "arm",
    "VREx": "vrex",
    "RSC": "rsc",
    "SD": "sd",
    "ANDMask": "and_mask",
    "SANDMask": "sand_mask",
    "IGA": "iga",
    "SelfReg": "self_reg",
    "Fishr": "fishr",
    "TRM": "trm",
    "IB_ERM": "ib_erm",
    "IB_IRM": "ib_irm",
    "CAD": "cad",
    "CondCAD": "cond_cad",
    "Transfer": "transfer",
    "CausIRL_CORAL": "caus_irl_coral",
    "CausIRL_MMD": "caus_irl_mmd",
    "EQRM": "eqrm",
    "RDM": "rdm",
    "ADRMX": "adrmx",
    "URM": "urm",
}


def dataset_names(name: str, num_domains: int) -> tuple[str, Names]:
    """A dataset's name here, and those of its domains; one that we do not have keeps its own, in lower case.

    Args:
        name: as DomainBed spells it.
        num_domains: how many environments its records have. If they are not those that we know, as of a folder with
            one more, they keep their numbers.

    >>> dataset_names("Mine", 2)
    ('mine', Names(ours=None, domains=('env0', 'env1'), regime='large', network='resnet'))
    """
    known = DATASETS.get(name, Names(None, ()))
    if len(known.domains) != num_domains:
        known = known._replace(domains=tuple(f"env{i}" for i in range(num_domains)))
    return known.ours or name.lower(), known


def algorithm_name(name: str) -> str:
    """A method's name here; one that we do not have keeps its own, in lower case."""
    return ALGORITHMS.get(name, name.lower())
