"""From folders of runs to a submission of one method."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from dgbench import record
from dgbench.cells import METHOD, with_cells
from dgbench.protocol import Protocol
from dgbench.registry import UnknownName
from dgbench.selection import HELD_OUT_TEST, REPORTED, VALIDATION
from dgbench.writing import replace_file, writable

from . import submitted
from .aggregate import method_name
from .bounded import pack
from .entries import misnamed
from .submission import SCHEMA_VERSION, Tables, checksum
from .suites import suite as suite_of
from .tables import runs_under
from .validate import as_submission, examine

_DOMAINS = ("train_domains", "val_domains", "test_domains")
SHOWN = 5
Said = Mapping[str, Any]


def submit(
    runs: str | Path | Sequence[str | Path],
    method: str,
    contact: str,
    *,
    suite: str | None = None,
    paper: str | None = None,
    code: str | None = None,
    summary: str = "",
    created: str | None = None,
    supersedes: str | None = None,
) -> dict[str, Any]:
    """A submission of one method, as the JSON that its file holds; `write` writes it.

    Args:
        runs: folders of runs (a sweep's runs_dir), or single runs.
        method: its row in `dgbench table`, e.g. `erm + swad`.
        contact: an e-mail address or an https address.
        suite: the suite that the runs complete; None: none.
        paper: https address of the paper.
        code: https address of the code.
        summary: what the method does, in a sentence.
        created: a time in UTC such as 2026-01-31T12:00:00Z; None: now.
        supersedes: checksum of the submission whose values this one changes.

    Raises:
        UnknownName: no run of that method, or no suite of that name.
        ValueError: the runs make no submission; the text says why.
    """
    of = _runs_of(runs, method)
    found = [_record(path) for path in of["path"]]
    hparams, which = _distinct(
        [{"algorithm": _algorithm(s)["hparams"], "optim": s["identity"]["optim"]} for s in found]
    )
    places, where = _distinct([_environment(s) for s in found])
    tables = _tables(of, found, which, where)
    size, data = pack(tables)
    said: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created": created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "method": {"name": method, **_one(found, method, _method), "paper": paper, "code": code, "summary": summary},
        "contact": contact,
        "suite": None if suite is None else {"name": suite, "version": suite_of(suite).version},
        "protocol": _one(of.to_dicts(), method, _rules),
        "datasets": [
            {"name": name, **_one(own, f"{method} on {name}", _data), "fingerprints": _fingerprints(own, name)}
            for name in sorted(set(of["dataset"]))
            if (own := [s for s in found if s["columns"]["dataset"] == name])
        ],
        "hparams": hparams,
        "environments": places,
        "results": [],
        "aggregates": [],
        "payload": {"encoding": "base64(zstd(json))", "size": size, "data": data},
        "supersedes": supersedes,
        "checksum": "0" * 64,  # until all the rest is there
    }
    frames = submitted.frames(as_submission(said), Tables.model_validate(tables))
    _refuse_several_tables(frames[0], method)
    said["results"], chosen = submitted.results(frames[1])
    said["aggregates"] = submitted.aggregates(frames[0], chosen)
    said["checksum"] = checksum(said)
    if problems := examine(as_submission(said), said, Path("submission.json")).problems:
        rest = f" And {len(problems) - SHOWN} more." if len(problems) > SHOWN else ""
        raise ValueError(f"The runs make no valid submission. {' '.join(problems[:SHOWN])}{rest}")
    return said


def check_place(path: Path, supersedes: str | None) -> None:
    """Refuse a file that a submission should not be written to.

    Raises:
        ValueError: no folder of submissions could hold a file of that name, or there is one already, and the submission
            supersedes none.
    """
    if problem := misnamed(path):
        raise ValueError(f"--out: {problem}")
    if path.exists() and supersedes is None:
        raise ValueError(
            f"{path} is there already, and what is published stays. Name another file by --out, or, to replace that "
            "one, give its checksum by --supersedes."
        )


def write(said: Said, path: Path) -> None:
    """Write a submission.

    Raises:
        CannotWrite: the place cannot be written.
    """
    text = json.dumps(said, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"
    with writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda file: file.write(text.encode("ascii")))


def _runs_of(paths: str | Path | Sequence[str | Path], method: str) -> pl.DataFrame:
    every = runs_under(paths)
    names = [method_name(*row) for row in every.select(METHOD).iter_rows()]
    of = every.filter(pl.Series([name == method for name in names])).sort("run_id")
    if of.is_empty():
        raise UnknownName("method in these runs", method, sorted(set(names)))
    if not (of["tuned"] == "").all():
        raise ValueError(
            f"The hyper-parameters of {method} were chosen by {of['tuned'][0]}, whose runs a submission of these would "
            "not hold. Submit the sweep that searched."
        )
    running = of.filter(pl.col("status") == "running")
    if len(running):
        raise ValueError(
            f"Got {len(running)} runs of {method} that are still running ({running['path'][0]}), expected none. "
            "Wait for them, or stop them."
        )
    if of.filter(pl.col("status").is_in(record.FINISHED) | pl.col("use_unfinished")).is_empty():
        raise ValueError(f"Got {len(of)} runs of {method}, of which none is finished. Let the sweep go on.")
    return of


def _record(path: str) -> dict[str, Any]:
    said = record.RunFolder(path).read() or {}
    if missing := sorted({"identity", "versions", "created", "sources"} - said.keys()):
        raise ValueError(
            f"{path} does not say its {', '.join(missing)}, expected a run that `dgbench train` made. Runs of other "
            "programs cannot be submitted; make them again."
        )
    return said


def _algorithm(said: Said) -> Said:
    return said["identity"]["algorithm"]


def _method(said: Said) -> dict[str, Any]:
    columns = said["columns"]
    return {
        "algorithm": columns["algorithm"],
        "version": _algorithm(said)["version"],
        "averaging": columns["averaging"],
        "label": columns["label"],
        "source": said["sources"].get("algorithm"),
    }


def _rules(columns: Said) -> dict[str, Any]:
    return {"name": columns["protocol"], **{name: columns[name] for name in Protocol().reporting}}


def _data(said: Said) -> dict[str, Any]:
    """What has to be equal for the runs on one dataset to make one table."""
    identity, columns = said["identity"], said["columns"]
    options = identity["dataset"]["options"]
    return {
        "version": identity["dataset"]["version"],
        "options": {name: value for name, value in options.items() if name != "data_seed"},
        "domains": columns["dataset_domains"].split(),
        "designated_domains": columns["designated_domains"].split(),
        "score": columns["score"],
        "regime": columns["regime"],
        "protocol": identity["protocol"],
        "trainer": identity["trainer"],
        "network": {name: value for name, value in identity["network"].items() if name != "dropout"},
    }


def _fingerprints(found: Sequence[Said], name: str) -> dict[str, str]:
    made: dict[str, str] = {}
    for said in found:
        seed, own = str(said["columns"]["data_seed"]), said["identity"]["dataset"]["fingerprint"]
        if made.setdefault(seed, own) != own:
            raise ValueError(
                f"Runs on {name} saw different data of one data_seed (fingerprints {made[seed]} and {own}), expected "
                "one. Name the folders of one of them."
            )
    return made


def _environment(said: Said) -> dict[str, Any]:
    versions = {"dgbench": said["package_version"], **said["versions"]}
    return {"versions": versions, "hardware": said.get("hardware") or {}}


def _one(found: Sequence[Said], what: str, part: Callable[[Said], dict[str, Any]]) -> dict[str, Any]:
    """What all runs share.

    Raises:
        ValueError: they do not.
    """
    first = part(found[0])
    for said in found[1:]:
        other = part(said)
        if other != first:
            key = next(key for key in first if first[key] != other[key])
            raise ValueError(
                f"Runs of {what} differ in {_difference(key, first[key], other[key])}. "
                "Name the folders of one setting, or give each its label."
            )
    return first


def _difference(key: str, one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        inner = next(name for name in {**one, **other} if one.get(name) != other.get(name))
        return _difference(f"{key}.{inner}", one.get(inner), other.get(inner))
    return f"{key} ({one!r} and {other!r})"


def _distinct(items: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """The items without repetition, in an order of their own, and the place of each."""
    texts = [json.dumps(item, sort_keys=True) for item in items]
    place = {text: index for index, text in enumerate(sorted(set(texts)))}
    return [json.loads(text) for text in place], [place[text] for text in texts]


def _tables(of: pl.DataFrame, found: Sequence[Said], hparams: list[int], places: list[int]) -> dict[str, Any]:
    """What the payload holds: `Tables`."""
    own = ("run_id", "dataset", "trial_seed", "data_seed", "hparams_seed", "status", "peak_memory", "seconds")
    return {
        "runs": {
            **{name: of[name].to_list() for name in own},
            **{name: [text.split() for text in of[name]] for name in _DOMAINS},
            "hparams": hparams,
            "environment": places,
            "begun": [said["created"] for said in found],
            "finished": [said.get("finished") for said in found],
        },
        "evaluations": _evaluations(of),
    }


def _evaluations(of: pl.DataFrame) -> dict[str, Any]:
    """The rows that selection reads: scores of the weights that compete, on the splits that a criterion looks at."""
    eligible = pl.col("status").is_in(record.FINISHED) | pl.col("use_unfinished")
    rows = record.read(of.filter(eligible), set(of["score"]))
    average = pl.col("averaging").str.split(":").list.first()
    wanted = pl.any_horizontal(
        pl.col("domain").is_in(pl.col(f"{role}_domains").str.split(" ")) & (pl.col("split") == split)
        for role, split in {*REPORTED, *VALIDATION, *HELD_OUT_TEST}
    )
    return (
        rows.filter(
            pl.col("weights") == pl.when(average == "none").then(pl.lit("last")).otherwise(average),
            pl.col("metric") == pl.col("score"),
            wanted,
        )
        .join(of.select("run_id").with_row_index("run"), on="run_id")
        .select("run", "step", "split", "domain", pl.col("value").fill_nan(None), "n")
        .sort("run", "step", "split", "domain")
        .to_dict(as_series=False)
    )


def _refuse_several_tables(runs: pl.DataFrame, method: str) -> None:
    for (name,), part in with_cells(runs).group_by("dataset", maintain_order=True):
        for key in ("trained_on", "val_domains"):
            values = part[key].unique().sort().to_list()
            if len(values) > 1:
                raise ValueError(
                    f"Runs of {method} on {name} differ in {key} ({values[0]!r} and {values[1]!r}), expected one way "
                    "to divide the domains. Name the folders of one."
                )
