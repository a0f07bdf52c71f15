"""Curves of adapters where errors are counted, domains pooled, or answers given after the update."""

import math

import numpy as np
import pytest

from dgbench.leaderboard.plots import Request, plot
from dgbench.leaderboard.plots.adaptation import frame
from tests.pictures import check_readable, make_adaptation, texts

N = [4] * 5 + [2]


def curve(figure, name):
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_label() == name]
    return line.get_ydata()


def test_regressions_have_curves_of_rmse(tmp_path):
    errors = {("source", 0): [8.0, 4, 2, 6, 1, 3], ("source", 1): [1.0, 2, 3, 4, 5, 6]}
    for name, factor in (("bad", 3), ("tent", 0.5)):
        errors |= {(name, trial): [factor * value for value in errors["source", trial]] for trial in range(2)}
    for (adapter, trial), own in errors.items():
        make_adaptation(tmp_path, adapter, trial, [("a", N, own)], score="rmse")
    figure = plot("adaptation", Request(runs=tmp_path))
    check_readable(figure)
    for adapter in ("source", "bad", "tent"):
        trials = [
            [math.sqrt(sum(own[max(0, i - 3) : i + 1]) / sum(N[max(0, i - 3) : i + 1])) for i in range(6)]
            for own in (errors[adapter, trial] for trial in range(2))
        ]
        assert curve(figure, adapter) == pytest.approx(np.mean(trials, axis=0))
    assert figure.axes[0].get_ylabel() == "test RMSE"
    said = [text.get_text() for text in texts(figure)]
    assert any("Test RMSE of adapters over the stream" in one for one in said)
    # After the baseline the better first, and lower is better.
    assert [one for one in said if one in ("source", "bad", "tent")] == ["source", "tent", "bad"]


def test_classifiers_and_regressions_stand_in_one_picture(tmp_path):
    make_adaptation(tmp_path, "source", 0, [("a", N, [1.0] * 6)], score="rmse", dataset="prices")
    make_adaptation(tmp_path, "source", 0, [("a", N, [1] * 6)])
    figure = plot("adaptation", Request(runs=tmp_path))
    assert sorted(ax.get_ylabel() for ax in figure.axes[:2]) == ["test RMSE", "test accuracy in %"]
    assert any("Test accuracy or RMSE of" in text.get_text() for text in texts(figure))


def test_a_curve_ends_where_an_error_is_no_number(tmp_path):
    make_adaptation(tmp_path, "source", 0, [("a", N, [4.0, 4.0, None, 4.0, 4.0, 2.0])], score="rmse")
    y = curve(plot("adaptation", Request(runs=tmp_path)), "source")
    assert y[:2] == pytest.approx([1, 1])
    assert np.isnan(y[2:]).all()


def test_pooled_domains_are_one_visit_named_mixed(tmp_path):
    make_adaptation(tmp_path, "source", 0, [("mixed", N, [1] * 6)])
    (file,) = tmp_path.glob("*/evaluations.jsonl")
    text = file.read_text().replace('"n": {"stream/mixed": 22}', '"n": {"stream/a": 10, "stream/mixed": 22}')
    assert "stream/a" in text
    file.write_text(text)
    assert frame(Request(runs=tmp_path))["domain"].unique().to_list() == ["mixed"]


@pytest.mark.parametrize("others", [("memo", "tent"), ("memo",)])
def test_who_answers_after_the_update_is_named(tmp_path, others):
    for adapter in ("source", *others):
        make_adaptation(tmp_path, adapter, 0, [("a", N, [1] * 6)], late=adapter == "memo")
    figure = plot("adaptation", Request(runs=tmp_path))
    check_readable(figure)
    said = " ".join(" ".join(text.get_text() for text in texts(figure)).split())
    assert ("After their update on a batch answer memo; the others before it." in said) == (len(others) == 2)
