"""The leaderboard as a static page: made of the files of submissions and nothing else.

The same submissions give the same bytes. The page needs no network: it reads `board.css` and `board.js` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dgbench.selection import selection
from dgbench.writing import replace_file, writable

from .bounded import named
from .entries import Entry, entries
from .pictures import FOREST, MARGIN, RANKS, diagram, forest
from .readme import figure, interval, with_table
from .tabs import Tab, tabs
from .validate import judge

HERE = Path(__file__).with_name("page")
ASSETS = ("board.css", "board.js")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def read(folder: Path) -> tuple[Entry, ...]:
    """The submissions of a folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: one of its files is no valid submission.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Name the one that holds the submissions.")
    found = {}
    for verdict in judge([folder]):
        if verdict.problems or verdict.submission is None:
            raise ValueError(
                f"{named(verdict.path)} is no valid submission: {verdict.problems[0]} `dgbench leaderboard "
                "validate` says all that is wrong. Mend it or take it away."
            )
        found[verdict.path.name] = verdict.submission
    return entries(found)


def build(folder: Path, out: Path, readme: Path | None = None) -> int:
    """Write the page of a folder's submissions.

    Args:
        folder: of the submissions.
        out: where `index.html`, what it reads and copies of the submissions are put.
        readme: a file whose table is made anew; None: none.

    Returns:
        How many submissions.

    Raises:
        FileNotFoundError: there is no such folder of submissions, or no such file.
        ValueError: one of the submissions is not valid, or the file has no place for a table.
    """
    of = read(folder)
    made = tabs(of)
    page = None if readme is None else with_table(readme, made)
    write(made, {entry.file: (folder / entry.file).read_bytes() for entry in of}, out)
    if readme is not None and page is not None:
        replace_file(readme, lambda file: file.write(page.encode()))
    return len(of)


def write(made: Sequence[Tab], files: Mapping[str, bytes], out: Path) -> None:
    """Write the page.

    Args:
        made: its tabs.
        files: what the files of submissions hold, by name.
        out: as `build` takes it. Copies of submissions that an earlier page left there are taken away.

    Raises:
        CannotWrite: the place cannot be written.
    """
    contents = {name: (HERE / name).read_bytes() for name in ASSETS}
    contents |= {f"submissions/{name}": content for name, content in files.items()}
    contents["index.html"] = html(made, len(files)).encode()
    with writable(out):
        (out / "submissions").mkdir(parents=True, exist_ok=True)
        # Only beside a page: a folder of submissions that was named by mistake is not emptied.
        for copy in (out / "submissions").glob("*.json") if (out / "index.html").is_file() else ():
            if copy.name not in files and copy.is_file():
                copy.unlink()
    for name, content in contents.items():
        replace_file(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]


def html(made: Sequence[Tab], num_entries: int) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": figure, "interval": interval, "breakable": _breakable, "words": _words}
    environment.globals |= {"forest_width": FOREST, "ranks_width": RANKS, "margin": MARGIN, "policy": POLICY}
    return environment.get_template("index.html.j2").render(
        tabs=made,
        num_entries=num_entries,
        about=_about,
        forest=forest,
        diagram=diagram,
        meaning=lambda criterion: selection(criterion).meaning,
    )


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break after an underscore."""
    return Markup("_<wbr>").join(map(escape, name.split("_")))


def _words(entry: Entry) -> str:
    """What the filter looks in."""
    method = entry.said.method
    return " ".join((entry.name, method.algorithm, method.summary, entry.said.contact)).lower()


def _about(entry: Entry) -> Iterator[tuple[str, str, str | None]]:
    """What is known of an entry: name, value, and its address if it is one."""
    said, method = entry.said, entry.said.method
    averaging = "" if method.averaging == "none" else f", averaging {method.averaging}"
    yield "algorithm", f"{method.algorithm}, version {method.version}{averaging}", None
    if method.source is not None:
        yield "not of dgbench, file", method.source, None
    yield "submitted", said.created[:10], None
    yield "by", said.contact, _address(said.contact)
    for name, link in (("paper", method.paper), ("code", method.code)):
        if link is not None:
            yield name, link, _address(link)
    yield "suite", f"{said.suite.name}, version {said.suite.version}" if said.suite else "none", None
    yield "hyper-parameters", _hparams(entry), None
    packages = {name: {one.versions[name] for one in said.environments if name in one.versions} for name in PACKAGES}
    for name, versions in packages.items():
        if versions:
            yield name, _cut(", ".join(sorted(versions)), MAX_LINE), None


PACKAGES = ("dgbench", "python", "torch")
MAX_VALUE = 120
MAX_LINE = 2000


def _hparams(entry: Entry) -> str:
    settings = entry.said.hparams
    if len(settings) > 1:
        return f"{len(settings)} settings, in the file"
    values = {**settings[0].algorithm, **{f"optim.{name}": value for name, value in settings[0].optim.items()}}
    return _cut(", ".join(f"{name}={_cut(str(value), MAX_VALUE)}" for name, value in values.items()), MAX_LINE)


def _cut(text: str, most: int) -> str:
    """A text of a bounded length; the file of the submission has all of it."""
    return text if len(text) <= most else f"{text[:most]}…"


def _address(text: str) -> str | None:
    """Where a link leads; None for what is no https address, which is only shown."""
    return text if text.startswith("https://") else None
