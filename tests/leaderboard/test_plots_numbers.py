"""What pictures draw are the numbers that follow from the runs, computed here by other means."""

import itertools
import math
import random

import numpy as np
import polars as pl
import pytest
from scipy import stats

from dgbench.leaderboard.plots import Request, plot, ranks, selection
from tests.fabricate import DOMAINS, NUMBERS, make_run, make_runs, make_scores
from tests.pictures import lines, texts

# Student's t, 97.5 %, 2 degrees of freedom.
T2 = 4.302652729911275


def test_domains(tmp_path):
    make_runs(tmp_path, skip=lambda method, test, trial: (method, test, trial) == ("vrex", "b", 2))
    figure = plot("domains", Request(runs=tmp_path))
    panels = {ax.get_title().replace("\n", ""): ax for ax in figure.axes}
    assert list(panels) == [*DOMAINS, "Average"]
    whole = {"erm": [0, 1, 2], "vrex": [0, 1]}
    order = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert order == ["vrex", "erm"]
    for name, ax in panels.items():
        for row, method in enumerate(order):
            if name == "Average":
                values = [float(np.mean([NUMBERS[method, d][t] for d in DOMAINS])) for t in whole[method]]
            else:
                values = [v for t, v in enumerate(NUMBERS[method, name]) if (method, name, t) != ("vrex", "b", 2)]
            mean, n = 100 * np.mean(values), len(values)
            (mark,) = [line for line in lines(ax, marker="D" if name == "Average" else "o") if line[0][1] == row]
            assert mark == [pytest.approx((mean, row))]
            (bar,) = [p for p in lines(ax, marker="None") if len(p) == 2 and p[0][1] == p[1][1] == row]
            reach = (T2 if n == 3 else stats.t.ppf(0.975, n - 1)) * 100 * np.std(values, ddof=1) / math.sqrt(n)
            assert [x for x, _ in bar] == pytest.approx([max(0, mean - reach), min(100, mean + reach)])
        (base,) = [p[0][0] for p in lines(ax, marker="None") if p[0][0] == p[1][0]]
        expected = np.mean([NUMBERS["erm", d] for d in (DOMAINS if name == "Average" else [name])])
        assert base == pytest.approx(100 * expected)
    assert "Hollow: of fewer trials than others." in figure.notes[0]
    assert "Intervals are cut at 0 and 100 %." in figure.notes[0]


def test_missing_and_nan_are_written_where_the_number_would_be(tmp_path):
    numbers = {("erm", d): (0.5,) for d in DOMAINS} | {("irm", "a"): (math.nan,), ("irm", "b"): (0.5,)}
    make_runs(tmp_path, numbers)
    figure = plot("domains", Request(runs=tmp_path))
    said = {(ax.get_title(), text.get_text()) for ax in figure.axes for text in ax.texts}
    assert said == {("a", "NaN"), ("c_long_name", "–"), ("Average", "–")}
    assert "One trial: no intervals." in figure.notes[0]


def frame_of(values, metric="accuracy"):
    rows = [
        {"dataset": f"d{i}", "metric": metric, "method": f"m{j}", "value": v, "num_trials": 1, "expected_trials": 1}
        for i, row in enumerate(values)
        for j, v in enumerate(row)
    ]
    return pl.DataFrame(rows)


