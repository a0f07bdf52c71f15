"""A DomainBed sweep read here gives DomainBed's tables; what was odd about it is said."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dgbench
from dgbench import cli, console, domainbed, record
from dgbench.leaderboard import domainbed_import, domainbed_names
from dgbench.leaderboard.domainbed_import import import_sweep, report
from dgbench.registry import algorithms, datasets
from tests.leaderboard import domainbed_reference as reference
from tests.leaderboard.domainbed_sweeps import ENVS, make_sweep, records, two_digits, write


def printed(out: Path, criterion: str) -> dict[tuple[str, str, str], str]:
    """A table's cells by dataset, method and column."""
    found: dict[tuple[str, str, str], str] = {}
    dataset, heading = "", [""]
    for line in str(dgbench.table(out, criterion, format="markdown", protocol="domainbed_2020")).splitlines():
        cells = [cell.strip() for cell in line[2:-2].split(" | ")]
        if line.startswith("**"):
            dataset = line[2:].split(":")[0]
        elif line.startswith("| # "):
            heading = cells
        elif line.startswith("| "):
            found |= {(dataset, cells[1], column): cell for column, cell in zip(heading, cells, strict=True)}
    return found


@pytest.fixture(scope="module", params=[0.0, 0.12], ids=["whole", "with holes"])
def sweep(request, tmp_path_factory) -> tuple[Path, Path]:
    """A sweep, and the folder of its records."""
    sweep_dir = make_sweep(tmp_path_factory.mktemp("sweep"), request.param)
    out = tmp_path_factory.mktemp("out")
    import_sweep(sweep_dir, out)
    return sweep_dir, out


@pytest.mark.parametrize("criterion", reference.CRITERIA)
def test_every_cell_is_that_of_the_rules_applied_record_by_record(sweep, criterion) -> None:
    found, every = printed(sweep[1], criterion), reference.load(sweep[0])
    expected, got = {}, {}
    for (dataset, algorithm, env), cell in reference.cells(every, criterion).items():
        ours, names = domainbed_names.dataset_names(dataset, ENVS[dataset])
        key = (ours, domainbed_names.algorithm_name(algorithm), names.domains[env])
        expected[key] = "missing" if cell is None else f"{cell[0]} ± {cell[1]}"
        got[key] = re.sub(r" \(\d/3\)$", "", found[key])
    assert got == expected
    assert len(got) == 3 * (4 + 3)
    compared = 0
    for (dataset, algorithm), of in reference.averages(every, criterion).items():
        ours = domainbed_names.dataset_names(dataset, ENVS[dataset])[0]
        row = {key[2]: cell for key, cell in found.items() if key[:2] == (ours, algorithm.lower())}
        # DomainBed averages whatever is there; here a trial that lacks a domain has no average.
        if not any("(" in cell or cell == "missing" for cell in row.values()):
            assert of is not None
            mean, error = map(float, row["Average"].split(" ± "))
            # Half a digit may be rounded either way: DomainBed's own two averages differ in their last bit.
            assert (mean, mean, error) == pytest.approx(of, abs=0.05 + 1e-9)
            compared += 1
    assert compared == 6 or (compared > 2 and "(" in str(found))


