"""What a user may write, typed: the keys of a run and of its groups `network` and `trainer`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from dgbench.averaging import make_averaging
from dgbench.devices import check_devices
from dgbench.hparams import check_finite
from dgbench.registry import UnknownName
from dgbench.selection import selection

CHECKPOINTS = ("none", "selected", "all")
LOGGERS = ("none", "wandb")
HPARAMS_PER = ("trial", "sweep")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(kw_only=True)
class NetworkOptions:
    """The keys `network.*`."""

    name: str = "auto"
    width: int | None = None
    depth: int | None = None
    activation: str | None = None
    init: str | None = None
    norm: str | None = None
    normalise: str | None = None
    weights: str | None = None
    freeze_bn: bool | None = None
    channels_last: bool = False
    compile: bool = False


@dataclass(kw_only=True)
class TrainerOptions:
    """The keys `trainer.*`."""

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    deterministic: bool = True
    benchmark: bool = False

    def __post_init__(self) -> None:
        if self.devices != 1 or self.strategy != "auto":
            raise ValueError(
                f"trainer.devices={self.devices} trainer.strategy={self.strategy}: a run uses one device in this "
                "version. Leave them 1 and auto, and start several runs at once with hydra/launcher=joblib."
            )
        if self.accumulate_grad_batches < 1:
            raise ValueError(f"trainer.accumulate_grad_batches={self.accumulate_grad_batches}, expected at least 1.")
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise ValueError(f"trainer.gradient_clip_val={self.gradient_clip_val}, expected more than 0, or null.")
        if self.precision not in PRECISIONS:
            raise UnknownName("precision (trainer.precision)", self.precision, PRECISIONS)


@dataclass(kw_only=True)
class Keys:
    """The keys of a run outside the groups; `configs/config.yaml` says what each means."""

    data_dir: str
    runs_dir: str
    plugins: list[str]
    test_domains: str | int | list[str | int]
    train_domains: list[str | int] | None
    val_domains: list[str | int] | None
    hparams_seed: int
    hparams_per: str
    hparams_from: str | None
    hparams_by: str
    trial_seed: int
    seed: int | None
    averaging: str
    logger: str
    group: str | None
    label: str | None
    criteria: list[str] | None
    checkpoints: str
    overwrite: bool
    retry: bool
    skip_refused: bool
    workers: int
    threads: int | None
    devices: Any
    runs_per_device: int

    def __post_init__(self) -> None:
        for name, known in (
            ("checkpoints", CHECKPOINTS),
            ("logger", LOGGERS),
            ("hparams_per", HPARAMS_PER),
        ):
            if getattr(self, name) not in known:
                raise UnknownName(f"value of {name}", getattr(self, name), known)
        for name in (self.hparams_by, *(self.criteria or ())):
            selection(name)
        if not selection(self.hparams_by).compares:
            raise ValueError(
                f"hparams_by={self.hparams_by} compares no draws, expected a criterion that does. Use another."
            )
        make_averaging(self.averaging)
        self.label = self.label or None
        for name in ("hparams_seed", "trial_seed", "seed", "workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value}, expected 0 or more.")
        check_devices(self.devices, self.runs_per_device)


def typed(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of a dataclass from what a user wrote.

    Args:
        cls: the dataclass.
        values: its fields.
        where: prefix of the keys in messages.

    Raises:
        UnknownName: a field that the dataclass does not have.
        ValueError: a value of another type, or a number that is not finite.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise UnknownName("key", where + name, [where + k for k in known])
    try:
        made = _adapter(cls).validate_python(dict(values))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), ValueError):
            raise cause from error
        name = where + str(first["loc"][0])
        raise ValueError(f"{name}={first['input']!r}: {first['msg'].lower()}.") from error
    check_finite(made, where)
    return made


@functools.cache
def _adapter(cls: type) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(cls)
