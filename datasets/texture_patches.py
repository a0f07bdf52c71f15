"""Patches of three surfaces under six changes of light and optics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import ndimage

from dgbench.dataset import Card, TensorDomain

from ._photographs import PhotographDataset, cut_blocks, cut_tiles, read_photograph

STYLES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "plain": lambda block, _: block,
    "gamma": lambda block, _: block**1.8,
    "blur": lambda block, _: ndimage.gaussian_filter(block, 1.5),
    "zoom": lambda block, _: ndimage.zoom(block, 1.5, order=1),
    "noise": lambda block, rng: block + rng.normal(0, 0.1, block.shape),
    "lowcon": lambda block, _: 0.5 + 0.4 * (block - block.mean()),
}
"""What a domain does to a block of 96 x 96 pixels before it is cut into patches."""

MOST = 110


class TexturePatches(PhotographDataset):
    """Brick, grass and gravel as (1, 32, 32) grey patches in [0, 1].

    Each photograph is cut into 25 blocks that do not overlap; a block belongs to one domain, so domains
    share no pixel. Mean grey level is a shortcut that holds in `plain` and breaks elsewhere: normalising
    each patch helps a lot.

    Domains:
        plain; gamma: x^1.8; blur: Gaussian, deviation 1.5 pixels; zoom: 1.5 times, bilinear; noise:
        Gaussian, deviation 0.1, clipped; lowcon: contrast 0.4 around 0.5.
    Classes:
        brick, grass, gravel.
    Images per domain:
        330, 300, 300, 330, 300, 300; at most 110 of a class.
    Licence:
        CC0.
    Source:
        Three photographs that scikit-image ships; nothing is downloaded.
    Splits:
        None official; blocks, noise and the choice of patches are drawn from `data_seed`.
    Known defects:
        Patches of one block overlap, so a random split within a domain shares pixels and looks easier than
        it is.
    Reference:
        van der Walt et al., "scikit-image: image processing in Python", PeerJ 2:e453, 2014.
    """

    card = Card(
        summary="Patches of three surfaces under changes of light and optics; which surface is it?",
        domains=tuple(STYLES),
        sizes=(330, 300, 300, 330, 300, 300),
        classes=("brick", "grass", "gravel"),
        regime="small",
        network="small_cnn",
        num_steps=500,
        evaluate_every=100,
        licence="CC0",
        source="brick.png, grass.png and gravel.png, shipped with scikit-image",
        checksums={
            "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
            "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
            "gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        },
        citation="S. van der Walt et al. scikit-image: image processing in Python. PeerJ 2:e453, 2014.",
        defects=("patches of one block overlap, so a random split within a domain shares pixels",),
    )

    def load(self) -> Iterator[TensorDomain]:
        """The domains, by change; within a domain, patches are ordered by class."""
        rng = np.random.default_rng(self.options.data_seed)
        cells: dict[str, list[np.ndarray]] = {name: [] for name in STYLES}  # per domain, patches of each class
        for texture in self.card.classes:
            blocks = cut_blocks(read_photograph(texture))
            order = rng.permutation(len(blocks))
            for i, (name, restyle) in enumerate(STYLES.items()):
                own = [blocks[j] for j in order[i :: len(STYLES)]]
                patches = np.concatenate([cut_tiles(restyle(block, rng).clip(0, 1)) for block in own])
                cells[name].append(patches[rng.permutation(len(patches))[:MOST]])
        for name, patches_by_class in cells.items():
            inputs = torch.from_numpy(np.concatenate(patches_by_class).astype(np.float32))[:, None]
            targets = np.repeat(np.arange(len(patches_by_class)), [len(patches) for patches in patches_by_class])
            yield TensorDomain(name, inputs, torch.from_numpy(targets))
