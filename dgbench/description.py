"""What run.json says of a run before its first step."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import dgbench
from dgbench import record
from dgbench.dataset import GeneratedOptions
from dgbench.registry import algorithms
from dgbench.run import Run

# What `data_seed` says of data that have none, or that every run draws from its own seed.
NOT_DRAWN = -1


def header(run: Run) -> dict[str, Any]:
    """What run.json says before the first step."""
    return {
        "schema": record.SCHEMA,
        "kind": "train",
        "run_id": run.run_id,
        "label": run.label,
        "identity": run.identity,
        "config": run.config,
        "columns": columns(run),
        "group": run.keys.group,
        "package_version": dgbench.__version__,
        "sources": own_sources(run),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in ("pytorch-lightning", "numpy", "timm")},
        },
        "command": sys.argv,
        "created": time.time(),
    }


def own_sources(run: Run) -> dict[str, str]:
    """Hashes of the files of components that do not come with dgbench: their authors may forget to raise `version`."""
    found = {}
    for kind, cls in (("algorithm", algorithms[run.algorithm]), ("dataset", type(run.dataset))):
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if file and not cls.__module__.startswith(("dgbench.algorithms.", "dgbench.datasets.")):
            found[kind] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return found


def columns(run: Run) -> dict[str, Any]:
    """What tables group by.

    Args:
        run: resolved, but for the choice of its hyper-parameters perhaps.
    """
    identity, domains, options = run.identity, run.domains, dict(run.identity["dataset"]["options"])
    # Draws of generated data are trials of one experiment, not different data.
    data_seed = options.pop("data_seed", NOT_DRAWN)
    data = {**identity["dataset"], "options": options}
    if isinstance(run.dataset.options, GeneratedOptions):
        del data["fingerprint"]
    # Dropout is drawn with the other hyper-parameters: models that differ in it compete in one cell.
    network = {key: value for key, value in identity["network"].items() if key != "dropout"}
    protocol = {"protocol": identity["protocol"], "trainer": identity["trainer"]}
    variant = ""
    if run.keys.label:
        # A labelled row is what its label says: it stands beside others whatever these do otherwise, but what is
        # reported has to be comparable. What the keys leave out then tells rows of one label apart.
        variant = record.identity_hash({"network": network, "protocol": protocol, "options": data.pop("options")})
        kept = ("splits", "holdout_fraction", "uda_holdout_fraction")
        network, protocol = {}, {name: identity["protocol"][name] for name in kept}
    return {
        "dataset": run.dataset_name,
        "data": record.identity_hash(data),
        "data_seed": data_seed if isinstance(data_seed, int) else NOT_DRAWN,
        "dataset_domains": " ".join(run.dataset.domain_names),
        "designated_domains": " ".join(run.dataset.designated[1]),
        "regime": run.dataset.card.regime,
        "score": run.dataset.task.score,
        "train_domains": " ".join(domains.train),
        "val_domains": " ".join(domains.val),
        "test_domains": " ".join(domains.test),
        "protocol": run.protocol.name,
        "protocol_key": record.identity_hash(protocol),
        **run.protocol.reporting,
        "network": run.network.name,
        "network_key": record.identity_hash(network),
        "algorithm": run.algorithm,
        "averaging": run.keys.averaging,
        "label": run.keys.label or "",
        "variant": variant,
        "tuned": f"{run.tuned['criterion']} in {run.tuned['sweep']}" if run.tuned else "",
        "hparams": record.identity_hash({"algorithm": identity["algorithm"], "optim": identity["optim"]}),
        "hparams_seed": run.keys.hparams_seed,
        "trial_seed": run.keys.trial_seed,
        "num_steps": run.protocol.num_steps,
        "last_evaluation": run.protocol.last_evaluation,
    }
