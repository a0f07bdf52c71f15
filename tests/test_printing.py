"""What the command prints, it prints letter by letter: brackets are no markup and colons no pictures."""

import io

import pytest
from rich.console import Console

from dgbench import cli_results, console, sweeper, wandb_pull
from dgbench.finding import Finding
from tests.fabricate import make_run

NAMES = ("x [/b]", "erm [v2]", "mine [blue]", "at :warning:", r"so \[b]", "[", "\\")


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    """Colours and bars, wherever the tests run."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture(params=["plain", "terminal"])
def err(request, monkeypatch):
    """The console of `dgbench` for errors, as a file or as a terminal of colours."""
    if request.param == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
    made = console._console(stderr=True)
    made.file = io.StringIO()
    monkeypatch.setattr(console, "err", made)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_sentence_of_an_error_is_as_it_was_raised(name, err):
    def fail():
        raise ValueError(f"{name} is there, expected nothing.")

    assert console.sentences(fail) == 1
    start = "\x1b[31mError:\x1b[0m" if err.is_terminal else "Error:"
    assert err.file.getvalue() == f"{start} {name} is there, expected nothing.\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_console_prints_what_it_is_given(name, err):
    err.print(f"{name}.", highlight=False)
    assert err.file.getvalue() == f"{name}.\n"


def test_status_prints_labels_and_reasons_as_they_are(command, tmp_path):
    make_run(tmp_path, status="failed")
    (file,) = tmp_path.glob("*/run.json")
    text = file.read_text().replace('"status"', '"label": "x [/b]",\n "status"', 1)
    file.write_text(text.replace("ValueError: no.", "KeyError: [/red] and [v2]"))
    code, out, _ = command("status", tmp_path)
    assert (code, "  x [/b]: KeyError: [/red] and [v2]" in out.splitlines()) == (0, True)


def test_the_title_of_a_check_is_the_name(command, monkeypatch):
    finding = Finding("loss", True, "[/b]")
    monkeypatch.setattr("dgbench.check.check_file", lambda path, data_dir: [("algorithm", "mine[/b] [v2]", [finding])])
    code, out, _ = command("check", "x.py")
    assert (code, out.split()) == (0, ["algorithm", "mine[/b]", "[v2]", "ok", "loss", "[/b]"])


@pytest.mark.parametrize("name", NAMES)
def test_bars_have_the_labels_of_runs(name):
    file = io.StringIO()
    shown = Console(file=file, force_terminal=True, width=100, color_system=None)
    with sweeper.progress_bars(shown) as progress:
        progress.add_task(name, total=3)
        progress.refresh()
    assert f"{name} " in file.getvalue()


def test_the_project_that_is_read_is_shown_as_it_is(monkeypatch, capsys):
    file = io.StringIO()
    shown = Console(file=file, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(cli_results, "err", shown)

    def pull(project, where, progress):
        progress(1, 2)
        return "2 runs written."

    monkeypatch.setattr(wandb_pull, "pull", pull)
    cli_results.pull("me/[/b]", None)
    assert "Reading me/[/b]: 1 of 2 runs" in file.getvalue()
