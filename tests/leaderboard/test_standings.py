"""The numbers of the page against independent computations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from dgbench.leaderboard import standings
from dgbench.leaderboard.entries import entries
from dgbench.leaderboard.tabs import tabs
from tests import boards
from tests.boards import DOMAINS, submission, values

MEANS = {"erm": 0.80, "a": 0.81, "b": 0.7955, "c": 0.805, "d": 0.74}
OF = {name: values(mean, seed) for seed, (name, mean) in enumerate(MEANS.items())}


@pytest.fixture(scope="module")
def made():
    said = {f"{name}.json": submission(name, of) for name, of in OF.items()}
    return {tab.title: tab for tab in tabs(entries(said))}


def rows_of(tab, criterion="train_validation", place=0):
    boards_of = [panel.board for panel in tab.panels if panel.board.criterion == criterion]
    return {row.entry.name: row for row in boards_of[place].rows}


def trial_means(name, dataset):
    return OF[name][dataset].mean(axis=1)


def exact_interval(names, datasets):
    """Rank intervals by all draws of two of three trials in each dataset, which are equally likely."""
    of_dataset = [
        [
            [(trial_means(name, dataset)[i] + trial_means(name, dataset)[j]) / 2 for name in names]
            for i, j in itertools.product(range(3), repeat=2)
        ]
        for dataset in datasets
    ]
    drawn = [np.mean(combined, axis=0) for combined in itertools.product(*map(np.array, of_dataset))]
    ranks = np.sort([[1 + sum(x > value + 1e-12 for x in means) for value in means] for means in drawn], axis=0)
    places = [math.ceil(share * len(ranks)) - 1 for share in (0.025, 0.975)]
    return {name: tuple(int(ranks[place, column]) for place in places) for column, name in enumerate(names)}


def holm_by_hand(p):
    order, corrected, largest = sorted(p, key=p.get), {}, 0.0
    for place, name in enumerate(order):
        largest = max(largest, min(1.0, p[name] * (len(order) - place)))
        corrected[name] = largest
    return corrected


def test_averages_and_ranks_of_the_suite(made):
    rows = rows_of(made["embedded"])
    average = {name: np.mean([of[dataset].mean() for dataset in DOMAINS]) for name, of in OF.items()}
    for place, name in enumerate(sorted(average, key=lambda name: -average[name]), 1):
        row = rows[name]
        assert row.rank == place
        assert row.average.mean == pytest.approx(average[name])
        errors = [trial_means(name, dataset).std(ddof=1) / 3**0.5 for dataset in DOMAINS]
        assert row.average.se == pytest.approx(sum(e**2 for e in errors) ** 0.5 / 4)
        assert row.worst == pytest.approx(np.mean([OF[name][d].mean(axis=0).min() for d in DOMAINS]))
        assert [cell.mean for cell in row.cells] == pytest.approx([OF[name][d].mean() for d in DOMAINS])


def test_rank_intervals_are_those_of_all_draws(made):
    for title, datasets in [("embedded", DOMAINS), *((name, (name,)) for name in DOMAINS)]:
        found = {name: row.rank_interval for name, row in rows_of(made[title]).items()}
        assert found == exact_interval(list(OF), datasets), title
    assert len({first for first, _ in found.values()}) > 2


def test_differences_on_a_dataset_are_paired_t_tests(made):
    rows = rows_of(made["digits_style"])
    tests = {n: stats.ttest_rel(trial_means(n, "digits_style"), trial_means("erm", "digits_style")) for n in "abcd"}
    corrected = holm_by_hand({name: test.pvalue for name, test in tests.items()})
    for name, test in tests.items():
        interval = test.confidence_interval()
        d = trial_means(name, "digits_style") - trial_means("erm", "digits_style")
        gap = rows[name].gap
        assert (gap.mean, gap.low, gap.high) == pytest.approx((d.mean(), interval.low, interval.high))
        assert gap.holm_p == pytest.approx(corrected[name])
        assert gap.is_shown == (corrected[name] < 0.05)
    assert {rows[name].gap.is_shown for name in "abcd"} == {True, False}
    assert rows["erm"].gap is None


def test_differences_on_the_suite_count_each_dataset_once(made):
    rows = rows_of(made["embedded"])
    for name in "abcd":
        gaps = [(trial_means(name, dataset) - trial_means("erm", dataset)).mean() for dataset in DOMAINS]
        assert rows[name].gap.mean == pytest.approx(np.mean(gaps))
        assert rows[name].gap.low < np.mean(gaps) < rows[name].gap.high
    assert rows["d"].gap.is_shown
    assert not rows["b"].gap.is_shown


def test_mean_ranks_over_datasets(made):
    ranks = dict(made["embedded"].panels[0].board.ranks.means)
    per_dataset = [stats.rankdata([-OF[name][dataset].mean() for name in OF]) for dataset in DOMAINS]
    assert ranks == pytest.approx(dict(zip(OF, np.mean(per_dataset, axis=0), strict=True)))


def test_trials_of_the_drill_down(made):
    (part,) = rows_of(made["digits_color"])["a"].parts
    assert part.domains == ("plus90", "plus80", "minus90")
    for trial, (name, numbers) in enumerate(part.trials):
        assert name == str(trial)
        assert numbers == pytest.approx((*OF["a"]["digits_color"][trial], trial_means("a", "digits_color")[trial]))


@pytest.mark.parametrize(("seeds", "names"), [((4, 4), ["0", "1"]), ((0, 1), ["0/0", "1/1"])])
def test_trials_are_named_by_draws_of_the_data_where_these_tell_them_apart(seeds, names):
    rows = [
        {"trial": f"{trial}/{seed}", "trial_seed": trial, "data_seed": seed, "test_domain": "a", "value": 0.5}
        for trial, seed in enumerate(seeds)
    ]
    assert [name for name, _ in standings._trials(pl.DataFrame(rows), ["a"])] == names


def test_lower_is_better():
    of = {name: values(mean, seed, ("digits_rot",)) for seed, (name, mean) in enumerate({"erm": 0.5, "x": 0.2}.items())}
    said = {f"{n}.json": submission(n, v, suite=None, changes={"score": "rmse"}) for n, v in of.items()}
    tab = tabs(entries(said))[-1]
    rows = rows_of(tab)
    assert (rows["x"].rank, rows["erm"].rank) == (1, 2)
    assert rows["x"].worst == pytest.approx(of["x"]["digits_rot"].mean(axis=0).max())
    assert rows["x"].gap.mean < 0
    assert rows["x"].gap.is_shown


def test_two_trials_claim_nothing():
    erm = values(0.8, 0, ("digits_rot",))["digits_rot"][:2]
    of = {"erm": erm, "x": erm - [[0.2], [0.2001]]}
    said = {f"{name}.json": submission(name, {"digits_rot": v}, suite=None) for name, v in of.items()}
    gap = rows_of(tabs(entries(said))[-1])["x"].gap
    assert gap.holm_p < 0.05
    assert not gap.is_shown


def test_who_has_no_rank_and_why():
    broken = values(0.7, 5)
    broken["digits_style"][1, 2] = math.nan
    said = boards.many({"erm": 0.8, "vrex": 0.81}) | {
        "half.json": submission("half", values(0.9, 6, ("digits_rot",)), suite=None),
        "free.json": submission("free", values(0.9, 7), suite=None),
        "old.json": submission("old", values(0.9, 8), suite=("embedded", 0)),
        "nan.json": submission("nan", broken),
        "mute.json": submission("mute", {"oracle": values(0.9, 9)}),
    }
    found = {tab.key: tab for tab in tabs(entries(said))}
    assert list(found)[:2] == ["suite-embedded-1", "suite-embedded-0"]
    rows = rows_of(found["suite-embedded-1"])
    assert {name: row.lacks for name, row in rows.items() if row.rank is None} == {
        "half": "Lacks digits_color, digits_style, texture_patches under this setting.",
        "free": "Does not claim the suite embedded, version 1.",
        "old": "Does not claim the suite embedded, version 1.",
        "nan": "Diverged on digits_style: 1 value is no number.",
        "mute": "Has no whole trials on digits_rot by this criterion.",
    }
    assert {name for name, row in rows.items() if row.rank is not None} == {"erm", "vrex"}
    assert list(rows)[:2] == ["vrex", "erm"]
    assert all(row.average.mean is None and row.gap is None for row in rows.values() if row.rank is None)
    assert {name for name, row in rows_of(found["suite-embedded-0"]).items() if row.rank} == {"old"}
    assert rows_of(found["dataset-digits_rot"])["half"].rank == 1


def test_only_what_was_made_alike_is_ranked_together():
    said = boards.many({"erm": 0.8, "vrex": 0.81}) | {
        "long.json": submission("long", values(0.9, 5), suite=None, changes={"protocol.num_steps": 2000}),
        "held.json": submission("held", values(0.9, 6), suite=None, changes={"protocol.holdout_fraction": 0.5}),
    }
    tab = next(tab for tab in tabs(entries(said)) if tab.title == "digits_rot")
    found = {panel.setting: {row.entry.name for row in panel.board.rows} for panel in tab.panels}
    assert found == {
        "dgbench, 500 steps, mlp, protocol.holdout_fraction=0.2": {"erm", "vrex"},
        "dgbench, 2000 steps, mlp": {"long"},
        "dgbench, 500 steps, mlp, protocol.holdout_fraction=0.5": {"held"},
    }
    assert tab.settings[0] == "dgbench, 500 steps, mlp, protocol.holdout_fraction=0.2"
