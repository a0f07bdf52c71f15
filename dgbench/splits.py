"""The splits of a run: which examples of each domain are for what."""

from __future__ import annotations

import torch

from dgbench.config import Run
from dgbench.loader import Split
from dgbench.protocol import split_indices, split_uda


def wanted_splits(run: Run) -> list[tuple[str, str]]:
    """The (split, domain) pairs that the selection criteria read."""
    domains = run.domains
    pairs = [("out", name) for name in domains.train] + [("in", name) for name in domains.val]
    pairs += [(split, name) for name in domains.test for split in ("in", "out")]
    if run.protocol.uda_holdout_fraction > 0:
        pairs += [("uda", name) for name in domains.test]
    return pairs


def make_splits(run: Run) -> dict[tuple[str, str], Split]:
    """All splits of the run's domains, as the protocol says."""
    splits = {}
    fraction, uda_fraction = run.protocol.holdout_fraction, run.protocol.uda_holdout_fraction
    roles = {*run.domains.train, *run.domains.val, *run.domains.test}
    for index, domain in enumerate(run.dataset.domains):
        if domain.name not in roles:
            continue
        inside, outside = split_indices(len(domain), fraction, run.keys.trial_seed, index)
        if domain.name in run.domains.test and uda_fraction > 0:
            inside, unlabeled = split_uda(inside, uda_fraction, run.keys.trial_seed, index)
            splits["uda", domain.name] = Split(domain, torch.from_numpy(unlabeled))
        splits["in", domain.name] = Split(domain, torch.from_numpy(inside))
        splits["out", domain.name] = Split(domain, torch.from_numpy(outside))
    for (split, name), part in splits.items():
        if len(part) == 0:
            raise ValueError(
                f"The {split} split of {name} is empty: the domain has {len(part.domain)} examples, and "
                f"protocol.holdout_fraction={fraction}, protocol.uda_holdout_fraction={uda_fraction}. "
                "Hold out another part, or give the domain more examples."
            )
    return splits
