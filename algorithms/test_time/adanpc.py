"""AdaNPC: the vote of the nearest neighbours in a memory of source features, to which confident examples are added.

Zhang, Wang, Jin, Yuan, Zhang, Wang, Jin, Tan. AdaNPC: Exploring Non-Parametric Classifier for Test-Time Adaptation.
ICML 2023. https://arxiv.org/abs/2304.12566

The weights stay as they are; models trained by `knn_loss` or any other method will do. All neighbours are exact: a
batch of N examples costs N * M * F multiplications for a memory of M examples with F features, and copies none of it.
With `adapts_norm` a batch norm of the features is adapted too (AdaNPCBN): it never sees statistics, and is thus a scale
and a shift of each feature, which lower the entropy of the votes.

Differs from the authors' code: the confidence is `max(p)` and the entropy that of p, where both are of softmax(p)
there (`compat=true`: as there, and the largest confidence is e / (e + C - 1)); the memory has no random first row of
class 0, holds the training domains' in-splits alone, and may be smaller than k, when all of it votes; of several
updates of the batch norm only the last adds the batch to the memory; and reset brings the batch norm back too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgbench.adapter import Adapter, Constant, Needs, Source
from dgbench.hparams import choices, fixed, hparam

from ..alignment._neighbours import Memory, ball_vote, directions, nearest, vote
from ._norms import entropy


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of AdaNPC."""

    k: int = hparam(100, choices(1, 5, 10, 25, 50, 75, 100, 150, 200), "neighbours that vote")
    temperature: float = hparam(0.1, choices(0.01, 0.05, 0.1, 0.25, 0.5), "temperature of the votes, tau")
    threshold: float = hparam(
        0.1, choices(0.0, 0.25, 0.75, 1.1), "least confidence of an example that is added, beta; above 1: none is"
    )
    max_added: int = hparam(
        0, fixed(0), "most examples that were added; the oldest go first, the source's never; 0: no bound"
    )
    epsilon: float = hparam(
        1.1,
        fixed(1.1),
        "if every example of a batch has a key of a larger cosine, all keys of at least this cosine vote; above 1: off",
    )
    compat: bool = hparam(False, fixed(False), "confidence and entropy of softmax(p), as in the authors' code")
    adapts_norm: bool = hparam(False, fixed(False), "adapt a batch norm of the features (AdaNPCBN)")
    num_updates: int = hparam(1, choices(1, 3), "updates of that batch norm per batch, gamma")
    lr_multiplier: float = hparam(
        1.0, choices(0.1, 1.0, 10.0), "learning rate of that batch norm in units of the training's, alpha"
    )

    def __post_init__(self) -> None:
        for name in ("k", "num_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"adapter.{name}={getattr(self, name)}, expected 1 or more.")
        if self.temperature <= 0:
            raise ValueError(f"adapter.temperature={self.temperature:g}, expected more than 0.")
        for name in ("max_added", "lr_multiplier"):
            if getattr(self, name) < 0:
                raise ValueError(f"adapter.{name}={getattr(self, name):g}, expected 0 or more.")


class AdaNPC(Adapter):
    """Answer the vote p of the k nearest keys, then add examples with `max(p) >= beta` and their answers as keys."""

    HParams = HParams
    needs = Needs(source=True, composite=True)
    output = "probabilities"

    keys: Tensor
    labels: Tensor

    def prepare(self, source: Source | None) -> None:
        assert source is not None
        self.source = Constant(self.memorised(source))
        keys, labels = self.source.value
        # What was added, in the first rows; the others are room.
        self.register_buffer("keys", keys.new_zeros(0, keys.shape[1]))
        self.register_buffer("labels", labels.new_zeros(0))
        self.num_added = 0
        if self.hp.adapts_norm:
            self.norm = nn.BatchNorm1d(keys.shape[1]).to(keys).eval()
            self.algorithm.add_module("feature_norm", self.norm)  # a part of the model that is adapted
            optim = self.algorithm.optim
            lr = self.hp.lr_multiplier * (optim.lr or 0.0)
            self.optimizer = torch.optim.Adam(self.norm.parameters(), lr=lr, weight_decay=optim.weight_decay or 0.0)

    @torch.no_grad()
    def memorised(self, source: Source) -> tuple[Tensor, Tensor]:
        """Directions of the source's features, (M, F), and their labels, (M,)."""
        device = self.algorithm.device
        parts = [
            (directions(self.algorithm.features(batch.x.flatten(0, 1).to(device))), batch.y.flatten().to(device))
            for batch in source
        ]
        keys, labels = zip(*parts, strict=True)
        return torch.cat(keys), torch.cat(labels)

    def adapt(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.algorithm.features(x)  # (N, F)
        for _ in range(self.hp.num_updates if self.hp.adapts_norm else 1):
            queries = self.queries(features)  # (N, F)
            p = self.probabilities(queries)  # (N, C)
            if self.hp.adapts_norm:
                self.descend(entropy(p if self.hp.compat else p.log()).mean(), self.optimizer)
        confidence, answer = (p.softmax(1) if self.hp.compat else p).max(1)  # (N,)
        is_added = confidence >= self.hp.threshold  # (N,)
        self.add(queries.detach()[is_added], answer[is_added])
        return p

    def answer(self, x: Tensor) -> Tensor:
        return self.probabilities(self.queries(self.algorithm.features(x)))

    def queries(self, features: Tensor) -> Tensor:
        """Directions of features (N, F), by way of the batch norm if there is one."""
        return directions(self.norm(features) if self.hp.adapts_norm else features)

    def probabilities(self, queries: Tensor) -> Tensor:
        """The vote of the neighbours, (N, C)."""
        votes = {"temperature": self.hp.temperature, "num_classes": self.task.num_classes}
        similarities, labels = nearest(queries, self.memory, self.hp.k)  # (N, K)
        if self.hp.epsilon <= 1 and bool((similarities[:, 0] > self.hp.epsilon).all()):
            return ball_vote(queries, self.memory, similarities[:, 0], radius=self.hp.epsilon, **votes)
        return vote(similarities, labels, **votes)

    @property
    def memory(self) -> Memory:
        """The source's part, and what was added."""
        rows = min(self.num_added, len(self.keys))
        return self.source.value, (self.keys[:rows], self.labels[:rows])

    def add(self, keys: Tensor, labels: Tensor) -> None:
        """Add keys (N, F) and labels (N,); beyond the bound, in the place of the oldest."""
        bound, end = self.hp.max_added, self.num_added + len(labels)
        slots = torch.arange(self.num_added, end, device=labels.device)  # (N,)
        self.reserve(min(end, bound) if bound else end)
        if bound:
            slots, keys, labels = slots[-bound:] % bound, keys[-bound:], labels[-bound:]
        self.keys[slots], self.labels[slots] = keys, labels
        self.num_added = end

    def reserve(self, num_rows: int) -> None:
        """Make room for rows, at least twice what there is, so that few batches copy what was added."""
        missing = num_rows - len(self.keys)
        if missing > 0:
            room = max(missing, len(self.keys))
            if self.hp.max_added:
                room = min(room, self.hp.max_added - len(self.keys))
            self.keys = torch.cat([self.keys, self.keys.new_zeros(room, self.keys.shape[1])])
            self.labels = torch.cat([self.labels, self.labels.new_zeros(room)])
