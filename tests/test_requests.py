"""A run that is asked again with other criteria loses nothing that it said before."""

from __future__ import annotations

import pytest

from dgbench import composition, config, record, runner
from dgbench.record import Interrupted

FEW = ["protocol.num_steps=7", "protocol.evaluate_every=2", "optim.batch_size=4", "network.width=4"]


def asked(tmp_path, *arguments):
    lines = ["dataset=digits_color", "test_domains=[0]", f"runs_dir={tmp_path}", *FEW, *arguments]
    return config.resolve(composition.compose(lines))


def said(run):
    return run.folder.lines(), (run.folder.read() or {})["evaluated"]


def test_criteria_add_to_what_was_evaluated(tmp_path):
    first = asked(tmp_path, "criteria=[train_validation]")
    runner.execute(first)
    lines, before = said(first)
    weights = sorted(path.name for path in first.folder.checkpoints.iterdir())
    second = asked(tmp_path, "criteria=[oracle]")
    assert second.run_id == first.run_id
    assert not runner.is_done(second, second.folder)
    assert not runner.execute(second).skipped
    again, after = said(second)
    assert set(after) == {*before, "out/plus90"}
    assert [
        {key: value for key, value in line["values"].items() if key in old["values"]}
        for line, old in zip(again, lines, strict=True)
    ] == [line["values"] for line in lines]
    assert sorted(path.name for path in first.folder.checkpoints.iterdir()) == weights
    for run in (first, second):
        assert runner.execute(run).skipped


def test_a_run_that_lacks_what_is_now_wanted_starts_anew(tmp_path):
    def stop(step):
        if step == 4:
            raise Interrupted("test")

    first = asked(tmp_path, "criteria=[oracle]")
    with pytest.raises(Interrupted):
        runner.execute(first, stop)
    assert first.folder.resume_file.exists()
    second = asked(tmp_path)
    runner.execute(second)
    lines, evaluated = said(second)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert all(set(line["n"]) == set(evaluated) for line in lines)
    assert record.runs(tmp_path)["status"].item() == "complete"


def test_overwriting_asks_only_what_is_asked(tmp_path):
    runner.execute(asked(tmp_path))
    run = asked(tmp_path, "criteria=[oracle]", "overwrite=true")
    runner.execute(run)
    assert said(run)[1] == ["in/plus90", "out/plus90"]
