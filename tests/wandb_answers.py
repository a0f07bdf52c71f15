"""What a W&B server knows of runs, and how it answers wandb and wandb's public API."""

from __future__ import annotations

import json
from typing import Any

ENTITY = "me"


class Answers:
    """The queries of GraphQL, answered from what was sent."""

    url: str

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        """By id: what was upserted, and `history` (parsed rows), `summary`, `complete`, `exitcode`."""
        self.operations: list[str] = []
        self.views: list[dict[str, Any]] = []
        """The workspaces that were saved."""

    def by_name(self, name: str) -> dict[str, Any]:
        (found,) = [run for run in self.runs.values() if run["displayName"] == name]
        return found

    def graphql(self, query: str, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of an answer."""
        self.operations.append(name)
        if name == "UpsertBucket":
            return {"upsertBucket": {"bucket": self.upsert(variables), "inserted": True}}
        if name == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            owner = {"id": "1", "name": variables["project"], "entity": {"id": "1", "name": ENTITY}}
            return {"model": {**owner, "bucket": None if run is None else self.resumed(run)}}
        if name == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.url}/upload/{f}"} for f in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if name == "UpsertView2" or "upsertView" in query:
            self.views.append(variables)
            return {"upsertView": {"view": {"id": "v", "name": variables.get("name")}, "inserted": True}}
        if name == "Viewer" or "viewer {" in query:
            return {"viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}"}}
        if "history(" in query:
            run = self.runs[variables["run"]]
            low, high = variables["minStep"], variables["maxStep"]
            rows = [row for row in run["history"] if low <= row["_step"] < high]
            # As the real one does, NaN as text.
            told = [{k: "NaN" if isinstance(v, float) and v != v else v for k, v in row.items()} for row in rows]
            lines = [json.dumps(row) for row in told]
            return {"project": {"run": {"history": lines}}}
        if "runs(" in query:
            return {"project": self.listed(variables)}
        if "run(name" in query:
            run = self.runs.get(variables.get("name") or variables.get("run") or variables["runName"])
            return {"project": {"run": None if run is None else self.told(run)}}
        return {}

    def upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(
            given["name"],
            {"id": given["name"], "history": [], "summary": {}, "complete": False, "exitcode": None, "upserts": []},
        )
        run["upserts"].append(given)
        run.update({key: value for key, value in given.items() if value is not None and key not in ("id", "config")})
        run["config"] = json.loads(given["config"] or "{}") if given["config"] else run.get("config", {})
        return self.told(run)

    def told(self, run: dict[str, Any]) -> dict[str, Any]:
        steps = [row["_step"] for row in run["history"]]
        state = "running" if not run["complete"] else "failed" if run["exitcode"] else "finished"
        project = run.get("project", "dgbench")
        return {
            "id": run["id"],
            "name": run["id"],
            "displayName": run.get("displayName"),
            "description": "",
            "group": run.get("groupName"),
            "tags": run.get("tags") or [],
            "state": state,
            "config": json.dumps(run["config"]),
            "summaryMetrics": json.dumps(run["summary"]),
            "sweepName": None,
            "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z",
            "historyKeys": {"lastStep": max(steps, default=-1)},
            "historyLineCount": len(steps),
            "projectId": "1",
            "project": {"id": "1", "name": project, "entity": {"id": "1", "name": ENTITY}},
            "user": {"name": ENTITY, "username": ENTITY},
        }

    def resumed(self, run: dict[str, Any]) -> dict[str, Any]:
        tail = [json.dumps(row) for row in run["history"][-1:]]
        config = run["config"].get("_wandb", {}).get("value", {})
        return {
            **self.told(run),
            **dict.fromkeys(("logLineCount", "eventsLineCount"), 0),
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": config.get("t", {})}),
        }

    def listed(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        of = [run for run in self.runs.values() if run.get("project") == variables["project"]]
        if not of:
            return None
        start = int(variables.get("cursor") or 0)
        part = of[start : start + (variables.get("perPage") or 50)]
        edges = [{"node": self.told(run), "cursor": str(start + i + 1)} for i, run in enumerate(part)]
        more = start + len(part) < len(of)
        info = {"endCursor": str(start + len(part)), "hasNextPage": more}
        return {"internalId": "1", "readOnly": False, "runCount": len(of), "runs": {"edges": edges, "pageInfo": info}}

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        run = self.runs[run_id]
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                rows = [json.loads(line) for line in part["content"]]
                run["history"][part["offset"] :] = rows
            elif name == "wandb-summary.json":
                run["summary"] = json.loads(part["content"][-1])
        if sent.get("complete"):
            run["complete"], run["exitcode"] = True, sent.get("exitcode")
