"""Runs of a suite as the runner leaves them, without training, and submissions of them, changed in one place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dgbench import composition, config, description, registry
from dgbench.averaging import make_averaging
from dgbench.leaderboard import submit as submitting
from dgbench.leaderboard import submitted
from dgbench.leaderboard.bounded import pack, parse, unpack
from dgbench.leaderboard.submission import checksum
from dgbench.leaderboard.suites import suite
from dgbench.leaderboard.validate import Verdict, as_submission, as_tables, validate

EMBEDDED = suite("embedded")
STEPS = (0, 100, 200, 300, 400, 499)
BEGUN = 1_700_000_000.0
CREATED = "2024-01-01T00:00:00Z"
CONTACT = "someone@example.org"
Json = dict[str, Any]


def make_runs(
    runs_dir: Path,
    *keys: str,
    algorithm: str = "erm",
    datasets: Sequence[str] = EMBEDDED.datasets,
    trials: Sequence[int] = EMBEDDED.trials,
    test: Sequence[list[int]] | None = None,
    status: str = "complete",
    steps: Sequence[int] = STEPS,
) -> Path:
    """Write the runs of the suite `embedded` with made-up counts of right answers.

    Args:
        runs_dir: where.
        keys: further keys of the runs.
        algorithm: of the runs.
        datasets: of the runs.
        trials: of the runs.
        test: indices of the test domains of each run; None: each domain by itself.
        status: of the runs.
        steps: after which the runs were evaluated.
    """
    for dataset in datasets:
        names = (f"algorithm={algorithm}", f"dataset={dataset}", f"runs_dir={runs_dir}", *EMBEDDED.keys, *keys)
        number = len(registry.datasets[dataset].card.domains)
        # Composing takes long; what differs between the runs of a dataset needs none.
        made = composition.compose([*names, "test_domains=[0]"])
        for left_out in [[index] for index in range(number)] if test is None else test:
            for trial in trials:
                _write(config.resolve({**made, "test_domains": left_out, "trial_seed": trial}), status, steps)
    return runs_dir


def _write(run: Any, status: str, steps: Sequence[int]) -> None:
    sizes = {domain.name: len(domain) for domain in run.dataset.domains}
    domains, generator = asdict(run.domains), np.random.default_rng(int(run.run_id, 16))
    pairs = [("out", name) for name in (*domains["train"], *domains["test"])]
    pairs += [("in", name) for name in (*domains["val"], *domains["test"])]
    average = make_averaging(run.keys.averaging)
    run.folder.create()
    lines = []
    for step in steps:
        values: dict[str, float] = {}
        n: dict[str, int] = {}
        for split, name in pairs:
            held_out = int(sizes[name] * 0.2)
            count = held_out if split == "out" else sizes[name] - held_out
            if split == "in" and name in domains["test"]:
                count -= int(count * run.protocol.uda_holdout_fraction)
            n[f"{split}/{name}"] = count
            if run.dataset.task.score == "rmse":
                values[f"{split}/{name}/rmse"] = float(generator.random())
                continue
            right = int(generator.integers(count + 1))
            values |= {f"{split}/{name}/accuracy": right / count, f"{split}/{name}/nll": 1.0}
        # A run with an average of the weights evaluates the last ones too; those must not be sent.
        averaged = average is not None and (step == steps[-1] or not average.only_at_end)
        for weights in ("last", average.name) if average and averaged else ("last",):
            lines.append({"step": step, "weights": weights, "values": values, "n": n})
    run.folder.lines_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = {**description.header(run), "created": BEGUN, "finished": BEGUN + 60}
    hardware = {"machine": "x86_64", "system": "Linux", "threads": 1, "device": "cpu"}
    run.folder.begin(**said, status=status, seconds=1.5, peak_memory=1000, hardware=hardware)


def submit(runs: Path, method: str = "erm", **options: Any) -> Json:
    """A submission with the same contact and date everywhere."""
    return submitting.submit(runs, method, CONTACT, **{"suite": "embedded", "created": CREATED, **options})


def changed(said: Json, change: Callable[[Json], Any]) -> Json:
    """A copy with one change; whoever makes it would compute the checksum again."""
    made = copy.deepcopy(said)
    change(made)
    return {**made, "checksum": checksum(made)}


def forged(said: Json, change: Callable[[Json], Any]) -> Json:
    """A copy with one change, and all that follows from it computed again by the project's own functions."""
    made = changed(said, change)
    submission = as_submission(made)
    runs, rows = submitted.frames(submission, as_tables(submission.payload))
    made["results"], chosen = submitted.results(rows)
    made["aggregates"] = submitted.aggregates(runs, chosen)
    return {**made, "checksum": checksum(made)}


def rows_of(said: Json) -> Json:
    """What the payload holds."""
    return parse(unpack(said["payload"]["data"], said["payload"]["size"], "$"))


def repack(said: Json, change: Callable[[Json], Any]) -> None:
    """Change what the payload holds."""
    tables = rows_of(said)
    change(tables)
    said["payload"]["size"], said["payload"]["data"] = pack(tables)


def put(*path: str | int, to: Any) -> Callable[[Json], None]:
    """A change: set what is at a path of keys."""

    def change(said: Any) -> None:
        for step in path[:-1]:
            said = said[step]
        said[path[-1]] = to

    return change


def drop(*path: str | int) -> Callable[[Json], None]:
    """A change: take away what is at a path of keys."""

    def change(said: Any) -> None:
        for step in path[:-1]:
            said = said[step]
        del said[path[-1]]

    return change


def inside(change: Callable[[Json], Any]) -> Callable[[Json], None]:
    """A change of what the payload holds."""
    return lambda said: repack(said, change)


def refused(folder: Path, said: Json, change: Callable[[Json], Any], make: Callable[..., Json] = changed) -> str:
    """What is said of a valid submission after one change; fails if it is not valid before.

    Args:
        folder: for files.
        said: the submission.
        change: the change.
        make: how it is made: `changed`, or `forged` of what only its rows can betray.
    """
    assert judge(folder, said).problems == ()
    verdict = judge(folder, make(said, change))
    assert verdict.problems
    return "\n".join(verdict.problems)


def evaluations(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Json], None]:
    """A change of the evaluations, as a frame with the columns of `Evaluations`."""

    def within(tables: Json) -> None:
        tables["evaluations"] = change(pl.DataFrame(tables["evaluations"])).to_dict(as_series=False)

    return inside(within)


def judge(folder: Path, content: Json | str | bytes, name: str = "submission.json") -> Verdict:
    """What is said of a file of that content."""
    file = folder / name
    if isinstance(content, dict):
        content = json.dumps(content)
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    (verdict,) = validate([file])
    return verdict
