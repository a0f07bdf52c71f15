"""Runs that a project holds, changed by somebody, and what `dgbench wandb pull` says of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from dgbench import wandb_pull
from dgbench.record import identity_hash
from dgbench.wandb_pull import Pulled, pull

PROJECT = "me/dgbench"
Run = dict[str, Any]


def renamed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Run], None]:
    """A change of the identity, with the name that it then has."""

    def changed(run: Run) -> None:
        record = json.loads(run["config"]["record"]["value"])
        change(record["identity"])
        run["id"] = record["run_id"] = identity_hash(record["identity"])
        run["config"]["record"]["value"] = json.dumps(record)

    return changed


def check_that_all_are_left_out(
    server: Any, whole: str, changes: dict[str, tuple[Callable[[Run], Any], str]], monkeypatch: Any
) -> None:
    """A project has a copy of a whole run for each of the changes, and the rest; once changed, no copy is pulled."""
    rest = len(server.runs)
    copies = {name: copy.deepcopy(server.runs[whole]) for name in changes}
    for name, run in copies.items():
        renamed(lambda identity, name=name: identity.update(copy=name))(run)  # type: ignore[misc]
        server.runs[run["id"]] = run
    assert pull(PROJECT, "copies") == Pulled(written=rest + len(changes))
    for name, run in copies.items():
        del server.runs[run["id"]]
        changes[name][0](run)
        server.runs[run["id"]] = run
    reasons: dict[str, str] = {}
    usual = wandb_pull._leave_out

    def leave_out(run: Any, why: Exception, made: Pulled) -> None:
        usual(run, why, alone := Pulled())
        reasons[run.id] = alone.first_foreign
        usual(run, why, made)

    with monkeypatch.context() as patch:
        patch.setattr(wandb_pull, "_leave_out", leave_out)
        made = pull(PROJECT, "pulled")
    assert made == Pulled(written=rest, foreign=len(changes))
    first = next(iter(reasons.values()))
    assert f"{len(changes)} left out, as they hold no whole record of dgbench (first {first})" in str(made)
    for name, run in copies.items():
        assert reasons[run["id"]].startswith(f"'{run['id']}': "), name
        assert changes[name][1] in reasons[run["id"]], (name, reasons[run["id"]])
        del server.runs[run["id"]]
