"""A folder with a record that is none of DomainBed's is named and left out; the rest of its sweep is imported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dgbench import record
from dgbench.leaderboard.domainbed_import import import_sweep, report
from tests.leaderboard.domainbed_sweeps import records, two_digits, write


def one(test: tuple[int, ...] = (0,), envs: int = 4, **keys: Any) -> list[dict[str, Any]]:
    return records("PACS", "ERM", test, 0, 0, envs=envs, year=2024, score=two_digits, **keys)


def nested(levels: int) -> Any:
    made: Any = 0
    for _ in range(levels):
        made = [made]
    return made


def imported(tmp_path: Path) -> str:
    """The report of an import, after which the run that tests on cartoon is there, and no other."""
    sweep_dir, out = tmp_path / "sweep", tmp_path / "out"
    said = "\n".join(report(import_sweep(sweep_dir, out), sweep_dir, out))
    assert record.runs(out)["test_domains"].to_list() == ["cartoon"]
    return said


ARGS = one()[0]["args"]
FRACTION = "expected a fraction from 0 to 1, or NaN"
BROKEN: dict[str, dict[str, Any]] = {
    "args is None, expected a mapping": {"args": None},
    "args.dataset is ['PACS'], expected a name": {"args": {**ARGS, "dataset": ["PACS"]}},
    "args.trial_seed is None, expected a whole number": {"args": {**ARGS, "trial_seed": None}},
    f"args.hparams_seed is {2**63}, expected a whole number": {"args": {**ARGS, "hparams_seed": 2**63}},
    "args.steps is '500', expected a whole number or null": {"args": {**ARGS, "steps": "500"}},
    "hparams is None, expected a mapping": {"hparams": None},
    "hparams is [1], expected a mapping": {"hparams": [1]},
    "it is nested too deeply, expected at most 8 levels": {"hparams": {"widths": nested(500)}},
    "step is True, expected a whole number": {"step": True},
    f"env0_in_acc is None, {FRACTION}": {"env0_in_acc": None},
    f"env3_out_acc is '0.5', {FRACTION}": {"env3_out_acc": "0.5"},
    f"env1_in_acc is 7.0, {FRACTION}": {"env1_in_acc": 7.0},
    f"env1_in_acc is -0.1, {FRACTION}": {"env1_in_acc": -0.1},
    f"env1_in_acc is inf, {FRACTION}": {"env1_in_acc": math.inf},
    f"env2_out_acc is {'1' * 18}...{'1' * 19}, {FRACTION}": {"env2_out_acc": int("1" * 400)},
    "it has a number of thousands of digits": {"env2_out_acc": "DIGITS"},
    "env0_uda_acc is '1', expected a fraction from 0 to 1, NaN or null": {"env0_uda_acc": "1"},
    "args.test_envs is [4], expected a list of numbers from 0 to 3": {"args": {**ARGS, "test_envs": [4]}},
    "args.test_envs is [], expected a list of numbers from 0 to 3": {"args": {**ARGS, "test_envs": []}},
    "args.test_envs is None, expected a list of numbers from 0 to 3": {"args": {**ARGS, "test_envs": None}},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_folder_with_a_broken_record_is_left_out_and_named(fault: str, tmp_path: Path) -> None:
    lines = one()
    # Neither done nor whole: of all that is odd about a folder that is left out, only this is said.
    folder = write(tmp_path / "sweep" / "bad", [lines[0], {**lines[1], **BROKEN[fault]}, lines[2]], done=False)
    file = folder / "results.jsonl"
    file.write_text(file.read_text().replace('"DIGITS"', "1" * 5000) + '{"torn')
    write(tmp_path / "sweep" / "fine", one((1,)))
    said = imported(tmp_path)
    assert "4 records of 1 run in" in said
    wrong = "1 folder left out, for a record that is none of DomainBed's; the others count"
    assert f"{wrong}: bad (line 2: {fault})." in said.splitlines()
    assert len(said.splitlines()) == 3


def test_a_line_of_brackets_and_one_of_no_mapping_are_broken_too(tmp_path: Path) -> None:
    write(tmp_path / "sweep" / "fine", one((1,)))
    for name, text in (("deep", '{"args": ' + "[" * 100_000 + "]" * 100_000 + "}"), ("list", "[1, 2]")):
        (tmp_path / "sweep" / name).mkdir()
        (tmp_path / "sweep" / name / "results.jsonl").write_text(text + "\n")
    said = imported(tmp_path)
    assert "2 folders left out, for a record that is none of DomainBed's; the others count: deep (line 1: it is" in said
    assert "list (line 1: args is None, expected a mapping)." in said


def test_all_records_of_a_run_have_the_same_environments(tmp_path: Path) -> None:
    write(tmp_path / "sweep" / "fine", one((1,)))
    write(tmp_path / "sweep" / "less", [one()[0], *one(envs=3)[1:]])
    # The same run as that of `fine`, in another folder.
    write(tmp_path / "sweep" / "more", one((1,), envs=5, steps=(1200,)))
    said = imported(tmp_path)
    assert "less (step 300 has 3 environments, expected 4 as the run's first)" in said
    assert "more (step 1200 has 5 environments, expected 4 as the run's first)." in said
    assert "4 records of 1 run in" in said
    assert "share a run" not in said


def test_a_loss_or_memory_that_is_no_number_costs_no_run(tmp_path: Path) -> None:
    for name, changes in (("fine", {"loss": 10**400}), ("more", {"mem_gb": math.inf}), ("nan", {"mem_gb": math.nan})):
        write(tmp_path / "sweep" / name, [{**one((1,), steps=(len(name),))[0], **changes}])
    assert "3 records of 1 run in" in imported(tmp_path)
    (run,) = record.runs(tmp_path / "out").iter_rows(named=True)
    assert (run["status"], run["peak_memory"]) == ("diverged", 3 * 2**29)


def test_a_sweep_of_broken_records_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "bad", [{**line, "step": "0"} for line in one()])
    wrong = r"has only broken records in \*/results\.jsonl, such as of bad \(line 1: step is '0', expected a whole num"
    with pytest.raises(ValueError, match=wrong):
        import_sweep(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
