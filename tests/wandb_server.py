"""A small W&B server: it keeps what is sent to it and answers the queries of wandb's public API from that."""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import wandb

from dgbench.wandb_logger import WandbLogger

KEY = "0123456789" * 4
ENTITY = "me"
HANGS_SECONDS = 60


class Server(ThreadingHTTPServer):
    """Answers as `mood` says: `accept`, `hang`, `gone` (closes every connection), or a number, the status of every answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood: str | int = "accept"
        self.mood_once_begun: str | int | None = None
        """What `mood` becomes when a run has begun."""
        self.runs: dict[str, dict[str, Any]] = {}
        """By id: what was upserted, and `history` (parsed rows), `summary`, `complete`, `exitcode`."""
        self.operations: list[str] = []
        self.errors: list[BaseException | None] = []
        self.views: list[dict[str, Any]] = []
        """The workspaces that were saved."""
        self.ended = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none; anything else would hide a fault of the test."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.errors.append(error)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def by_name(self, name: str) -> dict[str, Any]:
        (found,) = [run for run in self.runs.values() if run["displayName"] == name]
        return found

    def answered(self, name: str) -> None:
        if name == "UpsertBucket" and self.mood_once_begun is not None:
            self.mood = self.mood_once_begun

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


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        server = self.server
        if server.mood in ("hang", "gone"):
            server.ended.wait(HANGS_SECONDS if server.mood == "hang" else 0)
            self.close_connection = True
            return
        if isinstance(server.mood, int):
            self.say({"errors": [{"message": "refused by the test"}]}, server.mood)
            return
        with server.lock:
            if self.path.startswith("/graphql"):
                asked = json.loads(body)
                name = asked.get("operationName") or ""
                self.say({"data": server.graphql(asked["query"], name, asked.get("variables") or {})})
                server.answered(name)
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
                self.say({})
            else:
                self.say({})

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def say(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        # The client may have waited long enough.
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)


@contextlib.contextmanager
def serving(monkeypatch: Any, folder: Path) -> Iterator[Server]:
    """A server that wandb talks to, online, as if nothing had been said in this process before.

    Args:
        monkeypatch: pytest's.
        folder: what wandb keeps for itself goes there.
    """
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(folder))
    for name, value in {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(WandbLogger, "mode", None)
    monkeypatch.setattr(WandbLogger, "has_said", False)
    wandb.teardown()  # what was read of the surroundings before
    try:
        yield server
    finally:
        server.ended.set()
        wandb.teardown()
        server.shutdown()
        server.server_close()
    assert not server.errors, server.errors
