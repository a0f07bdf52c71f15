"""Which boards the page has: a tab per suite and per dataset, in it one per setting and criterion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from dgbench.selection import criteria

from .entries import Entry, Setting, settings
from .standings import Board, board, frame
from .suites import suite, suites


@dataclass(frozen=True)
class Panel:
    """A board and what tells it from the others of its tab."""

    key: str
    """Of its own on the page; fit for an address."""
    setting: str
    """The setting's label."""
    facts: tuple[tuple[str, str], ...]
    """All that is equal for its entries, name and value."""
    board: Board


@dataclass(frozen=True)
class Tab:
    """A suite or a dataset."""

    key: str
    title: str
    is_suite: bool
    datasets: tuple[str, ...]
    keys: tuple[str, ...]
    """Of a suite: keys of `dgbench train` that differ from the defaults."""
    panels: tuple[Panel, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings of its boards, the most frequent first."""
        return tuple(dict.fromkeys(panel.setting for panel in self.panels))

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria of its boards."""
        return tuple(dict.fromkeys(panel.board.criterion for panel in self.panels))


def tabs(of: Sequence[Entry]) -> tuple[Tab, ...]:
    """All tabs: suites first, also those without a submission."""
    results = frame(of)
    return (*_suites(of, results), *_datasets(of, results))


def _suites(of: Sequence[Entry], results: pl.DataFrame) -> Iterator[Tab]:
    current = {(name, suite(name).version) for name in suites()}
    claims = {(entry.said.suite.name, entry.said.suite.version) for entry in of if entry.said.suite}
    for name, version in sorted(current | claims, key=lambda claim: (claim[0], -claim[1])):
        claim = (name, version)
        by = [e for e in of if e.said.suite and (e.said.suite.name, e.said.suite.version) == claim]
        known = suite(name) if claim in current else None
        datasets = known.datasets if known else _shared(by)
        title = name if (name, version + 1) not in current | claims else f"{name}, version {version}"
        found = settings(by, datasets)
        key = f"suite-{name}-{version}"
        panels = tuple(_panels(key, of, found, results, claim))
        yield Tab(key, title, True, tuple(datasets), known.keys if known else (), panels)


def _shared(of: Sequence[Entry]) -> tuple[str, ...]:
    """The datasets that all have."""
    return tuple(d.name for d in of[0].said.datasets if all(d.name in {o.name for o in e.said.datasets} for e in of))


def _datasets(of: Sequence[Entry], results: pl.DataFrame) -> Iterator[Tab]:
    known = [name for one in suites() for name in suite(one).datasets]
    there = {data.name for entry in of for data in entry.said.datasets}
    for name in [*(name for name in known if name in there), *sorted(there - set(known))]:
        key = f"dataset-{name}"
        yield Tab(key, name, False, (name,), (), tuple(_panels(key, of, settings(of, [name]), results)))


def _panels(
    key: str,
    of: Sequence[Entry],
    found: Sequence[tuple[str, Setting]],
    results: pl.DataFrame,
    claim: tuple[str, int] | None = None,
) -> Iterator[Panel]:
    for place, (label, setting) in enumerate(found, 1):
        own = [entry for entry in of if setting.of(entry)]
        there = {result.criterion for entry in own for result in entry.said.results}
        for criterion in (name for name in criteria() if name in there):
            made = board(own, setting, criterion, results, claim)
            yield Panel(f"{key}-{place}-{criterion}", label, setting.shown, made)
