from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from rich.console import Console

import dgbench
from dgbench.leaderboard import render
from tests.fabricate import DOMAINS, make_run, make_runs, make_scores


def test_repr_and_console_say_the_same(tmp_path: Path) -> None:
    made = dgbench.table(make_runs(tmp_path))
    console = Console(file=io.StringIO(), width=100)
    console.print(made)
    assert repr(made) == str(made) == console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("score", ["accuracy", "rmse"])
def test_six_domains_fit_into_100_columns(tmp_path: Path, score: str) -> None:
    domains = ("art_painting", "clipart", "quickdraw", "real_world", "infograph", "sketch")
    for test in domains:
        for trial in range(2 + (test == "sketch")):
            lines = [(0, make_scores(test, (1.0, 0.0, 0.5)[trial] * (1 + 122 * (score == "rmse")), domains=domains))]
            make_run(
                tmp_path, lines, domains=domains, test=[test], score=score, algorithm="group_dro", trial_seed=trial
            )
    said = str(dgbench.table(tmp_path))
    assert max(map(len, said.splitlines())) <= 100
    for number in ("50.0±28.9", "50.0±50.0") if score == "accuracy" else ("61.500", "±35.507"):
        assert number in said
    assert "…" not in said


def test_markdown_parses_back(tmp_path: Path) -> None:
    said = dgbench.table(make_runs(tmp_path, skip=lambda *cell: cell == ("erm", "a", 2)), format="markdown")
    assert isinstance(said, str)
    rows = [re.split(r" *\| *", line.strip("| ")) for line in said.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {7}
    assert rows[0] == ["#", "method", *DOMAINS, "Average", "found"]
    assert all(re.fullmatch(r"-+:|:-+", cell) for cell in rows[1])
    assert rows[3] == ["2", "erm", "55.0 ± 5.0 (2/3)", "80.0 ± 0.0", "20.0 ± 5.8", "50.0 ± 0.0 (2/3)", "8/9"]
    assert "\n\n* train_validation chooses" in said


def test_latex_escapes_what_it_must(tmp_path: Path) -> None:
    said = dgbench.table(make_runs(tmp_path), format="latex")
    assert isinstance(said, str)
    body = said.split(r"\hline")
    rows = [line for part in body[1:-1] for line in part.splitlines() if line]
    assert [row.count(" & ") for row in rows] == [6, 6, 6]
    assert rows[0] == r"\# & method & a & b & c\_long\_name & Average & found \\"
    assert rows[1] == r"1 & vrex & 70.0 $\pm$ 10.0 & 80.0 $\pm$ 5.8 & 40.0 $\pm$ 10.0 & 63.3 $\pm$ 5.1 & 9/9 \\"
    assert said.isascii()
    assert not re.search(r"(?<!\\)[_#%]", said)
    assert said.count("{") == said.count("}")


def test_latex_compiles(tmp_path: Path) -> None:
    command = shutil.which("tectonic") or shutil.which("pdflatex")
    if command is None:
        pytest.skip("neither tectonic nor pdflatex is on PATH")
    runs = make_runs(tmp_path / "runs", skip=lambda *cell: cell[:2] == ("erm", "a"))
    document = rf"\documentclass{{article}}\begin{{document}}{dgbench.table(runs, format='latex')}\end{{document}}"
    (tmp_path / "table.tex").write_text(document)
    options = [] if "tectonic" in command else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([command, *options, "table.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_csv_is_the_long_form(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, skip=lambda *cell: cell[:2] == ("erm", "a"))
    said = dgbench.table(runs, criterion="oracle", format="csv")
    assert isinstance(said, str)
    cells = dgbench.table(runs, criterion="oracle").cells
    back = pl.read_csv(io.StringIO(said), schema=cells.schema).with_columns(pl.col("val_domains").fill_null(""))
    assert_frame_equal(back, cells)
    assert len(back) == 2 * (3 + 1)
    assert back["criterion"].unique().to_list() == ["oracle"]
    assert back.filter(algorithm="erm", column="a")["is_missing"].to_list() == [True]


def test_all_special_characters_are_escaped() -> None:
    escaped = render.escape("a_b\\c{d}#$%&~^<>|")
    assert escaped == (r"a\_b\textbackslash{}c\{d\}\#\$\%\&\textasciitilde{}\textasciicircum{}$<$$>$$|$")
