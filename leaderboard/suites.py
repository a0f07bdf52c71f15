"""Suites: datasets and settings under which a submission is complete, and comparable with others."""

from __future__ import annotations

from dataclasses import dataclass

from dgbench.registry import UnknownName


@dataclass(frozen=True)
class Suite:
    """What a submission to it has to hold: every test domain of every dataset in every trial, so trained to the end.

    Domains are those of the datasets' cards, and whatever `keys` leave out is the default of each dataset and method:
    network, schedule of evaluations, hyper-parameters.
    """

    name: str
    version: int
    """Raised when a submission would have to be made anew."""
    datasets: tuple[str, ...]
    trials: tuple[int, ...]
    """Trial seeds."""
    keys: tuple[str, ...]
    """Keys of `dgbench train` that differ from the defaults."""


_SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="embedded",
            version=1,
            datasets=("digits_rot", "digits_color", "digits_style", "texture_patches"),
            trials=(0, 1, 2),
            keys=("protocol.num_steps=500", "optim.batch_size=16"),
        ),
    )
}


def suites() -> list[str]:
    """The names of the suites."""
    return list(_SUITES)


def suite(name: str) -> Suite:
    """A suite by name.

    Raises:
        UnknownName: there is no suite of that name.
    """
    if name not in _SUITES:
        raise UnknownName("suite", name, _SUITES)
    return _SUITES[name]
