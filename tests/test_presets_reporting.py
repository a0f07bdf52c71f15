"""How each preset has finished runs read, and how presets are shown."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import dgbench
from dgbench import cli, console, record, sheet
from dgbench.cells import coverage
from dgbench.composition import compose
from dgbench.config import resolve
from dgbench.description import header
from dgbench.protocol import Protocol
from dgbench.registry import UnknownName
from dgbench.selection import selection
from tests.fabricate import NUMBERS, make_run, make_runs, make_scores
from tests.test_presets import PRESETS, each

RULES = ("error_bar", "use_unfinished", "oracle_last_record", "literal")


def columns(preset: str) -> dict[str, Any]:
    """What a run of a preset records of the protocol."""
    run = resolve(compose([f"protocol={preset}", "dataset=digits_rot", "test_domains=[rot0]"]))
    said = header(run)["columns"]
    return {key: said[key] for key in ("protocol", "protocol_key", *RULES)}


def errors(runs_dir: Path, **keys: str) -> dict[tuple[str, str], float]:
    """Method and column to the standard error that the table gives."""
    rows = pl.read_csv(io.StringIO(str(dgbench.table(runs_dir, format="csv", **keys))))
    return {(row["algorithm"], row["column"]): row["se"] for row in rows.iter_rows(named=True)}


def by_hand(ddof: int) -> dict[tuple[str, str], float]:
    found = {key: np.std(values, ddof=ddof) / np.sqrt(3) for key, values in NUMBERS.items()}
    for name in ("erm", "vrex"):
        means = np.mean([values for (algorithm, _), values in NUMBERS.items() if algorithm == name], axis=0)
        found[name, "Average"] = np.std(means, ddof=ddof) / np.sqrt(3)
    return found


@each(1, 0, 0)
def test_the_error_bar_divides_by_n_or_by_one_less(preset, expected, tmp_path) -> None:
    make_runs(tmp_path, **columns(preset))
    assert errors(tmp_path) == pytest.approx(by_hand(expected), abs=1e-12)
    assert f"({'n-1' if expected else 'n'})" in str(dgbench.table(tmp_path))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_table_reads_runs_by_the_rules_it_is_told(preset, tmp_path) -> None:
    make_runs(tmp_path, **columns("dgbench"))
    assert errors(tmp_path, protocol=preset) == pytest.approx(by_hand(preset == "dgbench"), abs=1e-12)
    numbers = [dgbench.table(tmp_path, protocol=name).cells["mean"].to_list() for name in ("dgbench", preset)]
    assert numbers[0] == numbers[1]


def test_a_table_reads_unfinished_runs_where_it_is_told_so(tmp_path) -> None:
    lines = [(step, make_scores("a", step / 1000)) for step in (0, 100)]
    make_run(tmp_path, lines, status="interrupted", **{**columns("dgbench"), "num_steps": 300})
    of_a = {"column": "a"}
    assert dgbench.table(tmp_path, "oracle").cells.filter(**of_a)["mean"].to_list() == [None]
    read = dgbench.table(tmp_path, "oracle", protocol="domainbed_2024")
    assert read.cells.filter(**of_a)["mean"].to_list() == [0.1]
    with pytest.raises(UnknownName, match=r"'domainbed' is not a known protocol\. .*domainbed_2020"):
        dgbench.table(tmp_path, protocol="domainbed")


def chosen(runs_dir: Path, criterion: str) -> list[float]:
    return selection(criterion).choose(record.read(runs_dir))["value"].to_list()


@each(False, True, True)
@pytest.mark.parametrize("criterion", ["oracle", "last_step"])
def test_the_oracle_takes_the_last_record_whichever_it_is(criterion, preset, expected, tmp_path) -> None:
    lines = [(0, make_scores("a", 0.9, oracle=0.9)), (200, make_scores("a", 0.2, oracle=0.2))]
    make_run(tmp_path / "short", lines, **{**columns(preset), "num_steps": 250})
    assert chosen(tmp_path / "short", criterion) == ([0.2] if expected else [])
    last = (249, make_scores("a", 0.4, oracle=0.1))
    make_run(tmp_path / "whole", [*lines, last], **{**columns(preset), "num_steps": 250})
    assert chosen(tmp_path / "whole", criterion) == [0.4]
    # Other criteria have always seen every record.
    assert chosen(tmp_path / "short", "oracle_best") == chosen(tmp_path / "whole", "oracle_best") == [0.9]


@each(False, True, True)
@pytest.mark.parametrize("status", ["interrupted", "running", "failed"])
def test_unfinished_runs_are_used(status, preset, expected, tmp_path) -> None:
    lines = [(0, make_scores("a", 0.9, 0.9))]
    make_run(tmp_path, lines, status=status, hparams_seed=1, **{**columns(preset), "num_steps": 300})
    for criterion in ("train_validation", "oracle", "oracle_best"):
        assert chosen(tmp_path, criterion) == ([0.9] if expected else [])
    assert coverage(record.runs(tmp_path)).filter(test_domain="a")["is_missing"].to_list() == [not expected]
    make_run(tmp_path, [(0, make_scores("a", 0.1, 0.1))], **columns(preset))
    assert chosen(tmp_path, "train_validation") == [0.9 if expected else 0.1]


@each(False, True, True)
def test_good_steps_of_runs_that_diverged_compete(preset, expected, tmp_path) -> None:
    diverged = [(0, make_scores("a", 0.9, 0.9)), (100, make_scores("a", 0.1, float("nan")))]
    make_run(tmp_path, diverged, status="diverged", hparams_seed=1, **{**columns(preset), "num_steps": 300})
    make_run(tmp_path, [(0, make_scores("a", 0.3, 0.3))], **columns(preset))
    assert chosen(tmp_path, "train_validation") == [0.9 if expected else 0.3]


def test_rules_of_reading_are_no_part_of_a_run_s_identity() -> None:
    def made(*overrides: str) -> str:
        return resolve(compose(["dataset=digits_rot", "test_domains=[rot0]", *overrides])).run_id

    assert set(Protocol().reporting) == set(RULES)
    usual = made()
    flags = ("use_unfinished", "oracle_last_record", "literal")
    rules = ["protocol.error_bar=n", *(f"protocol.{flag}=true" for flag in flags)]
    assert {made(*rules), *map(made, rules)} == {usual}
    decisive = ["augment_validation=true", "draw_data_per_run=true", "evaluate_last=false", "cap_steps=false"]
    others = [made(f"protocol.{flag}") for flag in [*decisive, "resnet_freeze_bn=true", "holdout_fraction=0.3"]]
    assert len({usual, *others}) == 7


def shown(name: str, width: int = 100) -> list[str]:
    page = Console(width=width)
    with page.capture() as captured:
        for part in sheet.protocol(name):
            page.print(part, highlight=False)
    return captured.get().splitlines()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_s_sheet_gives_every_key_with_its_meaning_and_marks_what_differs(preset) -> None:
    usual, own = (Protocol(**compose([f"protocol={name}"])["protocol"]) for name in ("dgbench", preset))
    lines = shown(preset, width=400)
    assert max(map(len, shown(preset))) <= 100
    for field in dataclasses.fields(Protocol):
        (row,) = [line for line in lines if line[2:].split()[:1] == [field.name] and "  " in line[2:].strip()]
        mark, value = row[0], getattr(own, field.name)
        differs = value != getattr(usual, field.name) and field.name != "name"
        assert mark == ("*" if differs else " ")
        _, written, *meaning = row[2:].split()
        in_yaml = "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()
        assert written == in_yaml
        assert len(meaning) > 3
    assert ("* differs from dgbench." in lines[-1]) == (preset != "dgbench")
    text = " ".join(" ".join(lines).split())
    assert "* error_bar n the standard error divides the squared" in text or preset == "dgbench"
    assert ("trials, by n dgbench: n-1" in text) == (preset != "dgbench")


def test_presets_are_listed_with_what_their_files_begin_with(monkeypatch, capsys) -> None:
    def run(*arguments: str) -> str:
        for module in (cli, console):
            monkeypatch.setattr(module, "out", Console(width=200))
            monkeypatch.setattr(module, "err", Console(width=200))
        monkeypatch.setattr(sys, "argv", ["dgbench", *arguments])
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out

    lines = run("list", "protocols").splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert "The standard protocol: leave one domain out, 80/20 splits" in lines[0]
    assert "DomainBed as of its published table of 2020" in lines[1]
    assert run("show", "protocol", "domainbed_2024").startswith("domainbed_2024  preset of the protocol")
    assert "'domainbed_202' is not a known protocol. Did you mean 'domainbed_20" in run(
        "show", "protocol", "domainbed_202"
    )
