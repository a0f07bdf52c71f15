"""The small nets: bodies made of named stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

from torch import Tensor, nn

from dgbench.normalisation import make_norm

Hooks = Mapping[str, Callable[[Tensor], Tensor]]

INITS = ("default", "kaiming", "xavier", "orthogonal")
LEAK = 0.1
"""Slope of the leaky ReLU where its input is negative."""
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "leaky_relu": partial(nn.LeakyReLU, LEAK),
    "tanh": nn.Tanh,
    "elu": nn.ELU,
}


class Staged(nn.Sequential):
    """Named stages one after the other, then global average pooling of maps.

    Args:
        stages: name to module, in order.
        feature_dim: width of what comes out.
        is_flat: whether inputs are flattened first.
    """

    def __init__(self, stages: Mapping[str, nn.Module], feature_dim: int, *, is_flat: bool = False):
        super().__init__(OrderedDict(stages))
        self.stages, self.feature_dim, self.is_flat = tuple(stages), feature_dim, is_flat

    def forward(self, x: Tensor, after: Hooks | None = None) -> Tensor:
        """Features, (N, F)."""
        after = after or {}
        x = x.flatten(1) if self.is_flat else x
        for name, stage in self.named_children():
            x = stage(x)
            x = after[name](x) if name in after else x
        return x.mean((2, 3)) if x.ndim == 4 else x

    def stage(self, name: str) -> nn.Module:
        """The module of a stage."""
        return self.get_submodule(name)


def mlp(input_shape: tuple[int, ...], *, width: int, depth: int, activation: str, norm: str) -> Staged:
    """`depth` hidden layers of `width` units on the flattened input; none is a linear model."""
    widths = [prod(input_shape)] + [width] * depth
    stages = {
        f"layer{i}": nn.Sequential(nn.Linear(a, b), make_norm(norm, b, is_flat=True), ACTIVATIONS[activation]())
        for i, (a, b) in enumerate(pairwise(widths), 1)
    }
    return Staged(stages, widths[-1], is_flat=True)


def small_cnn(input_shape: tuple[int, ...], *, width: int, depth: int, activation: str, norm: str) -> Staged:
    """3x3 convolutions, the first of stride 1 and the others of stride 2, channels doubling from `width`."""
    channels = [input_shape[0]] + [width * 2**i for i in range(depth)]
    stages = {
        f"conv{i}": nn.Sequential(*_conv(a, b, 1 if i == 1 else 2, norm), ACTIVATIONS[activation]())
        for i, (a, b) in enumerate(pairwise(channels), 1)
    }
    return Staged(stages, channels[-1])


def mnist_cnn(input_shape: tuple[int, ...]) -> Staged:
    """DomainBed's network for MNIST, which normalises after the activation."""
    channels = [input_shape[0], 64, 128, 128, 128]
    strides = [1, 2, 1, 1]
    stages = {
        f"conv{i}": nn.Sequential(nn.Conv2d(a, b, 3, stride, padding=1), nn.ReLU(), nn.GroupNorm(8, b))
        for i, ((a, b), stride) in enumerate(zip(pairwise(channels), strides, strict=True), 1)
    }
    return Staged(stages, channels[-1])


def small_resnet(input_shape: tuple[int, ...], *, width: int, depth: int, activation: str, norm: str) -> Staged:
    """Three layers of `depth` basic blocks, channels doubling from `width`. The stem halves large images."""
    stride = 2 if min(input_shape[1:]) >= 64 else 1
    stem = nn.Sequential(*_conv(input_shape[0], width, stride, norm), ACTIVATIONS[activation]())
    stages: dict[str, nn.Module] = {"stem": stem}
    channels = [width, width, 2 * width, 4 * width]
    for i, (a, b) in enumerate(pairwise(channels), 1):
        first = BasicBlock(a, b, 1 if i == 1 else 2, activation, norm)
        rest = [BasicBlock(b, b, 1, activation, norm) for _ in range(depth - 1)]
        stages[f"layer{i}"] = nn.Sequential(first, *rest)
    return Staged(stages, channels[-1])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, a: int, b: int, stride: int, activation: str, norm: str):
        super().__init__()
        first, second = _conv(a, b, stride, norm), _conv(b, b, 1, norm)
        self.residual = nn.Sequential(*first, ACTIVATIONS[activation](), *second)
        same = stride == 1 and a == b
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(a, b, stride, norm, size=1))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, b, H / stride, W / stride)."""
        return self.activation(self.residual(x) + self.shortcut(x))


def _conv(a: int, b: int, stride: int, norm: str, size: int = 3) -> tuple[nn.Module, nn.Module]:
    # A normalisation has a bias of its own.
    conv = nn.Conv2d(a, b, size, stride, padding=size // 2, bias=norm == "none")
    return conv, make_norm(norm, b)


def initialise(module: nn.Module, init: str, nonlinearity: str) -> None:
    """Draw the weights of all linear and convolutional layers anew, and set their biases to 0.

    Args:
        module: changed in place.
        init: default (as PyTorch drew them, biases too), kaiming, xavier or orthogonal.
        nonlinearity: what follows the layers, an activation or `linear`.
    """
    if init == "default":
        return
    # PyTorch tabulates no gain for these two; they are close to a ReLU.
    nonlinearity = "relu" if nonlinearity in ("gelu", "elu") else nonlinearity
    slope = LEAK if nonlinearity == "leaky_relu" else 0.0
    kind: Any = nonlinearity
    gain = nn.init.calculate_gain(kind, slope)
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            if init == "kaiming":
                nn.init.kaiming_normal_(layer.weight, a=slope, nonlinearity=kind)
            elif init == "xavier":
                nn.init.xavier_uniform_(layer.weight, gain)
            else:
                nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
