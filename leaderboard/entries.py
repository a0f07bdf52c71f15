"""The submissions of a leaderboard, and under which settings each was made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .submission import Data, Submission

FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}\.json")
MAX_SHOWN = 2000
Facts = dict[str, Any]
"""All that must be equal for numbers on one dataset to be compared, by name."""


@dataclass(frozen=True)
class Entry:
    """A submission on the page."""

    file: str
    """Its name in the folder of submissions."""
    name: str
    """The method; where two share one, the file's name too."""
    said: Submission

    @property
    def key(self) -> str:
        """The file's name without its ending."""
        return self.file.removesuffix(".json")

    @property
    def is_erm(self) -> bool:
        """Whether it is the method that others are compared with: the ERM of dgbench itself."""
        method = self.said.method
        return (method.algorithm, method.averaging, method.label, method.source) == ("erm", "none", "", None)


def misnamed(file: Path) -> str | None:
    """What is wrong with the name of a submission's file; None if nothing is."""
    if FILE.fullmatch(file.name):
        return None
    return (
        f"got a file called {file.name!a}, expected a-z, A-Z, 0-9, _, - and . with .json at the end, for it becomes "
        "part of an address."
    )


def entries(submissions: Mapping[str, Submission]) -> tuple[Entry, ...]:
    """Submissions by the names of their files, in order of those names.

    Raises:
        ValueError: a name that could not stand in an address.
    """
    names = Counter(said.method.name for said in submissions.values())
    found: list[Entry] = []
    for file, said in sorted(submissions.items()):
        if problem := misnamed(Path(file)):
            raise ValueError(f"{file!a}: {problem} Rename it.")
        name = said.method.name
        found.append(Entry(file, name if names[name] == 1 else _with_file(name, file), said))
    if len({entry.name for entry in found}) < len(found):  # A method may be called what was made up here.
        return tuple(replace(entry, name=_with_file(entry.said.method.name, entry.file)) for entry in found)
    return tuple(found)


def _with_file(name: str, file: str) -> str:
    return f"{name} ({file.removesuffix('.json')})"


def facts(entry: Entry, data: Data) -> Facts:
    """What has to be equal for another entry's numbers on this dataset to be compared with this one's."""
    about = data.model_dump(exclude={"name", "options", "protocol", "trainer", "network", "regime"})
    return {
        "protocol": entry.said.protocol.name,
        **{name: value for name, value in entry.said.protocol.model_dump().items() if name != "name"},
        **{f"protocol.{name}": value for name, value in sorted(data.protocol.items()) if name != "name"},
        "network": data.network.get("name"),
        **{f"network.{name}": value for name, value in sorted(data.network.items()) if name != "name"},
        **{f"trainer.{name}": value for name, value in sorted(data.trainer.items())},
        **{f"dataset.{name}": value for name, value in sorted(data.options.items())},
        **{f"dataset.{name}": value for name, value in about.items()},
    }


@dataclass(frozen=True)
class Setting:
    """Datasets, and how models were trained and evaluated on each: what may be ranked together."""

    datasets: Mapping[str, Facts]
    """In order of the columns."""

    def of(self, entry: Entry) -> tuple[Data, ...]:
        """The entry's datasets that belong to it."""
        return tuple(data for data in entry.said.datasets if self.datasets.get(data.name) == facts(entry, data))

    @property
    def label(self) -> str:
        """In a few words."""
        steps = _each(facts.get("protocol.num_steps") for facts in self.datasets.values())
        networks = _each(facts["network"] for facts in self.datasets.values())
        return f"{_each(facts['protocol'] for facts in self.datasets.values())}, {steps} steps, {networks}"

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        """Every fact's name and value, cut where it is long; where datasets differ, theirs in their order."""
        names = dict.fromkeys(name for facts in self.datasets.values() for name in facts)
        values = ((name, _each(facts.get(name) for facts in self.datasets.values())) for name in names)
        return tuple((name, text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…") for name, text in values)


def _each(values: Iterable[Any]) -> str:
    return " / ".join(dict.fromkeys(map(_text, values)))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(item)}" for name, item in value.items())
    if value in ("", [], {}):
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def settings(of: Iterable[Entry], datasets: Sequence[str]) -> tuple[tuple[str, Setting], ...]:
    """The settings that some entries have, the most frequent first, each with a label that no other has.

    Args:
        of: entries; those that lack one of the datasets have no setting.
        datasets: in order.
    """
    found: list[Setting] = []
    for entry in of:
        own = {data.name: facts(entry, data) for data in entry.said.datasets}
        if all(name in own for name in datasets):
            found.append(Setting({name: own[name] for name in datasets}))
    distinct = [setting for place, setting in enumerate(found) if setting not in found[:place]]
    distinct.sort(key=lambda setting: (-found.count(setting), str(setting)))
    return tuple(_labelled(distinct))


def _labelled(found: Sequence[Setting]) -> Iterable[tuple[str, Setting]]:
    """Where two share a label, what tells them apart is added."""
    for setting in found:
        rivals = [other for other in found if other.label == setting.label]
        apart = {
            fact: _each(facts.get(fact) for facts in setting.datasets.values())
            for other in rivals
            for dataset, facts in setting.datasets.items()
            for fact in sorted({*facts, *other.datasets[dataset]})
            if facts.get(fact) != other.datasets[dataset].get(fact)
        }
        yield ", ".join([setting.label, *(f"{fact}={value}" for fact, value in apart.items())]), setting
