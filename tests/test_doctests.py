"""Examples in docstrings run, imported by name: `--doctest-modules` would import the shelves twice."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("dgbench", "algorithms", "datasets", "leaderboard")


def _names():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
            if "hydra_sweeper" not in parts and parts[-1] != "__main__":
                yield ".".join(["dgbench", *parts[parts[0] == "dgbench" :]])


NAMES = list(_names())


def test_examples_in_docstrings_run():
    attempted = 0
    for name in NAMES:
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, name
        attempted += result.attempted
    assert attempted > 5


@pytest.mark.parametrize("module", ["dgbench.hparams", "dgbench.algorithms.flatness._perturbation"])
def test_modules_of_harness_and_shelves_are_among_them(module):
    assert module in NAMES
