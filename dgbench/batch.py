"""What a training step sees, and the shape legend of the whole project.

`D` training domains in a batch, `B` examples per domain, `N` examples, `C` classes or outputs, `F` features,
`H`, `W` height and width, `U` target domains of the domain-adaptation task.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One training step's examples, one row per training domain."""

    x: Tensor
    """Inputs, (D, B, *input_shape); images in [0, 1]."""
    y: Tensor
    """Targets, (D, B) int64 for classes or (D, B, C) float in original units."""
    domain: Tensor
    """Index among the training domains, (D, B) int64."""
    unlabeled: Tensor | None = None
    """Inputs of the target domains, (U, B, *input_shape); domain-adaptation task only."""