def said(sweep_dir: Path, out: Path, monkeypatch) -> str:
    """What the command prints."""
    from dgbench import cli_results

    monkeypatch.setattr(cli_results, "out", console.Console(width=10_000))
    result = CliRunner().invoke(cli.app, ["import-domainbed", str(sweep_dir), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return result.output


def one(test=(0,), trial=0, dataset="PACS", envs=4, year=2024, **keys) -> list[dict]:
    return records(dataset, "ERM", test, 0, trial, envs=envs, year=year, score=two_digits, **keys)


def test_what_is_odd_is_named_with_its_folders_and_how_it_is_treated(tmp_path, monkeypatch) -> None:
    sweep_dir = tmp_path / "sweep"
    write(sweep_dir / "fine", one())
    write(sweep_dir / "cut", one((1,)), torn=True, done=False)
    write(sweep_dir / "short", one((2,))[:2], done=False)
    write(sweep_dir / "twice", [*one((3,))[:2], *one((3,))])
    write(sweep_dir / "bare", one((3,), 1)[:1], torn=True, done=False)
    for name in ("here", "there"):
        write(sweep_dir / name, one((3,), 2)[: 2 if name == "here" else 4][slice(2 * (name == "there"), None)])
    text = said(sweep_dir, tmp_path / "out", monkeypatch)
    assert f"{4 + 3 + 2 + 6 + 4} records of 5 runs in {sweep_dir}: 5 new, 0 changed, 0 as they were in" in text
    assert (
        "2 folders unfinished, without the file `done`: DomainBed's protocols use them, others do not: cut, sh" in text
    )
    assert "2 folders with a line that was cut short: the line is left out, the others count: bare, cut." in text
    assert "1 folder without a whole record: left out: bare." in text
    assert "1 folder of runs that recorded a step more than once: DomainBed's protocols let both records comp" in text
    assert "others take the later one: twice." in text
    assert "read as one run, as DomainBed does: here, there." in text
    assert f"dgbench table {tmp_path / 'out'} --protocol domainbed_2020 selects" in text
    assert sorted(record.runs(tmp_path / "out")["status"]) == ["complete"] * 3 + ["interrupted"] * 2
    monkeypatch.setattr(domainbed_import, "SHOWN", 1)
    lines = list(report(import_sweep(sweep_dir, tmp_path / "out"), sweep_dir, tmp_path / "out"))
    assert any(line.endswith("do not: cut and 1 more.") for line in lines)


def test_a_second_import_writes_nothing_and_a_grown_sweep_adds_what_is_new(tmp_path, monkeypatch) -> None:
    sweep_dir, out = tmp_path / "sweep", tmp_path / "out"
    write(sweep_dir / "a", one())
    write(sweep_dir / "b", one((1,))[:2], done=False)
    said(sweep_dir, out, monkeypatch)
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    # The sweep may lie elsewhere by now.
    moved = Path(shutil.move(sweep_dir, tmp_path / "moved"))
    assert "6 records of 2 runs in" in (text := said(moved, out, monkeypatch))
    assert ": nothing new in" in text
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == stamps
    write(moved / "b", one((1,)))
    write(moved / "c", one((2,)))
    assert "1 new, 1 changed, 1 as they were in" in said(moved, out, monkeypatch)
    assert record.runs(out)["status"].to_list() == ["complete"] * 3
    assert len(list(out.iterdir())) == 3


def test_records_of_both_years_say_what_they_know(tmp_path) -> None:
    last = one(year=2024)[-1]
    uda = {**last, "env0_uda_acc": 0.25, "step": 1200, "loss": math.inf}
    write(tmp_path / "sweep" / "new", [last, uda])
    write(tmp_path / "sweep" / "old", records("Own", "Mine", (1,), 3, 2, envs=2, year=2020, score=two_digits))
    import_sweep(tmp_path / "sweep", tmp_path / "out")
    old, new = record.runs(tmp_path / "out").sort("protocol").iter_rows(named=True)
    keys = ("dataset", "algorithm", "dataset_domains", "train_domains", "test_domains", "status", "hparams_seed")
    assert [old[key] for key in keys] == ["own", "mine", "env0 env1", "env0", "env1", "complete", 3]
    assert (old["protocol"], old["peak_memory"], old["network"]) == ("domainbed_2020", None, "resnet50")
    assert (new["protocol"], new["peak_memory"], new["status"]) == ("domainbed_2024", 3 * 2**29, "diverged")
    assert (new["num_steps"], new["last_evaluation"], new["literal"]) == (5001, 1200, True)
    rows = record.read(tmp_path / "out").filter(split="uda")
    assert rows.select("domain", "step", "value").rows() == [("art_painting", 1200, 0.25)]
    folders = json.loads((Path(new["path"]) / "run.json").read_text())["domainbed"]["folders"]
    assert folders == ["new"]
    with pytest.raises(ValueError, match=r"is a record of another program and has no weights\. Name a run that dgb"):
        dgbench.load(new["path"])


def test_names_are_those_of_our_components_and_all_of_domainbed_s() -> None:
    names = domainbed_names
    assert tuple(names.ALGORITHMS) == domainbed.ALGORITHMS
    assert set(names.ALGORITHMS.values()) <= set(algorithms.names())
    assert {name: len(of.domains) for name, of in names.DATASETS.items()} == domainbed.DATASETS
    ours = {of.ours: of for of in names.DATASETS.values() if of.ours}
    assert set(ours) == {name for name in datasets.names() if name.replace("_", "") in map(str.lower, names.DATASETS)}
    for name, of in ours.items():
        assert (of.domains, of.regime) == (datasets[name].card.domains, datasets[name].card.regime)
    assert names.dataset_names("PACS", 5)[1].domains == ("env0", "env1", "env2", "env3", "env4")


def test_what_is_no_sweep_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder\. Name the --output_dir of a DomainBed"):
        import_sweep(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match=r"has no record in \*/results\.jsonl\. Name the --output_dir of a DomainBed"):
        import_sweep(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
