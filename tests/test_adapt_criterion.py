"""Which weights of a trained run are adapted: those that the stated criterion chooses."""

import json
import shutil

import pytest

import dgbench
from dgbench import adapt_runner
from dgbench.adaptation import expand
from dgbench.leaderboard.adaptation import adaptations
from dgbench.record import RunFolder, runs
from dgbench.registry import UnknownName
from tests import adapted

STEPS = (0, 5, 10, 15, 19)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that kept the weights of all its evaluations."""
    protocol = {"num_steps": 20, "evaluate_every": 5}
    return adapted.train(tmp_path_factory.mktemp("runs"), protocol=protocol, checkpoints="all")


@pytest.fixture
def trained(made, tmp_path):
    """The same with other scores: step 5 is the best on training domains, step 10 on the test domain."""
    folder = RunFolder(shutil.copytree(made, tmp_path / "runs" / made.name))
    lines = folder.lines()
    assert tuple(line["step"] for line in lines) == STEPS
    for line, train, test in zip(lines, (0.1, 0.9, 0.5, 0.4, 0.3), (0.2, 0.1, 0.8, 0.2, 0.3), strict=True):
        for name, score in (("plus80", train), ("minus90", train), ("plus90", test)):
            line["values"][f"out/{name}/accuracy"] = score
    folder.lines_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(runs(folder.path.parent)) == 1
    return folder


@pytest.mark.parametrize(
    ("keys", "step"),
    [
        ([], 5),
        (["criterion=train_validation"], 5),
        (["criterion=oracle_best"], 10),
        (["criterion=oracle"], 19),
        (["criterion=last_step"], 19),
        (["step=15"], 15),
    ],
)
def test_the_criterion_chooses_the_weights(trained, tmp_path, keys, step):
    keys = [f"runs={trained.path}", f"runs_dir={tmp_path / 'out'}", "source_after=false", "batch_size=64", *keys]
    (adaptation,) = expand(keys)
    outcome = adapt_runner.execute(adaptation)
    assert outcome.status == "complete", outcome.reason
    (expected,) = [line["values"] for line in trained.lines() if line["step"] == step]
    values = adaptation.folder.lines()[0]["values"]
    assert values["stream/plus90/nll"] == pytest.approx(expected["in/plus90/nll"], rel=1e-5)
    others = [line["values"]["in/plus90/nll"] for line in trained.lines() if line["step"] != step]
    assert values["stream/plus90/nll"] not in [pytest.approx(nll, rel=1e-5) for nll in others]


def test_tables_keep_criteria_apart_and_name_them(trained, tmp_path):
    report = dgbench.adapt(
        runs=trained.path,
        runs_dir=str(tmp_path / "out"),
        adapter="source",
        criterion=["train_validation", "oracle_best"],
        examples=8,
    )
    assert report.counts == {"complete": 2}
    sheets = adaptations(tmp_path / "out").sheets
    assert len(sheets) == 2
    assert [sheet.subtitle.count(", weights by oracle_best;") for sheet in sheets] == [1, 0]


def test_weights_that_the_criterion_does_not_choose_alone_or_that_are_gone_are_a_sentence(trained, tmp_path):
    trained.weights_file(10).unlink()
    with pytest.raises(FileNotFoundError, match=r"keeps no weights of step 10 .*Run it again with checkpoints=all"):
        dgbench.load(trained.path, criterion="oracle_best")
    with pytest.raises(ValueError, match=r"^criterion=domain_cross_validation chooses no step of the run .*\. Name"):
        dgbench.load(trained.path, criterion="domain_cross_validation")
    several = adapted.train(
        tmp_path / "several",
        test_domains=["plus80", "plus90"],
        protocol={"num_steps": 2, "evaluate_every": 1},
        checkpoints="all",
    )
    folder = RunFolder(several)
    lines = folder.lines()
    for line in lines:
        line["values"]["out/plus80/accuracy"] = float(line["step"] == 0)
        line["values"]["out/plus90/accuracy"] = float(line["step"] == 1)
    folder.lines_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"oracle_best chooses 0 for plus80, 1 for plus90 of the run .* one step\."):
        dgbench.load(several, criterion="oracle_best")
    for skip in (True, False):
        report = dgbench.adapt(runs=several, runs_dir="out", criterion="oracle_best", skip_refused=skip)
        assert report.counts == {"failed": 1}
        assert "oracle_best chooses 0 for plus80, 1 for plus90" in report.failures[0][1]
    with pytest.raises(UnknownName, match=r"'oracel' is not a known criterion\. Did you mean 'oracle'"):
        dgbench.load(several, criterion="oracel")


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        (["criterion=oracel"], UnknownName, "'oracel' is not a known criterion. Did you mean 'oracle'"),
        (
            ["criterion=oracle", "step=4"],
            ValueError,
            "^step=4 and criterion=oracle both choose weights. Leave out",
        ),
        (
            ["criterion=domain_cross_validation"],
            ValueError,
            "^criterion=domain_cross_validation compares runs that leave out two domains, and an adaptation has one",
        ),
    ],
)
def test_criteria_that_do_not_fit_are_a_sentence(trained, keys, error, said):
    with pytest.raises(error, match=said):
        expand([f"runs={trained.path}", *keys])
