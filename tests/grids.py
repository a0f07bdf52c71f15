"""Sweeps as if they had been done, with the configurations that the runner records."""

from __future__ import annotations

from pathlib import Path

from dgbench import expansion, record
from dgbench.description import header

WHOLE = ["algorithm=erm,vrex", "dataset=digits_color", "hparams_seed=range(4)", "trial_seed=0,1"]


def make_grid(runs_dir: Path, *tests: str, asked: list[str] = WHOLE) -> dict[str, Path]:
    """Complete runs of a real sweep, by their labels."""
    jobs = expansion.expand([*asked, f"test_domains={','.join(tests)}", f"runs_dir={runs_dir}"])
    for job in jobs:
        folder = job.run.folder
        folder.create()
        folder.write(**header(job.run), status="complete", reason=None, seconds=1.0, peak_memory=None)
    return {(folder.read() or {})["label"]: folder.path for folder in record.find(runs_dir)}
