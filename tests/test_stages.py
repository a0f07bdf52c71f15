"""The file of an experiment: what is wrong with one is a sentence, lists and sheets read it alone."""

import subprocess
import sys

import pytest

from dgbench import stages
from dgbench.registry import UnknownName

GOOD = "summary: Nothing much.\nstages:\n  - train: [test_domains=0]  # one run\n"


@pytest.fixture
def write(tmp_path):
    """Write an experiment's file; returns its name for the command."""

    def write_(text):
        (tmp_path / "mine.yaml").write_text(text)
        return "mine.yaml"

    return write_


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "summary: x\nstages:\n  - trian: [a=1]",
            "mine.yaml: stages.0.trian: 'trian' is not a known key. Did you mean 'train'",
        ),
        ("sumary: x\nstages: []", "mine.yaml: sumary: 'sumary' is not a known key. Did you mean 'summary'"),
        (
            "summary: x\nstages:\n  - table: {criterio: a}",
            "mine.yaml: stages.0.table.criterio: 'criterio' is not a known",
        ),
        ("summary: x", "mine.yaml: stages: Field required."),
        ("summary: x\nstages:\n  - compare: {}", "mine.yaml: stages.0.compare.baseline: Field required."),
        ("summary: x\nstages:\n  - train: [{a: 1}]", "mine.yaml: stages.0.train.0: Input should be a valid string."),
        (
            "summary: x\nstages:\n  - {}",
            "mine.yaml: stages.0: a stage says none of train, adapt, table, compare, exp",
        ),
        (
            "summary: x\nstages:\n  - {train: [], table: {}}",
            "a stage says train and table of train, adapt, table, com",
        ),
        (
            "summary: x\nstages:\n  - {per_algorithm: {erm: []}, table: {}}",
            "per_algorithm belongs to a stage that trains",
        ),
        ("summary: [", "mine.yaml: while parsing"),
        ("- a", "mine.yaml: Input should be a valid dictionary"),
        ("summary: x\nstages:\n  - train: [optim.lrr=1]", "mine.yaml, stage 1 (train): 'optim.lrr' is not a known key"),
        ("summary: x\nstages:\n  - train: [dataset=pac]", "mine.yaml, stage 1 (train): 'pac' is not a known dataset"),
        (
            "summary: x\nstages:\n  - train: []\n    per_algorithm: {emr: []}",
            "'emr' is not a known algorithm. Did you mean",
        ),
        (
            "summary: x\nstages:\n  - train: [algorithm=erm]\n    per_algorithm: {erm: []}",
            "mine.yaml, stage 1 (train): algorithm=... does not go with per_algorithm, which names erm. Leave one",
        ),
        ("summary: x\nstages:\n  - table: {criterion: best}", "stage 1 (table): 'best' is not a known criterion"),
        ("summary: x\nstages:\n  - table: {format: html}", "stage 1 (table): 'html' is not a known format"),
        (
            "summary: x\nstages:\n  - table: {protocol: domainbed}",
            "stage 1 (table): 'domainbed' is not a known protocol",
        ),
        (
            "summary: x\nstages:\n  - train: [test_domains=0]\n  - compare: {baseline: emr}",
            "mine.yaml, stage 2 (compare): 'emr' is not a known baseline. Did you mean 'erm'",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_a_sentence_with_its_name(command, write, text, said):
    code, out, err = command("experiment", write(text))
    assert (code, out) == (1, "")
    assert err.startswith("Error: mine.yaml")
    assert said in err


def test_an_experiment_that_is_not_there_is_a_sentence():
    with pytest.raises(
        UnknownName, match=r"'negative_contrl' is not a known experiment\. Did you mean 'negative_control'"
    ):
        stages.find("negative_contrl")
    with pytest.raises(FileNotFoundError, match=r"gone.yaml is no file. Name an experiment's file, or one of: airfoil"):
        stages.find("gone.yaml")


def test_list_and_show_read_the_files_alone(command, write):
    code = "import sys; sys.argv[1:] = ['list', 'experiments']; from dgbench import cli; import atexit; "
    code += "atexit.register(lambda: print([m for m in ('torch', 'polars') if m in sys.modules])); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, heavy = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == stages.names()
    assert heavy == "[]"
    _, out, _ = command("show", "experiment", "negative_control")
    assert "configs/experiment/negative_control.yaml" in out.splitlines()[1]
    assert "# cdann needs classes." in out
    (_, out, _) = command("show", "experiment", write(GOOD))
    assert out.splitlines()[1] == "mine.yaml"
    assert stages.summary(stages.find(write("- a"))).startswith("no experiment: mine.yaml: Input should be")
