"""Which runs `test_domains` and `criteria` ask for, and which tables these fill."""

from __future__ import annotations

import pytest

import dgbench
from dgbench import composition, config, expansion, record, runner
from dgbench.cells import coverage, with_cells
from dgbench.registry import UnknownName
from tests.fabricate import make_run, make_scores

FEW = ["protocol.num_steps=2", "protocol.evaluate_every=1", "optim.batch_size=4", "network.width=4"]


def roles(*arguments):
    """Training and test domains of the runs that are asked for."""
    jobs = expansion.expand(["dataset=digits_color", *arguments])
    return {("+".join(job.run.domains.train), "+".join(job.run.domains.test)) for job in jobs}


SINGLES = {("plus80+minus90", "plus90"), ("plus90+minus90", "plus80"), ("plus90+plus80", "minus90")}
PAIRS = {("minus90", "plus90+plus80"), ("plus80", "plus90+minus90"), ("plus90", "plus80+minus90")}


def test_pairs_leave_two_domains_out_and_each_train_trains_on_one():
    assert roles("test_domains=pairs") == PAIRS
    assert roles("test_domains=each_train") == PAIRS  # of three domains
    assert roles("test_domains=each,pairs") == SINGLES | PAIRS
    jobs = expansion.expand(["dataset=digits_rot", "test_domains=each_train"])
    assert [(len(job.run.domains.train), len(job.run.domains.test)) for job in jobs] == [(1, 5)] * 6


def test_criteria_decide_which_runs_there_are():
    assert roles("test_domains=each", "criteria=[domain_cross_validation]") == SINGLES | PAIRS
    assert roles("test_domains=each", "criteria=[oracle,train_validation]") == SINGLES
    assert roles("test_domains=[plus90]", "criteria=[domain_cross_validation]") == {("plus80+minus90", "plus90")}
    with pytest.raises(ValueError, match=r"pairs serves domain_cross_validation, which criteria=\[oracle\] leaves out"):
        roles("test_domains=pairs", "criteria=[oracle]")
    with pytest.raises(UnknownName, match="'orcle' is not a known criterion"):
        roles("criteria=[orcle]")
    with pytest.raises(ValueError, match="criteria='oracle': input should be a valid list"):
        roles("criteria=oracle")


def test_cross_validation_needs_three_domains():
    with pytest.raises(ValueError, match="needs at least 3 domains, got sunny, rainy"):
        expansion.check_pairs(["domain_cross_validation"], ["sunny", "rainy"], "weather")


def test_a_worker_gets_the_training_domains_too():
    for job in expansion.expand(["dataset=digits_rot", "test_domains=each_train"]):
        assert config.resolve(composition.compose(job.overrides)).run_id == job.run.run_id


def test_each_train_names_the_training_domains_itself():
    with pytest.raises(ValueError, match=r"each_train trains on one .* but train_domains=\['plus90'\] names them"):
        roles("test_domains=each_train", "train_domains=[plus90]")


@pytest.mark.parametrize(("wanted", "number"), [("each", 3), ("pairs", 3), ("each_train", 3)])
def test_several_runs_need_multirun(wanted, number):
    with pytest.raises(ValueError, match=rf"test_domains={wanted} asks for {number} runs\. Add -m, or name one: "):
        config.resolve(composition.compose(["dataset=digits_color", f"test_domains={wanted}"]))


def test_designated_domains_are_one_run_of_each():
    run = config.resolve(composition.compose(["dataset=iut_2", "network.depth=0"]))
    assert run.domains.train == run.domains.test == ("e0", "e1", "e2")
    assert run.protocol.splits == "official"
    (job,) = expansion.expand(["dataset=dg_15", "test_domains=each"])
    assert (len(job.run.domains.train), len(job.run.domains.test)) == (6, 9)
    named = config.resolve(composition.compose(["dataset=dg_15", "test_domains=[d0,d1]"]))
    assert named.domains.train == ("d3", "d4", "d8", "d12", "d14")


def test_official_splits_have_to_be_declared():
    with pytest.raises(ValueError, match="but DigitsColor declares no splits"):
        config.resolve(composition.compose(["dataset=digits_color", "test_domains=[0]", "protocol.splits=official"]))


def test_single_source_runs_fill_a_table_for_each_source_and_one_over_them(tmp_path):
    for source, values in {"a": (0.5, 0.7), "b": (0.2, 0.4), "c": (0.9, 0.1)}.items():
        targets = [name for name in "abc" if name != source]
        scores = {f"out/{source}": 0.5, **{f"in/{name}": v for name, v in zip(targets, values, strict=True)}}
        make_run(tmp_path, [(0, scores)], test=targets, train=[source])
    made = dgbench.table(tmp_path)
    assert [sheet.columns for sheet in made.sheets[:3]] == [
        ("b", "c", "Average"),
        ("a", "c", "Average"),
        ("a", "b", "Average"),
    ]
    assert made.sheets[3].columns == ("a", "b", "c", "Average")
    assert [round(cell.mean or 0, 3) for cell in made.sheets[3].lines[0].cells] == [0.6, 0.3, 0.5, 0.467]
    assert "trained on one domain, tested on all the others" in str(made)


def test_pairs_are_no_single_sources_where_others_leave_one_out(tmp_path):
    make_run(tmp_path, [(0, {"out/a": 0.5, "in/b": 0.5, "in/c": 0.5})], test=["b", "c"])
    assert with_cells(record.runs(tmp_path))["trained_on"].to_list() == ["a", "a"]
    make_run(tmp_path, [(0, make_scores("a", 0.5))])
    assert with_cells(record.runs(tmp_path))["trained_on"].to_list() == ["all other domains"]
    assert coverage(record.runs(tmp_path))["test_domain"].to_list() == ["a", "b", "c"]


def test_only_designated_domains_are_missed(tmp_path):
    make_run(tmp_path, [(0, make_scores("a", 0.5))], designated_domains="a")
    assert coverage(record.runs(tmp_path))["test_domain"].to_list() == ["a"]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["algorithm=vrex", "protocol.sampling=pooled"],
            "vrex needs one row of the batch per training domain; use protocol.sampling=balanced",
        ),
        (
            ["algorithm=vrex", "protocol.sampling=merged"],
            "vrex needs one row of the batch per training domain; use protocol.sampling=balanced",
        ),
        (
            ["algorithm=coral", "protocol.sampling=domains:1"],
            "coral needs at least 2 training domains in a batch, but protocol.sampling=domains:1. Take more",
        ),
    ],
)
def test_sampling_that_a_method_cannot_use_fails_the_run_with_a_sentence(overrides, text, tmp_path):
    arguments = ["dataset=digits_color", "test_domains=[0]", f"runs_dir={tmp_path}", *FEW, *overrides]
    outcome = runner.execute(config.resolve(composition.compose(arguments)))
    assert outcome.status == "failed"
    assert text in str(outcome.reason)


@pytest.mark.parametrize("sampling", ["pooled", "merged", "domains:1"])
def test_other_samplings_train(sampling, tmp_path):
    arguments = ["dataset=digits_color", "test_domains=[0]", f"runs_dir={tmp_path}", *FEW]
    run = config.resolve(composition.compose([*arguments, f"protocol.sampling={sampling}", "optim.batch_size=7"]))
    assert runner.execute(run).status == "complete"
