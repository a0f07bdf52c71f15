"""The commands that make missing runs: of methods that are not known here, into the folder that was read, readable."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import dgbench
from dgbench import cli, composition, expansion
from dgbench.leaderboard.explain import explain
from dgbench.leaderboard.remaking import recorded
from dgbench.record import RunFolder
from tests import homemade
from tests.grids import make_grid

ASKED = ["algorithm=erm", "dataset=digits_color"]
WITH_PAIRS = "domain_cross_validation"


def overrides(text: str | None) -> dict[str, Any]:
    """What Hydra reads after a shell has read a command."""
    _, train, *asked = shlex.split(text or "")
    assert train == "train"
    parsed = composition.OverridesParser.create().parse_overrides([word for word in asked if word != "-m"])
    return {override.get_key_element(): override.value() for override in parsed}


def made_by(text: str | None) -> set[str]:
    """The folders of the runs that a command makes."""
    asked = [word for word in shlex.split(text or "")[2:] if word != "-m"]
    return {str(job.run.folder.path) for job in expansion.expand(asked)}


def change(path: Path, **config: Any) -> None:
    said = RunFolder(path).read() or {}
    RunFolder(path).write(config={**said["config"], **config})


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Runs of erm and of a plugin's method, each without one, in a process that does not know the plugin."""
    monkeypatch.setenv("DGBENCH_PLUGINS", "")
    plugin = homemade.write(tmp_path, {"my_risk.py": homemade.method()}) / "my_risk.py"
    asked = [f"plugins=[{plugin}]", "dataset=digits_color", "algorithm=erm,my_risk"]
    at = make_grid(tmp_path / "runs", "plus90", "plus80", "minus90", asked=asked)
    monkeypatch.setenv("DGBENCH_PLUGINS", "")
    plugin.write_text("raise RuntimeError('imported')\n")
    return at


def test_a_method_that_is_not_known_here_is_named_with_its_plugin(foreign: dict[str, Path], tmp_path: Path) -> None:
    gone = [path for label, path in foreign.items() if "plus80" in label]
    for path in gone:
        shutil.rmtree(path)
    made = explain(tmp_path / "runs")
    assert [overrides(gap.command)["algorithm"] for gap in made.gaps] == ["erm", "my_risk"]
    assert all(overrides(gap.command)["plugins"] == [str(tmp_path / "my_risk.py")] for gap in made.gaps)
    assert os.environ["DGBENCH_PLUGINS"] == "", "nothing was put into effect"
    homemade.write(tmp_path, {"my_risk.py": homemade.method()})
    assert set().union(*(made_by(gap.command) for gap in made.gaps)) == set(map(str, gone))


