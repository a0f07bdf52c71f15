"""The page's pictures against coordinates by hand."""

from __future__ import annotations

import pytest

from dgbench.leaderboard.entries import entries
from dgbench.leaderboard.pictures import FOREST, MARGIN, RANKS, diagram, forest
from dgbench.leaderboard.standings import Ranks
from dgbench.leaderboard.tabs import tabs
from tests import boards

OF = Ranks((("a", 1.0), ("b", 2.0), ("c", 2.5), ("d", 4.5), ("a name of more letters than fit", 5.0)), 1.6)


def test_bars_join_the_largest_sets_that_do_not_differ():
    made = diagram(OF)

    def rank(x):
        return 1 + 4 * (x - MARGIN) / (RANKS - 2 * MARGIN)

    assert [(rank(bar.left + 3), rank(bar.right - 3)) for bar in made.bars] == [
        pytest.approx((1, 2.5), abs=0.01),
        pytest.approx((4.5, 5), abs=0.01),
    ]
    assert rank(made.difference.right) - rank(made.difference.left) == pytest.approx(1.6, abs=0.01)
    assert [rank(mark.x) for mark in made.marks] == pytest.approx([mean for _, mean in OF.means], abs=0.01)


def test_names_stand_on_both_sides_within_the_picture():
    made = diagram(OF)
    assert [mark.is_left for mark in made.marks] == [True, True, True, False, False]
    assert all(0 < mark.label.y < made.height for mark in made.marks)
    assert len({(mark.is_left, mark.label.y) for mark in made.marks}) == 5
    assert made.marks[-1].label.shown == "a name of more letter…"
    assert made.marks[-1].label.name == OF.means[-1][0]


def test_a_long_difference_ends_with_the_axis():
    made = diagram(Ranks(OF.means, 7.5))
    assert made.difference.right == RANKS - MARGIN
    assert [(bar.left, bar.right) for bar in made.bars] == [(MARGIN - 3, RANKS - MARGIN + 3)]


def test_two_methods_have_no_diagram():
    assert diagram(None) is None
    assert diagram(Ranks(OF.means[:2], 1.0)) is None


def test_forest():
    board = tabs(entries(boards.many({"erm": 0.8, "up": 0.85, "down": 0.7})))[0].panels[0].board
    made = forest(board)
    assert [one.label.name for one in made.intervals] == ["up", "down"]
    for one, row in zip(made.intervals, [board.rows[0], board.rows[2]], strict=True):
        assert one.low < one.mean < one.high
        assert (one.mean > made.zero) == (row.gap.mean > 0)
        (zero,) = [tick.x for tick in made.ticks if tick.text == "0"]
        ten = next(tick.x for tick in made.ticks if tick.text == "−10")
        assert (one.mean - zero) / (zero - ten) * 10 == pytest.approx(100 * row.gap.mean, abs=0.05)
    assert all(MARGIN <= tick.x <= FOREST - 20 for tick in made.ticks)
    assert made.intervals[0].is_shown


def test_no_forest_without_a_baseline():
    board = tabs(entries(boards.many({"a": 0.8, "b": 0.85})))[0].panels[0].board
    assert forest(board) is None
