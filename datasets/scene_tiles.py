"""Tiles of eight photographs, as photographs and in three drawn styles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2gray, rgb2hsv
from skimage.filters import sobel
from skimage.transform import resize

from dgbench.dataset import Card, TensorDomain

from ._photographs import PhotographDataset, cut_blocks, cut_tiles, read_photograph

SIDE = 480
MOST = 60
FLAT = 0.03


def _art(block: np.ndarray) -> np.ndarray:
    hsv = rgb2hsv(ndimage.median_filter(block, (5, 5, 1)))
    hsv[..., 0] = (hsv[..., 0] + 0.33) % 1
    hsv[..., 1] = (hsv[..., 1] * 1.5).clip(0, 1)
    return hsv2rgb(hsv)


def _cartoon(block: np.ndarray) -> np.ndarray:
    flat = np.round(3 * ndimage.median_filter(block, (3, 3, 1))) / 3
    outline = (sobel(rgb2gray(block)) / 0.15).clip(0, 1)
    return flat * (1 - outline)[..., None]


def _sketch(block: np.ndarray) -> np.ndarray:
    outline = (sobel(ndimage.gaussian_filter(rgb2gray(block), 0.7)) / 0.2).clip(0, 1)
    return np.repeat((1 - outline)[..., None], 3, axis=-1)


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "photo": lambda block: block,
    "art": _art,
    "cartoon": _cartoon,
    "sketch": _sketch,
}
"""What a domain does to a block of 96 x 96 pixels before it is cut into tiles."""


class SceneTiles(PhotographDataset):
    """Eight photographs cut into (3, 32, 32) tiles in [0, 1]; the class is the photograph.

    Each photograph is resized to a shorter side of 480 pixels and cut into blocks that do not overlap; a
    block belongs to one domain, so domains share no pixel. Tiles of flat background are dropped.

    Domains:
        photo; art: median filter, hue shifted by a third, more saturated; cartoon: four levels per channel
        and dark outlines; sketch: outlines on white.
    Classes:
        astronaut, chelsea (a cat), coffee, hubble (galaxies), ihc (stained tissue), retina, rocket, china
        (a temple).
    Images per domain:
        About 470: at most 60 of a class, fewer where much is background. The numbers depend on `data_seed`.
    Licence:
        Public domain or CC0, but china.jpg: CC BY 2.0, danielbuechele on Flickr.
    Source:
        Photographs that scikit-image and scikit-learn ship; nothing is downloaded.
    Splits:
        None official; blocks and the choice of tiles are drawn from `data_seed`.
    Known defects:
        Tiles of one block overlap, so a random split within a domain shares pixels and looks easier than it
        is. Classes are not quite balanced: macro accuracy is the fairer number.
    Reference:
        van der Walt et al., "scikit-image: image processing in Python", PeerJ 2:e453, 2014.
    """

    card = Card(
        summary="Tiles of eight photographs in four styles; which photograph is it?",
        domains=tuple(STYLES),
        sizes=(),
        classes=("astronaut", "chelsea", "coffee", "hubble", "ihc", "retina", "rocket", "china"),
        regime="small",
        network="small_cnn",
        num_steps=500,
        evaluate_every=100,
        licence="public domain or CC0, but china.jpg: CC BY 2.0, flickr.com/photos/danielbuechele",
        source="seven photographs shipped with scikit-image and china.jpg, shipped with scikit-learn",
        checksums={
            "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
            "ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
            "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
            "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
            "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        },
        citation="S. van der Walt et al. scikit-image: image processing in Python. PeerJ 2:e453, 2014.",
        defects=(
            "tiles of one block overlap, so a random split within a domain shares pixels",
            "classes are not quite balanced",
        ),
    )

    def load(self) -> Iterator[TensorDomain]:
        """The domains, by style; within a domain, tiles are ordered by class."""
        rng = np.random.default_rng(self.options.data_seed)
        cells: dict[str, list[np.ndarray]] = {name: [] for name in STYLES}  # per domain, tiles of each class
        for scene in self.card.classes:
            blocks = cut_blocks(_resized(read_photograph(scene)))
            order = rng.permutation(len(blocks))
            for i, (name, restyle) in enumerate(STYLES.items()):
                tiles = np.concatenate([_tiles(blocks[j], restyle) for j in order[i :: len(STYLES)]])
                cells[name].append(tiles[rng.permutation(len(tiles))[:MOST]])
        for name, tiles_by_class in cells.items():
            inputs = torch.from_numpy(np.concatenate(tiles_by_class).astype(np.float32)).permute(0, 3, 1, 2)
            targets = np.repeat(np.arange(len(tiles_by_class)), [len(tiles) for tiles in tiles_by_class])
            yield TensorDomain(name, inputs.contiguous(), torch.from_numpy(targets))


def _resized(photograph: np.ndarray) -> np.ndarray:
    H, W = photograph.shape[:2]
    scale = SIDE / min(H, W)
    return resize(photograph, (round(H * scale), round(W * scale)), anti_aliasing=True)


def _tiles(block: np.ndarray, restyle: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Tiles of the restyled block, but for those that were flat in the photograph."""
    is_flat = cut_tiles(rgb2gray(block)).std(axis=(1, 2)) <= FLAT
    return cut_tiles(restyle(block))[~is_flat]
