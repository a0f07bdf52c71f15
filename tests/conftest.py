from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

# Tensors here are small: on shared cores, several threads are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing of the user's own surroundings takes part, and nothing is sent or fetched.
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1")
os.environ.pop("DGBENCH_PLUGINS", None)
# Output is as wide as in a pipe, also in the workers of pytest-xdist, which set this.
os.environ.pop("COLUMNS", None)

import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))


# Files of few long tests: the longest last would leave all processes but one idle.
FIRST = ("test_readme.py", "test_wandb_failures.py", "test_packaging.py", "test_page_in_browser.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where real data lie. A test that asks for it skips without DGBENCH_DATA, and must not skip with it."""
    if not os.environ.get("DGBENCH_DATA"):
        pytest.skip("DGBENCH_DATA is not set")
    path = Path(os.environ["DGBENCH_DATA"])
    if not path.is_dir():
        pytest.fail(f"DGBENCH_DATA={path} is not a folder. Unset it, or set it to the folder of the data.")
    return path.absolute()


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in a folder of its own, so that none writes into the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """Run `dgbench` in this process: exit code, stdout, stderr."""
    from rich.console import Console

    from dgbench import cli, console

    def run(*arguments: object, width: int = 200) -> tuple[Any, str, str]:
        for module in (cli, console):
            monkeypatch.setattr(module, "out", Console(width=width))
            monkeypatch.setattr(module, "err", Console(width=width, stderr=True))
        monkeypatch.setattr(sys, "argv", ["dgbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, *capsys.readouterr()

    return run


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a data test that skips although DGBENCH_DATA says where the data are."""
    report = yield
    if os.environ.get("DGBENCH_DATA") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "data_dir" in item.fixturenames or "DGBENCH_DATA" in reason:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid} skipped ({reason.removeprefix('Skipped: ')}) although DGBENCH_DATA="
                f"{os.environ['DGBENCH_DATA']} is set. Complete the data there, or unset it."
            )
    return report
