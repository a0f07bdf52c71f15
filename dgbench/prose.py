"""Prose that stands in files, read: paragraphs and headings of docstrings, comments of configuration."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator

HEADING = re.compile(r"[A-Z][A-Za-z ]*:")


def paragraphs(doc: str | None) -> Iterator[str]:
    """A docstring's paragraphs, their lines filled anew."""
    text = inspect.cleandoc(doc or "").strip()
    if text:
        width = max(map(len, text.splitlines()))
        yield from (filled(paragraph, width) for paragraph in text.split("\n\n"))


def filled(paragraph: str, width: int) -> str:
    r"""A paragraph without the ends of lines that only its width demanded.

    Args:
        paragraph: lines of a docstring.
        width: what its author filled lines to; a sentence that begins a line although the one before had room does so
            on purpose.

    >>> filled("One sentence,\ntwo lines.\nNew.", 15)
    'One sentence, two lines.\nNew.'
    """
    lines = paragraph.splitlines()
    made = lines[0]
    for before, line in itertools.pairwise(lines):
        has_room = before.endswith((".", ":")) and len(f"{before} {line.split()[0]}") <= width
        is_meant = has_room or line[0].isspace()
        made += f"\n{line}" if is_meant else f" {line}"
    return made


def split(doc: str) -> tuple[str, dict[str, str]]:
    """A data sheet's prose, and the text under each of its headings."""
    prose: list[str] = []
    headings: dict[str, list[str]] = {}
    lines = prose
    for line in doc.splitlines():
        if HEADING.fullmatch(line):
            lines = headings.setdefault(line[:-1], [])
        else:
            lines.append(line)
    return "\n".join(prose).strip(), {name: " ".join(" ".join(text).split()) for name, text in headings.items()}


def comments(text: str) -> dict[str, str]:
    r"""The comment above each key of a preset's file; a first line that begins with a capital is a heading.

    >>> comments("# How it is.\n# of a\n# key\nb: 1")
    {'b': 'of a key'}
    """
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            comment += [] if not comment and line[2].isupper() else [line[2:]]
            continue
        if ":" in line:
            found[line.split(":")[0]] = " ".join(comment)
        comment = []
    return found
