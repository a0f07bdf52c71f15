"""The table over datasets: its numbers by hand, and what so many datasets and trials can show."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from dgbench.leaderboard.over_datasets import OverDatasets, grid, over_datasets
from dgbench.leaderboard.statistics import friedman, nemenyi_cd, stratified_difference


def frame(numbers: Mapping[str, Sequence[float | None]], domains: Sequence[str] = ("a", "b")) -> pl.DataFrame:
    """A method's number in a trial; on the second domain it is 0.2 lower."""
    rows = [
        {"method": method, "trial": trial, "test_domain": domain, "value": None if v is None else v - 0.2 * place}
        for method, values in numbers.items()
        for trial, v in enumerate(values)
        for place, domain in enumerate(domains)
    ]
    return pl.DataFrame(rows, schema_overrides={"value": pl.Float64})


def made(values: Mapping[str, pl.DataFrame], **options: bool) -> OverDatasets:
    found = over_datasets(values, "erm", **options)
    assert found is not None
    return found


def many(num_datasets: int, num_trials: int, num_methods: int = 3) -> dict[str, pl.DataFrame]:
    """Methods 0.1 apart, ERM the worst, with a little noise."""
    generator = np.random.default_rng(0)
    names = ["erm", "coral", "irm", "mixup", "sam", "vrex"][:num_methods]
    return {
        f"d{dataset}": frame(
            {name: list(0.3 + 0.1 * k + generator.normal(0, 0.01, num_trials)) for k, name in enumerate(names)}
        )
        for dataset in range(num_datasets)
    }


def said(found: OverDatasets) -> str:
    return " ".join(found.notes)


ERM, FAR = (0.5, 0.6, 0.7), (0.6, 0.8, 0.7)
TWO = {"x": frame({"erm": ERM, "far": FAR}), "y": frame({"erm": (0.4, 0.4, 0.4, 0.8), "far": (0.3, 0.4, 0.3, 0.6)})}


def test_numbers_are_as_by_hand() -> None:
    # On x far is better, on y erm is: either has both ranks.
    far, erm = sorted(made(TWO).standings, key=lambda standing: standing.method, reverse=True)
    assert (far.method, far.mean_rank, erm.mean_rank) == ("far", 1.5, 1.5)
    assert far.difference is not None
    assert far.difference.mean == pytest.approx((0.1 - 0.1) / 2)
    assert (erm.difference, erm.holm_p) == (None, None)
    # Means over both domains are 0.1 below the numbers; of seven, one is left out on either side.
    assert far.interquartile_mean == pytest.approx(np.mean([0.3, 0.4, 0.6, 0.6, 0.7]) - 0.1)
    assert erm.interquartile_mean == pytest.approx(np.mean([0.4, 0.4, 0.5, 0.6, 0.7]) - 0.1)
    # The second domain is the worst: 0.5 on x, 0.2 on y.
    assert far.worst_domain == pytest.approx((0.7 - 0.2 + 0.4 - 0.2) / 2)
    lower = next(s for s in made(TWO, lower_is_better=True).standings if s.method == "far")
    assert lower.worst_domain == pytest.approx((0.7 + 0.4) / 2)


def test_differences_are_the_stratified_ones_corrected_by_holm() -> None:
    found = made(many(4, 3))
    by_dataset = {
        dataset: {
            method: dict(of.group_by("trial").agg(pl.col("value").mean()).iter_rows())
            for (method,), of in values.group_by("method")
        }
        for dataset, values in many(4, 3).items()
    }
    p = {}
    for standing in found.standings[:-1]:
        expected = stratified_difference(by_dataset, str(standing.method), "erm", num_draws=10_000)
        assert standing.difference is not None
        assert standing.difference.mean == pytest.approx(expected.mean)
        assert (standing.difference.low, standing.difference.high) == pytest.approx((expected.low, expected.high))
        p[standing.method] = expected.p or 0
    assert [s.method for s in found.standings] == ["irm", "coral", "erm"]
    first, second = sorted(p, key=lambda method: p[method])
    assert {s.method: s.holm_p for s in found.standings[:-1]} == pytest.approx(
        {first: 2 * p[first], second: max(2 * p[first], p[second])}
    )
    assert [s.is_shown for s in found.standings] == [True, True, False]
    assert [s.rank_interval for s in found.standings] == [(1, 1), (2, 2), (3, 3)]
    lower = made(many(4, 3), lower_is_better=True).standings
    assert [(s.method, s.rank_interval) for s in lower] == [("erm", (1, 1)), ("coral", (2, 2)), ("irm", (3, 3))]


def test_ranks_are_tested_by_friedman_and_nemenyi() -> None:
    found = made(many(7, 3, 6))
    assert found.critical_difference == nemenyi_cd(6, 7)
    assert found.friedman == friedman(np.array([[5.0, 4, 3, 2, 1, 0]] * 7))
    assert "Friedman's test of mean ranks (Iman and Davenport): F = infinite, p < 0.001: methods differ." in said(found)
    # 2.85: of six methods in the same order everywhere, those three or more places apart.
    assert (
        "Critical difference of mean ranks (Nemenyi, 5 %): 2.85; the largest gap is 5.00: vrex and erm; vrex and "
        in said(found)
    )
    assert "vrex and irm; sam and erm; sam and coral; mixup and erm differ." in said(found)