@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_and_bars(metric, seed):
    noise = np.random.default_rng(seed)
    k, N = 7, 20
    values = np.round(0.06 * np.arange(k) + noise.normal(0, 0.12, (N, k)), 2)
    figure = ranks.draw(frame_of(values.tolist(), metric), Request(runs=""))
    better = values if metric == "rmse" else -values
    # A rank by counting: those better, and half of those equal.
    by_hand = np.mean([[1 + (row < v).sum() + ((row == v).sum() - 1) / 2 for v in row] for row in better], axis=0)
    ax = figure.axes[0]
    drawn = {}
    for text in ax.texts:
        words = text.get_text().split()
        if len(words) == 2:
            method, number = sorted(words, reverse=True)
            drawn[method] = float(number)
    assert drawn == {f"m{j}": pytest.approx(rank, abs=0.00501) for j, rank in enumerate(by_hand)}
    hooks = [line.get_xdata()[0] for line in ax.get_lines() if line.get_gid() == "rank"]
    assert sorted(hooks) == pytest.approx(sorted(by_hand))
    q = stats.studentized_range.ppf(0.95, k, 1e9) / math.sqrt(2)
    cd = q * math.sqrt(k * (k + 1) / (6 * N))
    (scale,) = [line.get_xdata() for line in ax.get_lines() if line.get_gid() == "cd"]
    assert scale[1] - scale[0] == pytest.approx(cd, rel=1e-4)
    bars = [line.get_xdata() for line in ax.get_lines() if line.get_gid() == "group"]
    pairs = list(itertools.combinations(by_hand, 2))
    for a, b in pairs:
        is_connected = any(low - 1e-9 <= min(a, b) and max(a, b) <= high + 1e-9 for low, high in bars)
        assert is_connected == (abs(a - b) < cd)
    assert 0 < sum(abs(a - b) < cd for a, b in pairs) < len(pairs), "the case tells nothing"


def test_ranks_leave_out_and_say_so(tmp_path):
    for dataset in ("one", "two"):
        lacking = "vrex" if dataset == "two" else None
        make_runs(tmp_path, {key: value for key, value in NUMBERS.items() if key[0] != lacking}, dataset=dataset)
        make_runs(tmp_path, {("sd", d): (math.nan,) * 3 for d in DOMAINS}, dataset=dataset)
        make_runs(tmp_path, {("irm", d): (0.01,) * 3 for d in DOMAINS}, dataset=dataset)
    figure = plot("ranks", Request(runs=tmp_path))
    said = [text.get_text() for text in texts(figure)]
    assert {"erm  1.00", "2.00  irm"} <= set(said)
    assert "Left out, as they lack a dataset or diverged on one: sd, vrex." in figure.notes[0]
    assert "2 datasets cannot tell 2 methods apart" in figure.notes[0]


@pytest.mark.parametrize("metric", [None, "nll"])
def test_selection(metric, tmp_path):
    noise = random.Random(1)
    drawn: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}
    for test, trial, draw in itertools.product("ab", range(2), range(4)):
        steps = [(noise.random(), noise.random()) for _ in range(3)]
        made = [(50 * i, make_scores(test, value, held_out)) for i, (value, held_out) in enumerate(steps)]
        make_run(tmp_path, made, test=[test], trial_seed=trial, hparams_seed=draw)
        value, held_out = max(steps, key=lambda step: step[1])
        drawn[test].append((100 * held_out, 1 - value if metric else 100 * value))
    (ax,) = plot("selection", Request(runs=tmp_path, metric=metric)).axes
    rhos = []
    for test, points in drawn.items():
        (line,) = [line for line in ax.get_lines() if str(line.get_label()).startswith(f"{test}: ")]
        found = sorted(zip(line.get_xdata(), line.get_ydata(), strict=True))
        assert found == [pytest.approx(point) for point in sorted(points)]
        rho = stats.spearmanr(*zip(*points, strict=True)).statistic * (-1 if metric else 1)
        rhos.append(rho)
        assert line.get_label() == f"{test}: ρ = {rho:.2f}, n = 8"
    assert ax.get_title("left") == f"toy: mean ρ = {np.mean(rhos):.2f} over 2 domains"


def test_correlation_that_is_not_defined():
    assert math.isnan(selection.correlation(pl.Series([1.0, 2.0]), pl.Series([1.0, 2.0]))[0])
    assert math.isnan(selection.correlation(pl.Series([1.0, 1.0, 1.0]), pl.Series([1.0, 2.0, 3.0]))[0])
    assert selection.correlation(pl.Series([1.0, 2, 3, math.nan]), pl.Series([3.0, 2, 1, 1])) == (pytest.approx(-1), 3)
