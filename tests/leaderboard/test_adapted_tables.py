"""Tables of adaptations where numbers are missing, domains unequal, or answers given at other times, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dgbench.leaderboard import statistics
from dgbench.leaderboard.adaptation import adaptations
from dgbench.record import RunFolder
from tests.leaderboard.test_adaptation import line, make

NAN = None  # as JSON has it


def rows(runs_dir):
    (sheet,) = adaptations(runs_dir).sheets
    return {row.name: row for row in sheet.rows}


def text(runs_dir):
    return " ".join(str(adaptations(runs_dir)).split())


def replace(folder, lines):
    folder.lines_file.unlink()
    with folder.lock.held():
        for one in lines:
            folder.append(one)


@pytest.mark.parametrize("trials", [(0, 1, 2), (1,)])
def test_no_number_in_one_round_is_no_number_of_the_domain(tmp_path, trials):
    for trial in range(3):
        make(tmp_path, "source", {"a": 0.5 + trial / 100, "b": 0.5}, trial=trial, rounds=2)
        tent = make(tmp_path, "tent", {"a": 0.6, "b": 0.6 + trial / 50}, trial=trial, rounds=2)
        if trial in trials:
            lines = tent.lines()
            lines[2]["values"] = {"stream/a/accuracy": NAN, "stream/a/nll": NAN}
            assert (lines[2]["round"], lines[2]["n"]) == (1, {"stream/a": 10})
            replace(tent, lines)
    found = rows(tmp_path)
    assert found["tent"].cells == (pytest.approx(0.62), None)
    assert found["tent"].average is None
    assert found["tent"].difference.mean is None or found["tent"].difference.num_trials < 3
    assert "*" not in text(tmp_path).partition("Minus source")[0]
    assert text(tmp_path).count(" tent: ") == 1
    assert found["source"].cells == (0.5, pytest.approx(0.51))


def test_no_number_kept_in_one_trial_is_none_kept(tmp_path):
    for trial in range(3):
        make(tmp_path, "source", {"a": 0.5}, trial=trial)
        tent = make(tmp_path, "tent", {"a": 0.6}, trial=trial)
        if trial == 1:
            replace(tent, [tent.lines()[0], line("out/t", {"accuracy": NAN, "nll": NAN}, 0, "source_after")])
    found = rows(tmp_path)
    assert (found["source"].kept, found["tent"].kept) == (0.9, None)


def test_differences_weigh_domains_as_averages_do(tmp_path):
    # Of `a` two models are tested, of `b` one.
    numbers = {"source": ((0.5, 0.4), 0.3), "tent": ((0.52, 0.46), 0.9)}
    for adapter, ((alone, beside), b) in numbers.items():
        for trial in range(3):
            make(tmp_path, adapter, {"a": alone + trial / 50}, trial=trial)
            make(tmp_path, adapter, {"a": beside, "b": b - trial / 100}, trial=trial)
    found = rows(tmp_path)
    average = {name: np.mean([np.mean(a) + 0.01, b - 0.01]) for name, (a, b) in numbers.items()}
    for name, row in found.items():
        assert row.average == pytest.approx(average[name])
    assert found["tent"].difference.num_trials == 3
    assert found["tent"].difference.mean == pytest.approx(average["tent"] - average["source"])


def test_a_place_that_is_missing_is_missing_in_its_domain(tmp_path):
    for adapter, seeds in (("source", (0, 1)), ("tent", (0,))):
        for seed in seeds:
            make(tmp_path, adapter, {"a": 0.5}, seed=seed)
    found = rows(tmp_path)
    assert (found["source"].cells, found["tent"].cells) == ((0.5,), (None,))
    assert found["tent"].difference.num_trials == 0


def test_pooled_domains_stand_beside_their_mixture_which_counts_nowhere(tmp_path):
    for trial in range(3):
        for adapter, gain in (("source", 0.0), ("tent", 0.1)):
            values: dict[str, float | None] = {"a": 0.4 + gain + trial / 100, "b": 0.6 + 2 * gain, "mixed": 0.9 - gain}
            folder = make(tmp_path, adapter, values, trial=trial, test_domains="a b")
            parts = folder.lines()[:-1]
            together = {key: v for part in parts for key, v in part["values"].items()}
            pooled = {**parts[0], "values": together, "n": {"stream/a": 10, "stream/b": 30, "stream/mixed": 40}}
            replace(folder, [pooled, folder.lines()[-1]])
    sheet = adaptations(tmp_path).sheets[0]
    assert sheet.domains == ("b", "a", "mixed")
    found = rows(tmp_path)
    assert found["tent"].cells == pytest.approx((0.8, 0.51, 0.8))
    assert found["tent"].average == pytest.approx((0.8 + 0.51) / 2)
    assert found["tent"].difference.mean == pytest.approx(0.15)
    assert "mixed: all domains' examples together, no part of the Average." in text(tmp_path)


@pytest.mark.parametrize(("others", "marked"), [(("t3a", "memo", "tent"), ["memo", "t3a"]), (("t3a", "memo"), [])])
def test_who_answers_after_the_update_is_marked_beside_who_answers_before(tmp_path, others, marked):
    for adapter in ("source", *others):
        make(tmp_path, adapter, {"a": 0.5}, answers="after" if adapter in ("t3a", "memo") else "before")
    said = str(adaptations(tmp_path))
    assert sorted(row.split()[0] for row in said.splitlines() if row.split()[1:2] == ["†"]) == marked
    assert ("† answers each batch after its update on it" in said) == bool(marked)


def test_a_star_follows_the_rule_of_all_tables(tmp_path, monkeypatch):
    for trial in range(3):
        make(tmp_path, "source", {"a": 0.5}, trial=trial)
        make(tmp_path, "tent", {"a": 0.6 + trial / 1000}, trial=trial)
    assert "]*" in str(adaptations(tmp_path))
    monkeypatch.setattr(statistics, "MIN_TRIALS", 4)
    assert "]*" not in str(adaptations(tmp_path))


def test_it_says_of_which_state_kept_is(tmp_path):
    make(tmp_path, "source", {"a": 0.5, "b": 0.5})
    assert "of an adapter that starts afresh on the way, after the last domain or batch alone." in text(tmp_path)


def test_names_are_no_markup(tmp_path):
    for families in (["b"], ["x"]):
        make(tmp_path, "tent", {"a": 0.5}, hparams={"kinds": families, "mode": f"[{families[0]}]"})
    assert "mode=[b]" in text(tmp_path)


def test_weights_of_another_criterion_are_another_table(tmp_path):
    make(tmp_path, "source", {"a": 0.5})
    folder = make(tmp_path, "source", {"a": 0.7}, source_criterion="oracle")
    assert RunFolder(folder.path).status() == "complete"
    sheets = adaptations(tmp_path).sheets
    assert sorted(row.cells[0] or 0 for sheet in sheets for row in sheet.rows) == [0.5, 0.7]
    assert [("weights by oracle" in sheet.subtitle) for sheet in sheets].count(True) == 1
