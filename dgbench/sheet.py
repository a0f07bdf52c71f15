"""What `dgbench show` prints of a component: its page in the handbook, read from its file."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import dgbench
from dgbench import composition, hparams, prose
from dgbench.algorithm import Needs
from dgbench.dataset import Card
from dgbench.hparams import HParam
from dgbench.protocol import Protocol
from dgbench.registry import adapters, algorithms, datasets
from dgbench.shelves import configs

# How a need reads after "Needs"; one that is not listed here reads as its name.
NEEDS: Mapping[str, Callable[[Any], str]] = {
    "domain_labels": lambda _: "the domain of each example",
    "domain_rows": lambda _: "one row of the batch per training domain",
    "min_domains": lambda n: f"at least {n} training domains",
    "tasks": lambda tasks: f"{' or '.join(tasks)} as the task",
    "pretrained": lambda _: "pretrained weights",
    "metadata": lambda _: "metadata of the domains",
    "single_process": lambda _: "a single device",
    "evaluation": lambda _: "evaluations during training, on which its update depends",
    "source": lambda _: "the source data, before the stream",
    "composite": lambda _: "a model whose predictions are made from features",
    "norms": lambda norms: f"a network with {' or '.join(norms)} normalisation",
    "method": lambda name: f"a model trained by {name}",
    "images": lambda _: "images as inputs",
    "joint_prediction": lambda n: f"{n} examples of one domain per prediction",
}
# Headings of a dataset's docstring whose content the card does not hold.
OF_THE_DOCSTRING = ("Splits",)
# What other presets are compared with.
DEFAULT_PRESET = "dgbench"


def algorithm(name: str) -> Iterator[RenderableType]:
    """The sheet of a training method.

    Args:
        name: of the registry.

    Raises:
        UnknownName: no such method.
        ComponentError: its file cannot be used.
    """
    cls = algorithms[name]
    place = algorithms.place(name)
    family = f"{place.family} method" if place.family else "method"
    yield _title(name, f"{cls.__name__}, {family}, version {cls.version}", place.path)
    yield Text()
    yield from _paragraphs(sys.modules[cls.__module__].__doc__)
    yield _heading("Objective")
    yield from _paragraphs(cls.__doc__)
    yield _heading("Needs")
    yield Text(f"{_in_words(cls.needs)}.")
    yield _heading("Cost")
    if cls.cost is None:
        yield Text("Not measured.")
    else:
        yield Text(f"A step takes about {cls.cost:g} times as long as one of erm (mnist_cnn, 5 x 64 images, one core).")
    yield from _own_hparams(cls, "algorithm")
    if cls.optim_fields:
        yield _heading("Drawn otherwise than for other methods")
        every = hparams.facts(hparams.Optim, cls.optim_fields)
        yield _hparam_table({f"optim.{field}": every[field] for field in cls.optim_fields})


def adapter(name: str) -> Iterator[RenderableType]:
    """The sheet of a test-time adapter.

    Args:
        name: of the registry.

    Raises:
        UnknownName: no such adapter.
        ComponentError: its file cannot be used.
    """
    cls = adapters[name]
    yield _title(name, f"{cls.__name__}, test-time adapter, version {cls.version}", adapters.place(name).path)
    yield Text()
    yield from _paragraphs(sys.modules[cls.__module__].__doc__)
    yield _heading("What it does")
    yield from _paragraphs(cls.__doc__)
    yield Text(f"Answers a batch {cls.answers} it learns from it, by {cls.output}.")
    if cls.baseline is not None:
        disabled = ", ".join(f"{key}={_value(value)}" for key, value in cls.baseline.disabled.items())
        yield Text(f"With {disabled} it is {cls.baseline.name}.")
    yield _heading("Needs")
    yield Text(f"{_in_words(cls.needs)}.")
    yield from _own_hparams(cls, "adapter")


def _own_hparams(cls: Any, group: str) -> Iterator[RenderableType]:
    own = hparams.facts(cls.HParams)
    yield _heading("Hyper-parameters" if own else "No hyper-parameters of its own")
    if own:
        yield _hparam_table(own)
        yield Text(f"Set one with {group}.{next(iter(own))}=VALUE.", style="dim")


def dataset(name: str) -> Iterator[RenderableType]:
    """The sheet of a dataset, from its card; no data are read.

    Args:
        name: of the registry.

    Raises:
        UnknownName: no such dataset.
        ComponentError: its file cannot be used.
    """
    cls = datasets[name]
    card: Card = cls.card
    yield _title(name, f"{cls.__name__}, version {card.version}", datasets.place(name).path)
    yield Text(f"\n{card.summary}")
    text, headings = prose.split(inspect.cleandoc(cls.__doc__ or ""))
    yield from _paragraphs(text)
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in (*_facts(card), *((h, headings[h]) for h in OF_THE_DOCSTRING if h in headings)):
        grid.add_row(label, Text(text))
    yield Text()
    yield grid
    yield _heading("Options")
    rows = [(f.name, _value(f.default), f.metadata.get("doc", "")) for f in dataclasses.fields(cls.Options)]
    yield _table(("name", "default", "meaning"), [tuple(map(Text, row)) for row in rows])
    yield Text(f"Set one with dataset.{rows[0][0]}=VALUE.", style="dim")


def protocol(name: str) -> Iterator[RenderableType]:
    """The sheet of a preset of the protocol: what each key is, what it means, and where that is not the default.

    Args:
        name: of the preset.

    Raises:
        UnknownName: no such preset.
    """
    usual, own = (Protocol(**composition.compose([f"protocol={n}"])["protocol"]) for n in (DEFAULT_PRESET, name))
    meanings = prose.comments(((configs() / "protocol") / f"{DEFAULT_PRESET}.yaml").read_text("utf-8"))
    yield _title(name, "preset of the protocol", (configs() / "protocol") / f"{name}.yaml")
    for heading, keys in (("What is run", own.decisive), ("How finished runs are read", own.reporting)):
        yield _heading(heading)
        rows = []
        for key, value in keys.items():
            default, meaning = getattr(usual, key), Text(meanings[key])
            differs = value != default and key != "name"
            if differs:
                meaning.append(f"\n{DEFAULT_PRESET}: {_value(default)}", style="dim")
            rows.append((Text(f"{'*' if differs else ' '} {key}"), Text(_value(value)), meaning))
        yield _table(("name", "value", "meaning"), rows)
    mark = f"* differs from {DEFAULT_PRESET}. " if name != DEFAULT_PRESET else ""
    yield Text(f"{mark}Choose it with protocol={name}, set one key with protocol.num_steps=VALUE.", style="dim")


def _title(name: str, said: str, path: Path) -> RenderableType:
    return Group(Text.assemble((name, "bold"), f"  {said}"), Text(_relative(path), style="dim"))


def _relative(path: Path) -> str:
    """Below the checkout, or below the folder that the package is installed in."""
    root = Path(dgbench.__file__).resolve().parent.parent
    return str(path.resolve().relative_to(root)) if path.resolve().is_relative_to(root) else str(path)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _paragraphs(doc: str | None) -> Iterator[RenderableType]:
    for place, paragraph in enumerate(prose.paragraphs(doc)):
        # The first one is the sentence that belongs to the heading above it.
        yield Text("\n" * (place > 0) + paragraph)


def _in_words(needs: Needs) -> str:
    said = []
    for field in dataclasses.fields(needs):
        value = getattr(needs, field.name)
        if value != field.default:
            said.append(NEEDS[field.name](value) if field.name in NEEDS else field.name.replace("_", " "))
    text = "; ".join(said) or "nothing special"
    return text[0].upper() + text[1:]


def _hparam_table(facts: Mapping[str, HParam]) -> Table:
    rows = []
    for name, fact in facts.items():
        notes = [
            *(["steps: capped at half of the run"] if fact.is_step else []),
            *([f"key {fact.key}"] if fact.key != name.removeprefix("optim.") else []),
            *(f"{', '.join(presets)}: {value}" for value, presets in _by_value(fact.presets).items()),
        ]
        meaning = Text(fact.doc)
        if notes:
            meaning.append(f"\n{'; '.join(notes)}", style="dim")
        choices = fact.by_regime
        # One regime: there is nothing to tell apart.
        label = {regime: f"{regime} " if len(choices) > 1 else "" for regime in choices}
        defaults = Text("\n".join(label[regime] + _value(choice.default) for regime, choice in choices.items()))
        search = Text("\n".join(choice.sampler.text for choice in choices.values()))
        rows.append((Text(name), defaults, search, meaning))
    return _table(("name", "default", "search", "meaning"), rows)


def _by_value(presets: Mapping[str, Any]) -> dict[str, list[str]]:
    """The presets that set each value."""
    grouped: dict[str, list[str]] = {}
    for preset, value in presets.items():
        grouped.setdefault(_value(value), []).append(preset)
    return grouped


def _table(headings: tuple[str, ...], rows: Sequence[tuple[Text, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("name", "default"))
    for row in rows:
        table.add_row(*row)
    return table


def _value(value: Any) -> str:
    """As a user writes it on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _facts(card: Card) -> Iterator[tuple[str, str]]:
    """Label and text of each fact of a card but the summary."""
    theirs = "what the files hold"
    sizes = dict(zip(card.domains, card.sizes, strict=False))
    domains = ", ".join(f"{name} ({sizes[name]})" if name in sizes else name for name in card.domains)
    yield "Domains", f"{domains}: {sum(card.sizes)} in all" if sizes else domains or theirs
    unnamed = "none: a regression" if card.domains else theirs
    yield "Classes", f"{len(card.classes)}: {', '.join(card.classes)}" if card.classes else unnamed
    yield "Regime", card.regime
    weights = f"weights {card.weights}" if card.weights else "random initial weights"
    yield "Network", f"{card.network}, {weights}"
    yield "Steps", f"{card.num_steps}, evaluated every {card.evaluate_every}"
    yield "Licence", card.licence
    yield "Source", card.source
    yield "Checksums", "\n".join(f"{name}: {digest}" for name, digest in card.checksums.items()) or "none to pin"
    yield "Defects", "\n".join(card.defects) or "none known"
    yield "Citation", card.citation
