"""Memories of test images that stay balanced over the predicted classes, filled one image after another.

Which image leaves depends on what earlier images have left behind, so each costs a few operations on `size` numbers;
these lie on the CPU, the images with the model.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Memory:
    """Up to `size` images with the classes that were predicted for them.

    Args:
        size: most images.
        num_classes: C.
        example: an image, (*input_shape), whose dtype and device those in the memory have.
    """

    def __init__(self, size: int, num_classes: int, example: Tensor):
        self.size, self.num_classes = size, num_classes
        self.num_images = 0
        self.slots = example.new_zeros(size, *example.shape)
        self.labels = torch.full((size,), num_classes)  # an empty slot is of no class

    def __len__(self) -> int:
        return self.num_images

    @property
    def images(self) -> Tensor:
        """What is in the memory, (N, *input_shape)."""
        return self.slots[: self.num_images]

    @property
    def counts(self) -> Tensor:
        """Images of each class, (C,)."""
        return torch.bincount(self.labels, minlength=self.num_classes + 1)[: self.num_classes]

    def put(self, slot: int, image: Tensor, label: int) -> None:
        """Write into an occupied slot, or into the first that is empty."""
        self.slots[slot], self.labels[slot] = image, label
        self.num_images = max(self.num_images, slot + 1)


class TimelyMemory(Memory):
    """RoTTA's memory (CSTU): a class holds its share of the memory, and old and uncertain images leave first.

    Args:
        size: most images, N; `N / C` are a class's share.
        num_classes: C.
        example: an image, (*input_shape).
        age_weight: of the age in the score by which images leave, lambda_t.
        uncertainty_weight: of the uncertainty in that score, lambda_u.
    """

    def __init__(
        self, size: int, num_classes: int, example: Tensor, age_weight: float = 1.0, uncertainty_weight: float = 1.0
    ):
        super().__init__(size, num_classes, example)
        self.age_weight, self.uncertainty_weight = age_weight, uncertainty_weight
        self.uncertainties = torch.zeros(size, dtype=torch.float64)
        self.slot_ages = torch.zeros(size, dtype=torch.int64)
        self.max_uncertainty = torch.tensor(num_classes, dtype=torch.float64).log()

    @property
    def ages(self) -> Tensor:
        """How many images were offered since each of those in the memory, itself among them, (N,)."""
        return self.slot_ages[: self.num_images]

    def score(self, age: Tensor, uncertainty: Tensor) -> Tensor:
        """`lambda_t * sigmoid(age / size) + lambda_u * uncertainty / log(C)`; the highest leaves first."""
        timeliness = (age / self.size).double().sigmoid()
        return self.age_weight * timeliness + self.uncertainty_weight * uncertainty / self.max_uncertainty

    def add(self, image: Tensor, label: int, uncertainty: float) -> None:
        """Offer an image.

        Args:
            image: (*input_shape).
            label: its predicted class.
            uncertainty: entropy of its prediction, in nats.
        """
        slot = self._slot(label, uncertainty)
        if slot is not None:
            self.put(slot, image, label)
            self.uncertainties[slot], self.slot_ages[slot] = uncertainty, 0
        self.slot_ages[: self.num_images] += 1

    def _slot(self, label: int, uncertainty: float) -> int | None:
        counts = self.counts
        if counts[label] >= self.size / self.num_classes:
            is_rival = self.labels == label
        elif self.num_images < self.size:
            return self.num_images
        else:
            is_rival = counts[self.labels] == counts.max()
        scores = self.score(self.slot_ages, self.uncertainties).where(is_rival, -torch.inf)
        if scores.max() <= self.score(torch.tensor(0), torch.tensor(uncertainty, dtype=torch.float64)):
            return None
        # Of equal scores the latest leaves; no two images have the same age.
        return int(self.slot_ages.where(scores == scores.max(), torch.iinfo(torch.int64).max).argmin())


class ReservoirMemory(Memory):
    """NOTE's memory (PBRS): a uniform sample of what was predicted as a class, of as many images from each class.

    Args:
        size: most images.
        num_classes: C.
        example: an image, (*input_shape).
    """

    def __init__(self, size: int, num_classes: int, example: Tensor):
        super().__init__(size, num_classes, example)
        self.num_offered = torch.zeros(num_classes, dtype=torch.int64)

    def add(self, image: Tensor, label: int) -> None:
        """Offer an image, (*input_shape), with its predicted class."""
        self.num_offered[label] += 1
        slot = self._slot(label)
        if slot is not None:
            self.put(slot, image, label)

    def _slot(self, label: int) -> int | None:
        if self.num_images < self.size:
            return self.num_images
        counts = self.counts
        is_largest = counts == counts.max()  # (C,)
        if not is_largest[label]:
            label = drawn(is_largest)
        elif torch.rand(()) >= counts[label] / self.num_offered[label]:
            return None
        return drawn(self.labels == label)


def drawn(mask: Tensor) -> int:
    """The index of one of the true entries, all equally likely."""
    indices = mask.nonzero().squeeze(1)
    return int(indices[torch.randint(len(indices), ())])
