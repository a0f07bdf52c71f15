"""What happens to runs between two readings."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

from dgbench import record
from dgbench.record import RunFolder
from tests.fabricate import add_lines, make_run, make_scores

PAST = time.time() - 3600


def change(rng: random.Random, sweep: Path, number: int) -> None:
    """One of the things that happen to runs between two readings."""
    folder = RunFolder(rng.choice(sorted(path.parent for path in sweep.glob("*/run.json"))))
    lines = folder.lines_file.read_text() if folder.lines_file.exists() else ""
    kind = rng.choice(["number", "line", "torn", "delete", "new", "status", "cut", "gone", "missing metric", "touch"])
    if kind == "number":
        folder.lines_file.write_text(lines.replace("0.5", "0.4"))
    elif kind == "line":
        add_lines(folder, [(number, make_scores("a", rng.random()))])
    elif kind == "torn":
        folder.lines_file.write_text(lines + '{"step": 9, "wei')
    elif kind == "delete":
        shutil.rmtree(folder.path)
    elif kind == "new":
        make_run(sweep, [(0, make_scores("a", rng.random()))], label=f"new {number}")
    elif kind == "status":
        folder.write(status=rng.choice(record.STATUSES))
    elif kind == "cut":
        folder.lines_file.write_text(lines[: lines.find("\n") + 1])
    elif kind == "gone":
        folder.lines_file.unlink(missing_ok=True)
    elif kind == "missing metric":
        add_lines(folder, [(number, {"in/a": 0.25, "out/b": float("nan")})], metric="macro_accuracy")
    else:
        os.utime(folder.run_file)
    # Some are read at once, others long after.
    if rng.random() < 0.5:
        for file in (folder.run_file, folder.lines_file):
            if file.exists():
                os.utime(file, (PAST + number, PAST + number))
