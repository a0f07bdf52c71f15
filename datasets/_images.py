"""Domains of image files, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from dgbench.dataset import Domain, Items, as_float


class ImageDomain(Domain):
    """A domain of image files.

    Training images are changed as in DomainBed: cropped, flipped, their colours varied.

    Args:
        name: matches `[a-z][a-z0-9_]*`.
        paths: one file per example.
        targets: (N,) int64.
        image_size: side in pixels to which images are resized, whatever their aspect.
    """

    def __init__(self, name: str, paths: Sequence[Path], targets: Tensor, image_size: int):
        super().__init__(name, targets)
        self.paths, self.image_size = tuple(paths), image_size
        self.resize = v2.Resize((image_size, image_size))
        self.augment = v2.Compose(
            [
                v2.RandomResizedCrop(image_size, scale=(0.7, 1.0)),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(0.3, 0.3, 0.3, 0.3),
                v2.RandomGrayscale(0.1),
            ]
        )

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Items:
        """Examples as they are evaluated: resized."""
        return self._items(indices, self.resize)

    def training_items(self, indices: Sequence[int] | Tensor) -> Items:
        """Examples as a training batch sees them: augmented by torch's global generator."""
        return self._items(indices, self.augment)

    def _items(self, indices: Sequence[int] | Tensor, transform: nn.Module) -> Items:
        indices = torch.as_tensor(indices, dtype=torch.int64)
        x = torch.empty(len(indices), 3, self.image_size, self.image_size, dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            # In Pillow, as in DomainBed: its resizing and its colours differ a little from torch's.
            x[row] = pil_to_tensor(transform(decode(self.paths[index])))
        return Items(as_float(x), self.targets[indices])


def decode(path: Path) -> Image.Image:
    """The image in three channels.

    Raises:
        ValueError: the file is no image, or not a whole one.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Pillow's decoders raise a dozen kinds of errors on damaged files, and none says which file it was.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}), expected a whole image file. Replace or remove it."
        ) from error
