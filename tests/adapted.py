"""Trained runs for tests of adaptations: small, quick, with batch norms."""

from __future__ import annotations

from pathlib import Path

import dgbench

RUN = {
    "algorithm": "erm",
    "dataset": "digits_color",
    "test_domains": ["plus90"],
    "network": {"name": "small_cnn", "norm": "batch"},
    "optim.batch_size": 8,
    "protocol": {"num_steps": 20, "evaluate_every": 20},
    "workers": 0,
}


def train(runs_dir: Path, **keys: object) -> Path:
    """One short run; returns its folder."""
    outcome = dgbench.train(**{**RUN, **keys}, runs_dir=str(runs_dir))
    assert outcome.status == "complete", outcome.reason
    return outcome.folder
