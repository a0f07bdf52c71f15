"""What is predicted: the loss, the scale of the targets, the metrics."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ECE_BINS = 15


class Task(nn.Module):
    """Classification or regression.

    The network answers in the task's inner scale; `loss` compares there; `decode` returns to original units, in which
    all metrics are. The scale of regression targets is kept in buffers and travels with the checkpoint.

    Args:
        kind: `classification` or `regression`.
        num_classes: number of classes, or of regressed values.
        single_logit: a binary task answers with one logit instead of two.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: Literal["classification", "regression"], num_classes: int, *, single_logit: bool = False):
        super().__init__()
        if single_logit and (kind != "classification" or num_classes != 2):
            raise ValueError(
                f"single_logit=True asks for a binary classification, got {kind} with {num_classes} outputs. "
                "Leave it False."
            )
        self.kind, self.num_classes, self.single_logit = kind, num_classes, single_logit
        width = num_classes if kind == "regression" else 1
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @property
    def num_outputs(self) -> int:
        """Width of the network's head."""
        return 1 if self.single_logit else self.num_classes

    @property
    def is_classification(self) -> bool:
        """Whether targets are class indices."""
        return self.kind == "classification"

    @property
    def score(self) -> str:
        """The metric by which models are selected and ranked."""
        return "accuracy" if self.is_classification else "rmse"

    @property
    def score_sign(self) -> int:
        """1 if a higher score is better, -1 if a lower one is."""
        return 1 if self.is_classification else -1

    def fit_scale(self, y: Tensor, how: str) -> None:
        """Set the inner scale of regression targets from the training in-splits.

        Args:
            y: targets in original units, (N, C).
            how: `standard` (mean 0, variance 1), `minmax` ([0, 1]) or `none`.

        Raises:
            ValueError: an unknown `how`, or a classification task with any but `none`.
        """
        self.check_scale(how)
        if how == "none":
            return
        y = y.double()
        if how == "standard":
            shift, scale = y.mean(0), y.std(0, correction=0)
        else:
            shift, scale = y.amin(0), y.amax(0) - y.amin(0)
        self.shift.copy_(shift)
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def check_scale(self, how: str) -> None:
        """Refuse a scale that is not known, or that this task has no use for.

        Raises:
            ValueError: it is one of these.
        """
        if how not in ("standard", "minmax", "none"):
            raise ValueError(f"dataset.target_scale={how!r}, expected standard, minmax or none.")
        if how != "none" and self.is_classification:
            raise ValueError(
                f"dataset.target_scale={how!r} scales regression targets, but this task is a classification. "
                "Leave it none."
            )

    def encode(self, y: Tensor) -> Tensor:
        """Regression targets (..., C) from original units into the inner scale."""
        return (y - self.shift) / self.scale

    def decode(self, outputs: Tensor) -> Tensor:
        """The network's answer (N, C) in original units; logits stay what they are."""
        return outputs if self.is_classification else outputs * self.scale + self.shift

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of each example, (N,): cross-entropy in nats, or squared error in the inner scale.

        Args:
            outputs: the network's answer in the inner scale, (N, C).
            y: targets, (N,) int64 or (N, C) in original units.
        """
        if self.single_logit:
            return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), y.to(outputs.dtype), reduction="none")
        if self.is_classification:
            return F.cross_entropy(outputs, y, reduction="none")
        return (outputs - self.encode(y)).square().mean(-1)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean of `losses`, ()."""
        if self.is_classification and not self.single_logit:
            return F.cross_entropy(outputs, y)
        return self.losses(outputs, y).mean()

    def metrics(self, predictions: Tensor, y: Tensor) -> dict[str, float]:
        """Metrics of predictions in original units.

        Classification: `accuracy` with its integer `correct` count, `macro_accuracy` (mean recall over the classes
        present), `nll` (nats), `ece` (15 equal-width bins). Regression: `rmse`, `mae`, `r2`, `pearson`, averaged over
        outputs. What is not defined (a correlation of constants, r2 of constant targets) is NaN.

        Args:
            predictions: logits or values, (N, C).
            y: targets, (N,) int64 or (N, C).
        """
        if not self.is_classification:
            return _regression_metrics(predictions.double(), y.double())
        if self.single_logit:
            predictions = torch.cat([torch.zeros_like(predictions), predictions], dim=-1)
        return _classification_metrics(predictions.float(), y, self.num_classes)


def _classification_metrics(logits: Tensor, y: Tensor, num_classes: int) -> dict[str, float]:
    confidence, predicted = logits.softmax(-1).max(-1)
    hit = predicted == y
    support = torch.bincount(y, minlength=num_classes).double()
    recall = torch.bincount(y, weights=hit.double(), minlength=num_classes) / support
    correct = int(hit.sum())
    return {
        "accuracy": correct / len(y),
        "correct": correct,
        "macro_accuracy": float(recall[support > 0].mean()),
        "nll": float(F.cross_entropy(logits, y)),
        "ece": expected_calibration_error(confidence, hit),
    }


def expected_calibration_error(confidence: Tensor, hit: Tensor, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (l, u], weighted by their counts.

    Args:
        confidence: top-1 probability, (N,).
        hit: whether the top-1 class is right, (N,) bool.
        bins: number of bins over [0, 1].
    """
    index = (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gap.index_add_(0, index, hit.double() - confidence.double())
    return float(gap.abs().sum() / len(confidence))


def _regression_metrics(predictions: Tensor, y: Tensor) -> dict[str, float]:
    error = predictions - y
    p, t = _centred(predictions), _centred(y)
    # 0 / 0 is NaN: with constants, a correlation and a share of the variance are not defined.
    pearson = (p * t).sum(0) / (p.square().sum(0).sqrt() * t.square().sum(0).sqrt())
    total = t.square().sum(0)
    unexplained = error.square().sum(0).where(total > 0, math.nan) / total
    return {
        "rmse": float(error.square().mean().sqrt()),
        "mae": float(error.abs().mean()),
        "r2": float((1 - unexplained).mean()),
        "pearson": float(pearson.mean()),
    }


def _centred(values: Tensor) -> Tensor:
    # Exactly zero for constants, whose mean may be off by a rounding.
    constant = values.amin(0) == values.amax(0)
    return (values - values.mean(0)).masked_fill(constant, 0.0)
