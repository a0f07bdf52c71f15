"""Weights: what names them, and local files of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt")


def is_weights_file(weights: str | Path) -> bool:
    """Whether weights are named by a local file, not by a tag."""
    return Path(weights).suffix in SUFFIXES


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state_dict in a local file, also where it lies under `state_dict` or `model`.

    Raises:
        ValueError: the file cannot be read as one.
    """
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    except Exception as error:
        raise ValueError(
            f"network.weights={str(path)!r} cannot be read as weights ({type(error).__name__}). "
            f"Save a state_dict of tensors with torch.save."
        ) from error


def weights_identity(weights: str | Path | None) -> str | None:
    """What names weights everywhere: a tag as it is, a local file by the hash of its content.

    >>> weights_identity("a1_in1k")
    'a1_in1k'
    """
    if weights is None or not is_weights_file(weights):
        return None if weights is None else str(weights)
    path = Path(weights).expanduser().resolve()
    stat = path.stat()
    return f"sha256:{_file_hash(path, stat.st_size, stat.st_mtime_ns)}"


@cache
def _file_hash(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(network: nn.Module) -> str:
    """16 hex digits of the SHA-256 of parameters and buffers, in the order of the state_dict."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def repeat_channels(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for another number of input channels: filter `i` is filter `i mod n` of the `n` there are.

    Args:
        state: what there is.
        like: the shapes wanted; tensors that differ otherwise are returned as they are.
    """

    def fitted(value: Tensor, shape: torch.Size) -> Tensor:
        is_filter = value.ndim in (2, 4) and len(shape) == value.ndim
        if not is_filter or value.shape[0] != shape[0] or value.shape[2:] != shape[2:]:
            return value
        return value[:, torch.arange(shape[1]) % value.shape[1]]

    return {name: fitted(value, like[name].shape) if name in like else value for name, value in state.items()}