def test_without_a_plugin_the_need_is_said_once_and_the_rest_as_ever(
    foreign: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, path in foreign.items():
        if "plus80" in label:
            shutil.rmtree(path)
        else:
            change(path, plugins=[])
    needs = (
        "The algorithm 'my_risk' is not known here, and its runs name no plugin: the commands that make them need the "
        "one that holds it. Name that in DGBENCH_PLUGINS."
    )
    made = explain(tmp_path / "runs", WITH_PAIRS)
    known = [gap for gap in made.gaps if gap.method == "erm"]
    assert len(known) == len(made.gaps) / 2
    assert all(gap.command for gap in known)
    assert {(gap.command, gap.lacks) for gap in made.gaps if gap not in known} == {(None, needs)}
    assert str(made).count(needs) == 1
    assert f"test minus90+plus90, h0 t0. {needs}" in " ".join(str(dgbench.table(tmp_path / "runs", WITH_PAIRS)).split())
    monkeypatch.setattr(sys, "argv", ["dgbench", "table", str(tmp_path / "runs"), "--explain"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out, err = capsys.readouterr()
    assert (exit_.value.code or 0, err) == (0, "")
    assert needs in out


def test_a_preset_that_is_not_known_here_is_said(tmp_path: Path) -> None:
    at = make_grid(tmp_path, "plus90", "plus80", asked=ASKED)
    shutil.rmtree(at.popitem()[1])
    (path,) = at.values()
    change(path, protocol={"name": "of_tomorrow"})
    assert "'of_tomorrow' is not a known protocol" in (explain(tmp_path).gaps[0].lacks or "")


def test_commands_name_the_folder_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = make_grid(tmp_path / "there", "plus90", "plus80", asked=ASKED)
    gone = at.popitem()[1].name
    shutil.rmtree(tmp_path / "there" / gone)
    (left,) = [path.name for path in at.values()]
    (tmp_path / "there").rename(tmp_path / "here")
    # The last domain and the pairs: each made into this folder.
    texts = [gap.command for gap in explain(tmp_path / "here", WITH_PAIRS).gaps]
    assert str(tmp_path / "here" / gone) in set().union(*map(made_by, texts))
    assert {overrides(text)["runs_dir"] for text in texts} == {str(tmp_path / "here")}
    assert f"runs_dir={tmp_path / 'here'}" in " ".join(str(dgbench.table(tmp_path / "here", WITH_PAIRS)).split())
    for cwd, asked, expected in (
        (".", "here", "here"),
        (".", f"here/{left}", "here"),
        ("here", ".", "."),
        ("here", left, "."),
        (f"here/{left}", ".", ".."),
        (f"here/{left}", "..", ".."),
    ):
        monkeypatch.chdir(tmp_path / cwd)
        assert {overrides(gap.command)["runs_dir"] for gap in explain(asked).gaps} == {expected}, (cwd, asked)
    (tmp_path / "here").rename(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert "runs_dir" not in overrides(explain("runs").gaps[0].command), "as is usual"


def test_a_folder_above_is_not_its_own_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = make_grid(tmp_path, "plus90", asked=ASKED).values()
    monkeypatch.chdir(path / "checkpoints")
    said = recorded("..")
    assert said is not None
    assert Path(said["config"]["runs_dir"]).resolve() == tmp_path


def test_only_what_needs_quotes_has_them(tmp_path: Path) -> None:
    values = {"checkpoints": "none", "group": "a b", "label": "it's", "criteria": ["oracle", "last_step"]}
    written = [f"{key}={composition.literal(value)}" for key, value in values.items()]
    written += ["network.name=small_cnn", "optim.lr=0.002"]
    at = make_grid(tmp_path, "plus90", "plus80", "minus90", asked=[*ASKED, *written])
    (gone,) = [path for label, path in at.items() if "plus80" in label]
    shutil.rmtree(gone)
    (gap,) = explain(tmp_path).gaps
    assert gap.command is not None
    assert made_by(gap.command) == {str(gone)}
    read = overrides(gap.command)
    assert {key: read[key] for key in values} == values
    for word in (
        " checkpoints=none ",
        f" runs_dir={tmp_path} ",
        " network.name=small_cnn ",
        " optim.lr=0.002 ",
        " 'group=a b' ",
        " 'criteria=[oracle,last_step]' ",
        " test_domains=plus80 ",
    ):
        assert word in gap.command


BARE = ("none", "/a/b-c_d.py", "timm:resnet18.a1_in1k", "plus90", "a b", "a%b", "1e", "adamw")
QUOTED = ("null", "true", "3", "1e-5", "nan", "", " a", "it's", "a,b", "[a]", "range(3)", "choice(1)", "a=b", "~/x")


@pytest.mark.parametrize("text", [*BARE, *QUOTED])
def test_a_string_without_quotes_is_the_same(text: str) -> None:
    for value in (text, [text], [text, 1, None, True]):
        (override,) = composition.OverridesParser.create().parse_overrides([f"key={composition.bare(value)}"])
        assert not override.is_sweep_override()
        # JSON tells 1 from True.
        assert json.dumps(override.value()) == json.dumps(value)
    assert (composition.bare(text) == text) == (text in BARE)
