"""How pictures look: for one or two columns of print, in letters of 7 pt or more.

Each of several things has a colour, a marker and a line style, so that nobody needs the colour.
"""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

# Inches.
ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
PAGE = 9.5
SMALL, NORMAL = 7, 8
INK, FAINT, SHADE = "#222222", "#8a8a8a", "#f2f2f2"
# Okabe and Ito's colours that people with any kind of colour vision tell apart, without the yellow, which is faint
# on paper. https://jfly.uni-koeln.de/color/
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1)),
    (0, (4, 1, 1, 1)),
    (0, (1, 1)),
    (0, (6, 2, 1, 2, 1, 2)),
    (0, (2, 1)),
    (0, (9, 2)),
)
MAX_NAMED = len(COLOURS)
_RC: Any = {
    "font.family": "sans-serif",
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "figure.titlesize": NORMAL,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
    # Text stays text: it can be searched, read aloud, and is sharp at any size.
    "svg.fonttype": "none",
    "svg.hashsalt": "dgbench",
}


class Style(NamedTuple):
    """How one of several things is drawn."""

    colour: str
    marker: str
    line: Any


@contextlib.contextmanager
def paper() -> Iterator[None]:
    """Matplotlib as the pictures need it, whatever the user's settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def style(place: int) -> Style:
    """Colour, marker and line of the thing at a place; 49 differ."""
    number = len(COLOURS)
    return Style(COLOURS[place % number], MARKERS[(place + place // number) % number], LINES[place % number])


def styles(ordered: Sequence[str], baseline: str | None) -> dict[str, Style]:
    """The styles of those that are named: the baseline, in black, and the first others; the rest stays without.

    Args:
        ordered: names, best first.
        baseline: one of them, or None.
    """
    named = [name for name in ordered if name != baseline][: MAX_NAMED - 1]
    return {name: style(place) for place, name in enumerate([baseline, *named]) if name is not None}


class Picture(Figure):
    """A title, drawings, a legend, notes; title and notes also describe it to those who do not see it."""

    def __init__(self, title: str, notes: Sequence[str], width: float, height: float, legend_rows: int = 0):
        """Begin a picture.

        Args:
            title: what is shown.
            notes: what a reader must know, sentences.
            width: inches.
            height: of the drawings, inches.
            legend_rows: for which `legend_below` is to have room.
        """
        above = textwrap.wrap(title, int(width * 14))
        below = [line for note in notes for line in textwrap.wrap(note, int(width * 18))]
        top, foot = 0.06 + 0.15 * len(above), 0.06 + 0.14 * len(below)
        bottom = foot + 0.165 * legend_rows
        whole = top + height + bottom
        super().__init__(figsize=(width, whole), layout="constrained")
        self.get_layout_engine().set(rect=(0, bottom / whole, 1, height / whole))  # type: ignore[union-attr, call-arg]
        self.title, self.notes = title, tuple(notes)
        self._margin, self._foot = 0.05 / width, foot / whole
        words: dict[str, Any] = {"ha": "left", "in_layout": False}
        self.text(self._margin, 1 - 0.04 / whole, "\n".join(above), va="top", fontweight="bold", **words)
        self.text(
            *(self._margin, 0.04 / whole, "\n".join(below)),
            va="bottom",
            fontsize=SMALL,
            color="#555555",
            linespacing=1.25,
            **words,
        )

    def settle(self) -> None:
        """Lay the drawings out for good: files are the same whatever was written before."""
        if (engine := self.get_layout_engine()) is not None:
            # The second time, labels of ticks are those of the final scales.
            for _ in range(2):
                engine.execute(self)
            self.set_layout_engine(None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever draws should know, and readers need not."""
        height = self.get_figheight()
        if height <= PAGE:
            return ()
        return (f"It is {height:.1f} inches high, more than a page: --dataset and --method draw less.",)

    def legend_below(self, handles: Sequence[Any], columns: int) -> None:
        """What lines and marks are called, between the drawings and the notes."""
        where = (self._margin, self._foot)
        made = self.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=where,
            ncols=columns,
            handlelength=3.2,
            borderaxespad=0,
            borderpad=0,
        )
        made.set_in_layout(False)


def folded(name: str, width: int = 12) -> str:
    r"""A name over several lines, broken after underscores, and within only what is longer than a line.

    >>> folded("a_domain_with_a_long_name")
    'a_domain_\nwith_a_long_\nname'
    """
    lines = [""]
    for word in re.findall(rf"[^_]{{1,{width - 1}}}_?|_", name):
        lines[-1:] = [lines[-1] + word] if len(lines[-1] + word) <= width else [lines[-1], word]
    return "\n".join(line for line in lines if line)


def encoded(figure: Picture, format: str) -> bytes:
    """The picture as a file: `svg` or `png` (300 dots per inch), without a date."""
    about: dict[str, Any] = {"Title": figure.title, "Description": " ".join(figure.notes)}
    about |= {"Date": None} if format == "svg" else {"Software": None}
    buffer = io.BytesIO()
    with paper():
        figure.savefig(buffer, format=format, dpi=300, metadata=about)
    return buffer.getvalue()
