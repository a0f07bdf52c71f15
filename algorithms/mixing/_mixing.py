"""Convex combinations of examples, at the input or within a network."""

from __future__ import annotations

from torch import Tensor

from dgbench.network import Network
from dgbench.registry import UnknownName


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """`share * a + (1 - share) * b`.

    Args:
        a: (..., *rest).
        b: as `a`.
        share: in [0, 1], one for each index into the leading axes, (...); () is one for all.
    """
    share = share.to(a).view(share.shape + (1,) * (a.ndim - share.ndim))
    return share * a + (1 - share) * b


def place(network: Network, name: str) -> str:
    """After which stage `Network.features` mixes: the named one, or the normalisation for `input`.

    Normalisation is affine, so what is mixed right after it is the input.

    Raises:
        UnknownName: the network has no such stage.
    """
    known = ["input", *network.stages]
    if name not in known:
        raise UnknownName(f"place to mix in {network.recipe['name']}", name, known)
    return "normalise" if name == "input" else name
