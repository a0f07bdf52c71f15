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
from tests.wandb_answers import Answers

# A run of a moment.
FEW: dict[str, Any] = {
    "dataset": "digits_color",
    "test_domains": ["plus90"],
    "protocol": {"num_steps": 3, "evaluate_every": 2},
    "optim.batch_size": 4,
    "network.width": 8,
}
KEY = "0123456789" * 4
HANGS_SECONDS = 60


class Server(Answers, ThreadingHTTPServer):
    """Answers as `mood` says: `accept`, `hang`, `gone` (closes every connection), or a number, the status of all."""

    daemon_threads = True

    def __init__(self) -> None:
        Answers.__init__(self)
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), Handler)
        self.mood: str | int = "accept"
        self.mood_once_begun: str | int | None = None
        """What `mood` becomes when a run has begun."""
        self.errors: list[BaseException | None] = []
        self.ended = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none; anything else would hide a fault of the test."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.errors.append(error)

    @property
    def url(self) -> str:  # type: ignore[override]
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answered(self, name: str) -> None:
        if name == "UpsertBucket" and self.mood_once_begun is not None:
            self.mood = self.mood_once_begun


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two packets, and the second would wait 40 ms
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
