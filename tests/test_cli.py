"""The command: what it prints, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import dgbench
from dgbench import console, registry
from tests.fabricate import make_run, make_runs, make_scores

ALGORITHM = """
from dgbench.algorithm import Algorithm
from dgbench.algorithms.erm import HParams


class Mine(Algorithm):
    HParams = HParams

    def loss(self, batch):
        raise ValueError("expected test_domains=[rot0], got [red]this[/nonsense]")
"""


def test_the_version_is_the_packages(command):
    assert command("--version") == (0, f"dgbench {dgbench.__version__}\n", "")


@pytest.mark.parametrize("name", ["demo", "list", "show", "status", "table", "check"])
def test_help_is_a_sentence_and_the_options(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert lines[0].startswith(f"Usage: dgbench {name}")
    assert lines[1].endswith(".") or lines[2].endswith(".")


def test_list_without_a_name_lists_the_shelves(command):
    _, out, _ = command("list")
    shelves = ["algorithms", "datasets", "adapters", "experiments", "protocols"]
    assert [line.split()[0] for line in out.splitlines()] == shelves
    assert out.split()[1] == str(len(registry.algorithms.names()))


def test_every_component_has_one_line_and_its_family(command):
    _, out, _ = command("list", "algorithms")
    assert [line.split()[0] for line in out.splitlines()] == registry.algorithms.names()
    assert re.search(r"\ndann +alignment +DANN: features from which", out)
    assert "…" not in out
    _, out, _ = command("list", "datasets")
    assert re.search(r"\npacs +Seven kinds of objects", out)


def test_a_narrow_terminal_ends_the_sentences_in_an_ellipsis(command):
    _, out, _ = command("list", "algorithms", width=60)
    lines = [line.rstrip() for line in out.splitlines()]
    assert len(lines) == len(registry.algorithms.names())
    assert all(line.endswith("…") for line in lines if len(line) >= 60)
    assert max(map(len, lines)) == 60
    assert any(re.match(r"dann +alignment +DANN: ", line) for line in lines)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("list", "algorithm"), "'algorithm' is not a known shelf. Did you mean 'algorithms'? Known: algorithms, "),
        (("show", "algorithms", "erm"), "'algorithms' is not a known kind of component. Did you mean 'algorithm'?"),
        (("show", "algorithm", "vrx"), "'vrx' is not a known algorithm. Did you mean 'vrex'?"),
        (("show", "dataset", "pac"), "'pac' is not a known dataset. Did you mean 'pacs'?"),
        (("status", "nowhere"), "nowhere is not a folder of runs."),
        (("status", "."), "No runs under .. Name the runs_dir of a sweep"),
        (("table", ".", "--criterion", "orcle"), "'orcle' is not a known criterion. Did you mean 'oracle'?"),
        (("check", "mine.py"), "mine.py is no Python file. Name the file that holds your component, or a component."),
    ],
)
def test_what_a_user_can_cause_is_a_sentence_on_stderr(command, arguments, text):
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert text in err


def test_an_error_of_the_system_names_its_file(command, monkeypatch):
    def show(name):
        raise PermissionError(13, "Permission denied", "locked/[a].json")

    monkeypatch.setattr("dgbench.sheet.algorithm", show)
    code, _, err = command("show", "algorithm", "erm")
    assert (code, err) == (1, "Error: locked/[a].json: Permission denied\n")


def test_a_reader_that_has_seen_enough_is_no_error():
    process = f"{sys.executable} -m dgbench list algorithms | true"
    done = subprocess.run(process, shell=True, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""


def test_status_counts_what_is_there_and_says_what_failed(command, tmp_path):
    make_runs(tmp_path)
    make_run(tmp_path, status="failed", num_steps=7)
    for file in tmp_path.glob("*/run.json"):
        said = json.loads(file.read_text())
        file.write_text(json.dumps({**said, "label": "erm on toy, test [a]"}))
    code, out, _ = command("status", tmp_path)
    assert code == 0
    assert out.split()[:4] == ["complete", "18", "failed", "1"]
    assert "  erm on toy, test [a]: ValueError: no." in out


def test_a_piped_table_is_not_cut_at_80_columns(command, tmp_path):
    domains = [f"domain_number_{i}" for i in range(9)]
    for test in domains:
        make_run(tmp_path, [(0, make_scores(test, 0.25, domains=domains))], domains=domains, test=[test])
    _, out, _ = command("table", tmp_path, width=console.PIPED_WIDTH)
    (row,) = [line for line in out.splitlines() if line.lstrip().startswith("1 ")]
    assert row.split() == ["1", "erm", *["25.0"] * 10, "9/9"]
    assert row.split() in [line.split() for line in str(dgbench.table(tmp_path)).splitlines()]


def test_a_pipe_is_wide_and_a_terminal_as_it_is(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert console._console().width == console.PIPED_WIDTH
    monkeypatch.setenv("COLUMNS", "90")
    assert console._console().width == 90


def test_check_prints_findings_as_they_are_and_fails(command, tmp_path):
    (tmp_path / "mine.py").write_text(ALGORITHM)
    code, out, _ = command("check", tmp_path / "mine.py")
    assert code == 1
    assert out.startswith("algorithm mine")
    assert "no  loss" in out
    assert "expected test_domains=[rot0], got [red]this[/nonsense]" in out


def test_check_looks_for_data_where_it_is_told(command, monkeypatch):
    asked = []

    def check_file(path, data_dir):
        asked.append(str(data_dir))
        return []

    monkeypatch.setattr("dgbench.check.check_file", check_file)
    assert command("check", "x.py", "--data-dir", "/photos")[0] == 0
    monkeypatch.setenv("DGBENCH_DATA", "/elsewhere")
    command("check", "x.py")
    assert asked == ["/photos", "/elsewhere"]


@pytest.mark.parametrize(
    ("number", "before"), [(signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)]
)
def test_being_stopped_is_a_sentence_in_every_command(number, before, command, monkeypatch):
    signal.signal(number, before)  # a background shell starts its jobs with SIGINT ignored
    monkeypatch.setattr("dgbench.sheet.algorithm", lambda name: signal.raise_signal(number))
    assert command("show", "algorithm", "erm") == (130, "", "Stopped. The same command continues.\n")
    assert signal.getsignal(number) == before


def test_ctrl_c_stops_a_sweep_so_that_it_continues(tmp_path):
    runs = tmp_path / "out"
    arguments = ["-m", "dataset=digits_color", "test_domains=[0],[1]", f"runs_dir={runs}", "optim.batch_size=8"]
    arguments += ["protocol.num_steps=100000", "protocol.evaluate_every=10", "network.width=8"]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "dgbench", "train", *arguments], stderr=subprocess.PIPE, text=True
    )
    started = time.monotonic()
    while not list(runs.glob("*/checkpoints/resume.pt")) and time.monotonic() < started + 120:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.rstrip().endswith("Stopped. The same command continues.")
    assert "Traceback" not in err
    (record,) = [json.loads(file.read_text()) for file in runs.glob("*/run.json")]
    assert record["status"] == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_imports_nothing_heavy():
    probe = "import sys, dgbench.cli; print(*{'torch', 'polars', 'hydra', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "\n"
