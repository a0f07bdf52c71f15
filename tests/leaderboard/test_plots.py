"""Pictures: every kind through the command, files, what is refused, and whether hard inputs stay readable."""

import math
import random
import struct
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from dgbench import cli
from dgbench.leaderboard.plots import KINDS, Request, plot, write
from dgbench.leaderboard.plots._style import Picture
from dgbench.registry import UnknownName
from tests.fabricate import make_run, make_runs, make_scores
from tests.pictures import check_readable, make_adaptation

DOMAINS = ("a", "b_with_a_long_name", "photographs_of_paintings", "d")
TRAINED = [kind for kind in KINDS if kind != "adaptation"]


def make_sweep(folder, methods, trials, *, skip=(), nan=(), scale=1.0, domains=DOMAINS, **columns):
    """Runs of several steps on two datasets, with noise; seconds are those that `make_run` writes."""
    noise = random.Random(0)
    for dataset in ("toy", "a_dataset_with_a_long_name"):
        for place, method in enumerate(methods):
            for trial in range(trials):
                for domain in domains:
                    if (method, domain) in skip:
                        continue
                    values = [scale * (0.3 + 0.1 * i + 0.005 * place + noise.gauss(0, 0.02)) for i in range(4)]
                    values = [math.nan if (method, domain) in nan else value for value in values]
                    lines = [
                        (50 * i, make_scores(domain, value, value + scale * noise.gauss(0, 0.02), domains))
                        for i, value in enumerate(values)
                    ]
                    own = {"algorithm": method, "trial_seed": trial, "dataset": dataset, **columns}
                    make_run(folder, lines, domains=domains, test=[domain], **own)
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return make_sweep(tmp_path_factory.mktemp("sweep"), ("erm", "vrex", "coral"), 3)


