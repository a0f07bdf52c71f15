"""`dgbench table` with what it says beside a table."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from dgbench import cli, cli_results, console
from dgbench.leaderboard.explain import explain
from dgbench.record import RunFolder
from tests.grids import make_grid


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `dgbench table` in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        for module in (cli_results, console):
            monkeypatch.setattr(module, "out", Console(width=120), raising=False)
            monkeypatch.setattr(module, "err", Console(width=120, stderr=True), raising=False)
        monkeypatch.setattr(sys, "argv", ["dgbench", "table", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def test_the_command_explains_below_the_table(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    at = make_grid(tmp_path / "runs", "plus90", "plus80", "minus90", asked=["algorithm=erm", "dataset=digits_color"])
    shutil.rmtree(at.popitem()[1])
    (gap,) = explain(tmp_path / "runs").gaps
    code, out, err = command(tmp_path / "runs", "--explain", "--published")
    assert (code, err) == (0, "")
    assert "No published rows of digits_color, selected by train_validation, are known here." in " ".join(out.split())
    assert f"  {gap}" in out.splitlines()
    assert f"    {gap.command}" in out.splitlines(), "whole, to be copied"
    code, out, err = command(tmp_path / "runs", "--explain", "--format", "csv")
    assert code == 0
    assert out.startswith("dataset,")
    assert "missing: " not in out
    assert f"  {gap}" in err.splitlines()


def test_under_an_explanation_missing_pairs_are_counted(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    make_grid(tmp_path, "plus90", "plus80", "minus90", asked=["algorithm=erm", "dataset=digits_color"])
    asked = (tmp_path, "--criterion", "domain_cross_validation")
    above, _, below = command(*asked, "--explain")[1].partition("what is missing of what")
    assert "3 pair runs are missing: see below." in " ".join(above.split())
    assert "Missing: " not in above
    assert "dgbench train" in below
    # What goes into a file is read alone.
    for options in ((), ("--explain", "--format", "markdown")):
        said = command(*asked, *options)[1]
        assert said.count("Missing: erm on digits_color") == 3
        assert "see below" not in said


@pytest.mark.parametrize("option", ["--explain", "--published"])
def test_adaptations_are_not_explained(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], option: str
) -> None:
    RunFolder(tmp_path / "one").create()
    RunFolder(tmp_path / "one").begin(kind="adapt", run_id="one", status="complete", schema=1)
    code, _, err = command(tmp_path, option)
    assert code == 1
    assert f"{option} belongs to tables of trained runs, and these are adaptations. Leave it out." in err
