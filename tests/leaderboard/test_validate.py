"""Every rejection of what stands in the file itself: form, names, data, settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgbench.leaderboard.names import skeleton
from dgbench.leaderboard.validate import validate
from dgbench.registry import algorithms
from tests.leaderboard.submitted_runs import drop, judge, put, refused

ROW = ("method", "label")
DATA = ("datasets", 0)
OPTIONS = "$.datasets[0].protocol: some options are missing or of another type, expected all, resolved."
FORM = {
    "missing field": (drop("method", "summary"), "$.method.summary: is missing, expected a value."),
    "unknown field": (put("html", to="x"), "$.html: got a field of that name, expected none."),
    "number as text": (
        put("results", 0, "trial_seed", to="0"),
        "$.results[0].trial_seed: got '0', expected a valid int",
    ),
    "true as number": (put("results", 0, "step", to=True), "$.results[0].step: got true, expected a valid integer."),
    "negative count": (put("results", 0, "n", to=-1), "$.results[0].n: got -1, expected greater than or equal to 0."),
    "schema of the future": (put("schema_version", to="2.0"), "$.schema_version: got '2.0', expected '1.0'."),
    "no data": (put("datasets", to=[]), "$.datasets: got a list of 0, expected"),
    "no object": (put("method", to=[1]), "$.method: got a list of 1, expected"),
    "control character": (
        put("method", "summary", to="a\x1b[2Jb"),
        "$.method.summary: got 'a\\x1b[2Jb', expected one line",
    ),
    "right to left": (put("method", "summary", to="a\u202eb"), "$.method.summary: got 'a\\u202eb', expected one line"),
    "script tag": (
        put("method", "summary", to="<script>alert(1)</script>"),
        "$.method.summary: got '<script>alert(1)</script>', expected one line of at most 300 printable characters "
        "without < and >. Give another by --summary.",
    ),
    "markup in a name": (put(*ROW, to="<b>erm</b>"), "$.method.label: got '<b>erm</b>', expected a name"),
    "script in a link": (
        put("method", "paper", to="javascript:alert(1)"),
        "$.method.paper: got 'javascript:alert(1)',",
    ),
    "quote in a link": (
        put("method", "code", to='https://a.org/"x'),
        "$.method.code: got 'https://a.org/\"x', expected",
    ),
    "contact": (put("contact", to="nobody"), "$.contact: got 'nobody', expected an e-mail address or an https address"),
    "path traversal": (put("method", "name", to="../../etc/passwd"), "$.method.name: got '../../etc/passwd', expected"),
    "path in a dataset": (put(*DATA, "name", to="../x"), "$.datasets[0].name: got '../x', expected a name of a-z"),
    "homoglyph": (put("method", "name", to="\u0435rm"), "$.method.name: got '\\u0435rm', expected letters a-z and A-Z"),
    "full width": (put("method", "name", to="\uff45rm"), "$.method.name: got '\\uff45rm', expected letters"),
    "zero width": (put("method", "name", to="e\u200brm"), "$.method.name: got 'e\\u200brm', expected letters"),
    "name of a field": (
        put(*DATA, "options", to={"<i>": 1}),
        "$.datasets[0].options['<i>']: got the name '<i>', expected",
    ),
    "deep hyper-parameter": (
        put("hparams", 0, "algorithm", to={"a": {}}),
        "algorithm.a: got an object of 0, expected true",
    ),
    "infinity in words": (
        put("hparams", 0, "optim", "lr", to="<inf>"),
        "$.hparams[0].optim.lr: got '<inf>', expected true",
    ),
    "a day that is not": (
        put("created", to="2024-02-30T00:00:00Z"),
        "$.created: got '2024-02-30T00:00:00Z', expected a day",
    ),
    "a time of its own": (put("created", to="yesterday"), "$.created: got 'yesterday', expected a time in UTC such as"),
    "the future": (
        put("created", to="2999-01-01T00:00:00Z"),
        "$.created: got 2999-01-01T00:00:00Z, expected a time from",
    ),
    "the past": (
        put("created", to="2019-12-31T23:59:59Z"),
        "$.created: got 2019-12-31T23:59:59Z, expected a time from",
    ),
}
MEANING = {
    "another name": (put("method", "name", to="ERM2"), "$.method.name: got 'ERM2', expected 'erm', the row's name."),
    "another's name": (
        put(*ROW, to="V-REx"),
        "$.method.label: got 'V-REx', which can be taken for the algorithm vrex,",
    ),
    "almost another's name": (
        put(*ROW, to="mlxup"),
        "$.method.label: got 'mlxup', which can be taken for the algorithm mix",
    ),
    "unknown algorithm": (
        put("method", "algorithm", to="erm9"),
        "$.method.algorithm: got 'erm9', expected an algorithm of",
    ),
    "algorithm of the future": (put("method", "version", to=99), "$.method.version: got 99, expected at most 1,"),
    "unknown average": (put("method", "averaging", to="swat"), "$.method.averaging: 'swat'"),
    "unknown dataset": (
        put(*DATA, "name", to="digits_colour"),
        "$.datasets[0].name: 'digits_colour' is not a known dataset.",
    ),
    "data of the reader": (
        put(*DATA, "name", to="csv"),
        "$.datasets[0].name: got csv, whose domains are the reader's own, expected data that others have too. "
        "Contribute them as a dataset of their own first.",
    ),
    "dataset twice": (
        put("datasets", 1, "name", to="digits_color"),
        "$.datasets[1].name: got digits_color twice, expected",
    ),
    "other version of data": (
        put(*DATA, "version", to=7),
        "$.datasets[0].version: got 7, expected 1, as digits_color has",
    ),
    "other score": (
        put(*DATA, "score", to="rmse"),
        "$.datasets[0].score: got 'rmse', expected 'accuracy', as digits_color",
    ),
    "unknown domain": (
        put(*DATA, "domains", 0, to="plus70"),
        "$.datasets[0].domains[0]: 'plus70' is not a known domain of",
    ),
    "domain twice": (
        put(*DATA, "domains", 1, to="plus90"),
        "$.datasets[0].domains: got plus90 plus90 minus90, expected",
    ),
    "unknown option": (
        put(*DATA, "protocol", "cheat", to=1),
        "$.datasets[0].protocol: 'protocol.cheat' is not a known key.",
    ),
    "option missing": (drop(*DATA, "protocol", "sampling"), OPTIONS),
    "option as text": (put(*DATA, "protocol", "num_steps", to="500"), OPTIONS),
    "option that is none": (
        put(*DATA, "protocol", "num_steps", to=0),
        "$.datasets[0].protocol: protocol.num_steps=0, expec",
    ),
    "endless": (
        put(*DATA, "protocol", "num_steps", to=10**9),
        "protocol.num_steps: got 1000000000, expected at most 1000000",
    ),
    "two protocols": (
        put(*DATA, "protocol", "name", to="mine"),
        "$.datasets[0].protocol.name: got 'mine', and in $.protocol",
    ),
    "rule as text": (
        put("protocol", "use_unfinished", to="no"),
        "$.protocol.use_unfinished: got 'no', expected such as false.",
    ),
    "rule as a number": (put("protocol", "literal", to=0), "$.protocol.literal: got 0, expected such as false."),
    "option as a fraction": (put(*DATA, "protocol", "num_steps", to=500.0), OPTIONS),
    "option as a number": (put(*DATA, "protocol", "evaluate_last", to=1), OPTIONS),
    "a source of what is dgbench's": (
        put("method", "source", to="0" * 16),
        "$.method.source: got 0000000000000000, the hash of a file of your own, but erm comes with dgbench, expected",
    ),
    "nameless network": (
        drop(*DATA, "network", "name"),
        "$.datasets[0].network.name: got null, expected the network's name",
    ),
}


@pytest.mark.parametrize("case", [*FORM, *MEANING])
def test_one_change_of_a_valid_file_is_refused_with_its_place(case, small, tmp_path: Path):
    change, text = {**FORM, **MEANING}[case]
    assert text in refused(tmp_path, small, change)


def test_a_changed_file_has_another_checksum(small, tmp_path: Path):
    assert judge(tmp_path, small).problems == ()
    (said,) = judge(tmp_path, {**small, "contact": "another@example.org"}).problems
    assert said.startswith(f"$.checksum: got {small['checksum']}, expected ")


def test_all_problems_of_a_file_are_said(small, tmp_path: Path):
    def change(said):
        said["contact"] = "nobody"
        said["method"]["paper"] = "ftp://example.org"

    said = refused(tmp_path, small, change).splitlines()
    assert [line.split(":")[0] for line in said] == ["$.method.paper", "$.contact"]


def test_an_unknown_rule_is_said_once_and_where_it_stands(small, tmp_path: Path):
    (said,) = refused(tmp_path, small, put("protocol", "cheat", to=1)).splitlines()
    assert said.startswith("$.protocol.cheat: 'cheat' is not a known rule of the protocol. Known: error_bar, use_unfin")


def test_no_two_algorithms_can_be_taken_for_each_other():
    names = algorithms.names()
    assert len({skeleton(name) for name in names}) == len(names)


def test_a_missing_file_and_a_folder_are_sentences(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no\.json is not there\. Name a submission"):
        validate([tmp_path / "no.json"])
    (verdict,) = validate([tmp_path])
    assert verdict.problems[0].startswith("$: got no regular file, expected a submission.")