@pytest.fixture(scope="module")
def adaptations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptations")
    for trial in range(2):
        for place, adapter in enumerate(("source", "tent", "t3a")):
            blocks = [(name, [4] * 6, [min(4, place + trial + i // 2) for i in range(6)]) for name in "ab"]
            make_adaptation(folder, adapter, trial, blocks)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_command_writes_both_formats(kind, sweep, adaptations, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = adaptations if kind == "adaptation" else sweep
    said = CliRunner().invoke(cli.app, ["plot", kind, str(runs)], catch_exceptions=False)
    assert said.exit_code == 0
    assert f"{kind}.svg and {kind}.png" in said.output
    svg = (tmp_path / f"{kind}.svg").read_text("utf-8")
    title = said.output.split(f": {kind}.svg")[0].splitlines()[-1].strip()
    assert f"<title>{title}</title>" in svg
    assert "<text" in svg, "letters are outlines"
    assert "<dc:date>" not in svg
    with Image.open(tmp_path / f"{kind}.png") as image:
        assert image.width in (round(300 * 3.4), (300 * 7))
        assert image.info["Title"] == title
    check_readable(plot(kind, Request(runs=runs)))


def test_one_file_where_it_is_wanted(sweep, tmp_path):
    command = ["plot", "cost", str(sweep), "--against", "memory", "--dataset", "toy", "--method", "vrex"]
    out = tmp_path / "new/mine.png"
    said = CliRunner().invoke(cli.app, [*command, "--baseline", "coral", "--out", str(out)], catch_exceptions=False)
    assert said.exit_code == 0
    assert [file.name for file in out.parent.iterdir()] == ["mine.png"]
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", out.read_bytes()[16:20]) == (1020,)


def test_help_lists_the_kinds():
    said = CliRunner().invoke(cli.app, ["plot", "--help"], catch_exceptions=False).output
    assert [kind for kind in KINDS if kind not in said] == []


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_the_same_again(kind, sweep, adaptations, tmp_path):
    request = Request(runs=adaptations if kind == "adaptation" else sweep)
    first = plot(kind, request)
    # In another order, and a second time from one figure.
    write(first, [tmp_path / "a.png", tmp_path / "a.svg", tmp_path / "b.svg"])
    write(plot(kind, request), [tmp_path / "c.svg", tmp_path / "c.png"])
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert files["a.svg"] == files["b.svg"] == files["c.svg"]
    assert files["a.png"] == files["c.png"]


MANY = ["erm", *(f"method_{place:02d}" for place in range(39))]
LONG = ["erm", *(f"a_method_with_quite_a_long_name_{place}" for place in range(5))]
HARD: dict[str, tuple[list[str], int, dict[str, Any]]] = {
    "many methods, one trial": (MANY, 1, {}),
    "long names, two trials": (LONG, 2, {}),
    "one method": (["erm"], 3, {}),
    "lower is better, in thousands": (["erm", "vrex", "coral"], 2, {"score": "rmse", "scale": 50_000.0}),
    "negative": (["erm", "vrex", "coral"], 2, {"score": "r2", "scale": -3.0}),
    "holes": (["erm", "vrex", "coral", "sd"], 2, {"skip": {("vrex", "a")}, "nan": {("sd", "d")}}),
}


@pytest.mark.parametrize("case", HARD)
def test_hard_inputs_stay_readable(case, tmp_path):
    methods, trials, options = HARD[case]
    make_sweep(tmp_path, methods, trials, **options)
    for kind in TRAINED:
        if kind == "ranks" and len(methods) == 1:
            with pytest.raises(ValueError, match="1 of 1 methods have numbers on all 2 datasets, expected at least 2"):
                plot(kind, Request(runs=tmp_path))
            continue
        check_readable(plot(kind, Request(runs=tmp_path)))


def test_refused(sweep, adaptations, tmp_path):
    def refused(kind, error, text, runs=sweep, **options):
        with pytest.raises(error, match=text):
            plot(kind, Request(runs=runs, **options))

    refused("rank", UnknownName, "'rank' is not a known kind of picture. Did you mean 'ranks'")
    refused("steps", ValueError, "against=memory is no option of steps, which has criterion, metric", against="memory")
    refused("cost", UnknownName, "'time' is not a known cost", against="time")
    refused("steps", UnknownName, "'best' is not a known criterion", criterion="best")
    refused("steps", UnknownName, "'acc' is not a known metric of", metric="acc")
    refused("steps", UnknownName, "'emr' is not a known method of these runs. Did you mean 'erm'", method=("emr",))
    refused("steps", UnknownName, "'emr' is not a known method .baseline.", baseline="emr")
    refused("steps", UnknownName, "'toys' is not a known dataset of these runs", dataset=("toys",))
    refused("ranks", ValueError, "1 dataset .toy., expected at least 2: ranks are compared over", dataset=("toy",))
    refused("selection", ValueError, "last_step compares no scores, expected one that does", criterion="last_step")
    refused("adaptation", ValueError, "holds no complete adaptation with the errors of each batch")
    refused("adaptation", UnknownName, "'tnt' is not a known adapter", runs=adaptations, method=("tnt",))
    refused(
        "adaptation", UnknownName, "'pacs' is not a known dataset of these adap", runs=adaptations, dataset=("pacs",)
    )
    refused("steps", ValueError, "No runs under .* Name the runs_dir of a sweep", runs=tmp_path)
    refused("steps", ValueError, r"no trained runs\. .* dgbench plot adaptation draws them\.$", runs=adaptations)
    with pytest.raises(ValueError, match=r"x\.pdf ends in \.pdf, expected \.svg or \.png"):
        plot("steps", Request(runs=sweep), [tmp_path / "x.pdf"])
    with pytest.raises(ValueError, match="x ends in nothing, expected"):
        write(plot("domains", Request(runs=sweep)), [tmp_path / "x"])
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_draw(tmp_path):
    make_runs(tmp_path, status="failed")
    for kind, text in {
        "domains": "is finished and was evaluated on what train_validation chooses by",
        "steps": "is finished and was evaluated on what train_validation chooses by",
        "selection": "No finished run under",
        "cost": "No method under .* has a whole trial with seconds",
    }.items():
        with pytest.raises(ValueError, match=text):
            plot(kind, Request(runs=tmp_path))


def test_two_tables_of_a_dataset_are_no_two_datasets(tmp_path):
    make_runs(tmp_path)
    make_runs(tmp_path, network="small_cnn", network_key="network1")
    with pytest.raises(
        ValueError, match=r"Several tables of one dataset \(toy, mlp; toy, small_cnn\), expected one of each"
    ):
        plot("ranks", Request(runs=tmp_path))


@pytest.mark.parametrize("kind", ["steps", "selection", "cost"])
def test_too_many_panels(kind, tmp_path):
    for place in range(25):
        make_run(tmp_path, [(0, make_scores("a", 0.5))], dataset=f"toy{place}", designated_domains="a")
    with pytest.raises(ValueError, match="25 panels, expected at most 24"):
        plot(kind, Request(runs=tmp_path))


def test_taller_than_a_page_is_said():
    (said,) = Picture("A title", [], 7, 12).warnings
    assert said == "It is 12.3 inches high, more than a page: --dataset and --method draw less."
    assert Picture("A title", [], 7, 8).warnings == ()