def test_where_nothing_differs_it_is_not_shown() -> None:
    generator = np.random.default_rng(3)
    values = {
        f"d{n}": frame({m: list(generator.normal(0.5, 0.1, 3)) for m in ("erm", "b", "c", "d")}) for n in range(6)
    }
    assert ": not shown that methods differ." in said(made(values))
    assert "no pair differs." in said(made(values))
    assert not any(standing.is_shown for standing in made(values).standings)


def test_too_few_datasets_are_said_to_be() -> None:
    two = said(made(many(2, 5)))
    assert "2 datasets cannot show it for 3 methods: even if all ranked alike, p would be 0.17." in two
    assert "2 datasets cannot show a pair: no gap exceeds 2." in two
    assert "whose smallest p (Wilcoxon) is 0.5 with so few." in two
    assert "whose smallest p (Wilcoxon) is 0.0625 with so few." in said(made(many(5, 5)))
    six = said(made(many(6, 5)))
    assert "cannot" not in six
    assert "Wilcoxon" not in six


def test_too_few_trials_are_said_to_be() -> None:
    found = made(many(2, 2))
    assert "Nothing is claimed of methods with only two trials on some dataset: irm, coral." in said(found)
    pairs = "pairs of trials can show a difference only if differences are normal, as the t test takes them to be: by "
    assert f"4 {pairs}their signs (Wilcoxon) the smallest p is 0.125, corrected for 2 methods 0.25." in said(found)
    # Six pairs are enough for one method, and not for two.
    assert f"6 {pairs}their signs (Wilcoxon) the smallest p is 0.0312" in said(made(many(2, 3)))
    assert "pairs of trials" not in said(made(many(2, 3, 2)))
    assert made(many(2, 3, 2)).friedman is None
    assert "With three or four trials the intervals of ranks are short" in said(made(many(4, 4)))
    assert "intervals of ranks are short" not in said(made(many(4, 5)))
    # However small p is.
    assert not any(standing.is_shown for standing in made(many(8, 2)).standings)


def test_methods_that_lack_something_are_named() -> None:
    values = many(4, 3, 5)
    is_gone = (pl.col("method") == "irm") & (pl.col("trial") > 0) & (pl.col("test_domain") == "a")
    values["d1"] = values["d1"].filter(~is_gone)
    values["d2"] = values["d2"].filter(pl.col("method") != "coral")
    values["d3"] = values["d3"].filter(~((pl.col("method") == "sam") & (pl.col("trial") == 0)))
    found = made(values)
    standings = {standing.method: standing for standing in found.standings}
    assert list(standings) == ["sam", "mixup", "irm", "erm"]
    irm = standings["irm"]
    assert irm.difference is not None
    # Of trials of which a domain is missing, the other domain does not count either.
    with_all = next(s for s in made({**many(4, 3, 5), "d2": values["d2"]}).standings if s.method == "irm")
    on_d1 = (pl.col("method") == "irm") & (pl.col("test_domain") == "b")
    numbers = many(4, 3, 5)["d1"].filter(on_d1)["value"]
    assert irm.worst_domain - with_all.worst_domain == pytest.approx((numbers[0] - numbers.mean()) / 4)
    assert (irm.difference.num_trials, irm.difference.p, irm.holm_p, irm.rank_interval) == (10, None, None, None)
    # With one trial less on one dataset, the middle half would be another one.
    assert (standings["sam"].interquartile_mean, irm.interquartile_mean) == (None, None)
    assert "Left out, without a full trial on some dataset: coral (d2)." in said(found)
    assert "Not tested, with fewer than two trials in common with the baseline on some dataset: irm." in said(found)
    assert "No part in the rank by average, with fewer than two trials on some dataset: irm." in said(found)
    assert "Nothing is claimed of methods with only two trials on some dataset: sam." in said(found)


def test_a_method_that_diverged_is_not_ranked_by_its_other_trials() -> None:
    values = many(4, 3, 5)
    is_gone = (pl.col("method") == "irm") & (pl.col("trial") == 0) & (pl.col("test_domain") == "a")
    values["d1"] = values["d1"].with_columns(value=pl.when(is_gone).then(math.nan).otherwise("value"))
    found = made(values)
    assert sorted(standing.method for standing in found.standings) == ["coral", "erm", "mixup", "sam"]
    assert "Left out, without a number in some trial (diverged) on some dataset: irm (d1)." in said(found)


def test_a_baseline_that_lacks_a_dataset_is_compared_with_nothing() -> None:
    values = many(3, 3)
    values["d0"] = values["d0"].filter(pl.col("method") != "erm")
    found = made(values)
    assert [standing.difference for standing in found.standings] == [None, None]
    assert found.notes[0].endswith("Worst domain: of each dataset, averaged.")


def test_a_single_method_is_no_table() -> None:
    assert over_datasets({"x": frame({"erm": ERM}), "y": TWO["y"]}, "erm") is None


@pytest.mark.parametrize(("is_percent", "row"), [(True, "+0.0 [-9.6, +9.6]"), (False, "+0.000 [-0.096, +0.096]")])
def test_rows_are_printed_in_the_unit_of_the_metric(is_percent: bool, row: str) -> None:
    found = made(TWO, is_percent=is_percent)
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as captured:
        console.print(grid(found))
    (far,) = [line.split() for line in captured.get().splitlines() if line.startswith(" far")]
    assert (far[1], far[2]) == ("1.50", "1–2")
    assert " ".join(far[3:6]) == row
