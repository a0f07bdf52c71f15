"""What pictures over steps, costs and streams draw are the numbers that follow from the runs."""

import itertools
import json
import math
import random

import numpy as np
import pytest

from dgbench import record
from dgbench.leaderboard.plots import Request, cost, plot
from tests.fabricate import DOMAINS, NUMBERS, make_run, make_runs, make_scores
from tests.pictures import lines, make_adaptation


def test_steps(tmp_path):
    noise = np.random.default_rng(0)
    values = noise.random((2, 3, 4))  # test domain, trial, step
    held_out = noise.random((2, 3, 4))
    for domain, trial in itertools.product(range(2), range(3)):
        pairs = zip(values[domain, trial].tolist(), held_out[domain, trial].tolist(), strict=True)
        made = [(10 * i, make_scores("ab"[domain], *pair)) for i, pair in enumerate(pairs)]
        make_run(tmp_path, made, test=["ab"[domain]], trial_seed=trial, designated_domains="a b")
    (ax,) = plot("steps", Request(runs=tmp_path)).axes
    (curve,) = lines(ax, marker="None")
    assert curve == [pytest.approx((10 * i, 100 * values[:, :, i].mean())) for i in range(4)]
    (band,) = [path.vertices for collection in ax.collections for path in collection.get_paths()]
    trials = 100 * values.mean(axis=0)
    reach = trials.std(axis=0, ddof=1) / math.sqrt(3)
    for i in range(4):
        edges = band[band[:, 0] == 10 * i][:, 1]
        assert [edges.min(), edges.max()] == pytest.approx(
            [trials[:, i].mean() - reach[i], trials[:, i].mean() + reach[i]]
        )
    best = held_out.argmax(axis=2)
    at = np.take_along_axis(values, best[..., None], 2)[..., 0]
    (marks,) = lines(ax, marker="o")
    assert sorted(marks) == [pytest.approx(p) for p in sorted(zip(10 * best.mean(0), 100 * at.mean(0), strict=True))]


def test_a_curve_ends_where_a_run_ended(tmp_path):
    for trial, last in enumerate((30, 10)):
        made = [(step, make_scores("a", 0.5)) for step in range(0, last + 1, 10)]
        make_run(tmp_path, made, test=["a"], trial_seed=trial, designated_domains="a")
    (ax,) = plot("steps", Request(runs=tmp_path)).axes
    (curve,) = lines(ax, marker="None")
    assert [x for x, _ in curve] == [0, 10]


def test_cost(tmp_path):
    make_runs(tmp_path)
    seconds: dict[str, dict[int, list[int]]] = {}
    for place, folder in enumerate(sorted(record.find(tmp_path), key=lambda folder: folder.path.name)):
        folder.write(seconds=float(1 + place))
        columns = json.loads(folder.run_file.read_text())["columns"]
        seconds.setdefault(columns["algorithm"], {}).setdefault(columns["trial_seed"], []).append(1 + place)
    (ax,) = plot("cost", Request(runs=tmp_path)).axes
    names = {text.get_text(): text.xy for text in ax.texts}
    for method in ("erm", "vrex"):
        trials = [np.mean([NUMBERS[method, d][t] for d in DOMAINS]) for t in range(3)]
        costs = [np.mean(seconds[method][t]) for t in range(3)]
        assert names[method] == pytest.approx((np.mean(costs), 100 * np.mean(trials)))
        bars = [s for c in ax.collections for s in c.get_segments() if np.allclose(s.mean(axis=0), names[method])]
        spans = sorted(float(np.abs(s[1] - s[0]).max()) / 2 for s in bars)
        errors = [np.std(costs, ddof=1) / math.sqrt(3), 100 * np.std(trials, ddof=1) / math.sqrt(3)]
        assert spans == pytest.approx(sorted(errors))


def test_cost_does_not_judge_a_method_by_the_trials_in_which_it_has_numbers(tmp_path):
    make_runs(tmp_path)
    make_runs(tmp_path, {("sd", d): (math.nan, 0.9, 0.9) for d in DOMAINS})
    figure = plot("cost", Request(runs=tmp_path))
    assert {text.get_text() for text in figure.axes[0].texts} == {"erm", "vrex"}
    assert "Left out, without a number in some trial (diverged): sd." in figure.notes
    with pytest.raises(ValueError, match=r"has numbers in all trials: sd diverged\. Name runs that did not\."):
        plot("cost", Request(runs=tmp_path, method=("sd",)))


def test_front_is_what_nothing_beats():
    noise = random.Random(0)
    for _ in range(50):
        costs, values = ([noise.choice([1.0, 2.0, 3.0, 4.0]) for _ in range(6)] for _ in range(2))
        beaten = [
            any(
                (c < costs[i] and v >= values[i]) or (c <= costs[i] and v > values[i])
                for c, v in zip(costs, values, strict=True)
            )
            for i in range(6)
        ]
        assert cost.front(costs, values) == [not b for b in beaten]
        assert cost.front(costs, [-v for v in values], lower_is_better=True) == [not b for b in beaten]


def test_adaptation(tmp_path):
    noise = random.Random(0)
    n, right = [4] * 6 + [2], {}
    for adapter, trial, seed in itertools.product(("source", "tent"), range(2), range(2)):
        blocks = [(name, n, [noise.randint(0, size) for size in n]) for name in "ab"]
        right[adapter, trial, seed] = [correct for _, _, correct in blocks]
        make_adaptation(tmp_path, adapter, trial, blocks, seed=seed)
    make_adaptation(tmp_path, "late", 0, [("a", n, n), ("b", n, n)], status="running")
    (ax,) = plot("adaptation", Request(runs=tmp_path)).axes[:1]
    for adapter in ("source", "tent"):
        (line,) = [line for line in ax.get_lines() if line.get_label() == adapter]
        trials = []
        for trial in range(2):
            curve = []
            for block, i in itertools.product(range(2), range(7)):
                look = slice(max(0, i - 3), i + 1)
                curve.append(np.mean([sum(right[adapter, trial, s][block][look]) / sum(n[look]) for s in range(2)]))
            trials.append(curve)
        x, y = line.get_xdata(), line.get_ydata()
        # One gap, between the domains.
        assert np.flatnonzero(np.isnan(y)).tolist() == [7]
        assert x[~np.isnan(x)].tolist() == list(range(1, 15))
        assert y[~np.isnan(y)] == pytest.approx(100 * np.mean(trials, axis=0))
    assert [tick.get_text() for tick in ax.child_axes[0].get_xticklabels()] == ["a", "b"]
    assert [line.get_label() for line in ax.get_lines() if line.get_label() == "late"] == []
