"""With DGBENCH_DATA set, no test gets away with skipping for lack of data."""

from pathlib import Path

import pytest

pytest_plugins = ("pytester",)

SUITE = """
import os
import pathlib

import pytest
import torch


def test_skips_itself(data_dir):
    pytest.skip("no photographs")


@pytest.mark.skipif(True, reason="never")
def test_is_marked(data_dir):
    pass


def test_names_the_variable():
    pytest.skip("DGBENCH_DATA lacks uci")


@pytest.mark.xfail
def test_is_expected_to_fail(data_dir):
    assert not data_dir


def test_needs_no_data():
    pytest.skip("no such platform")


def test_reads(data_dir):
    assert data_dir.is_absolute()


def test_writes():
    pathlib.Path("here").touch()
    assert torch.get_num_threads() == 1
    assert "DGBENCH_PLUGINS" not in os.environ
"""


@pytest.fixture
def said(pytester, monkeypatch):
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text("utf-8"))
    pytester.makepyfile(test_data=SUITE)
    monkeypatch.setenv("DGBENCH_PLUGINS", "mine")

    def run(data):
        monkeypatch.setenv("DGBENCH_DATA", str(data))
        return pytester.runpytest("-rA", "-p", "no:cacheprovider").stdout.str()

    return run


def test_skips_pass_without_data(said, pytester):
    assert "= 1 passed, 6 skipped" in said("")
    assert not (pytester.path / "here").exists()


def test_skips_fail_with_data(said, tmp_path):
    text = said(tmp_path)
    assert "= 2 failed, 2 passed, 1 skipped, 1 xfailed, 1 error" in text
    for name, reason in {
        "skips_itself": "no photographs",
        "is_marked": "never",
        "names_the_variable": "DGBENCH_DATA lacks uci",
    }.items():
        assert f"test_data.py::test_{name} skipped ({reason}) although DGBENCH_DATA={tmp_path} is set" in text


def test_missing_folder_fails(said, tmp_path):
    assert f"DGBENCH_DATA={tmp_path}/none is not a folder. Unset it" in said(tmp_path / "none")
