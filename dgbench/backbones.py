"""The bodies of the networks: small nets made of named stages, and any timm model."""

from __future__ import annotations

import difflib
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import pairwise
from math import prod
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dgbench.registry import UnknownName

Hooks = Mapping[str, Callable[[Tensor], Tensor]]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
}


class InstanceAwareBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that moves to an instance's own statistics where they differ significantly (IABN).

    Where an instance's mean or variance lies beyond `k` standard errors of the batch's, that excess is kept.
    Maps of a single pixel have no variance of their own and are normalised by the batch's.
    Reference: Gong et al., NOTE, NeurIPS 2022, https://arxiv.org/abs/2208.05117.

    Args:
        num_features: channels.
        k: standard errors that are still noise; infinite is batch norm, 0 is instance norm.
    """

    def __init__(self, num_features: int, k: float = 4.0, **kwargs: Any):
        super().__init__(num_features, **kwargs)
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Normalised maps, (N, C, H, W)."""
        self._check_input_dim(x)
        # Variances of half-precision maps overflow.
        maps = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean, var = (s.view(1, -1, 1, 1) for s in self._batch_statistics(maps))
        num_pixels = x.shape[2] * x.shape[3]
        if num_pixels > 1:
            own_var, own_mean = torch.var_mean(maps, (2, 3), keepdim=True)  # (N, C, 1, 1)
            spread = var + self.eps
            mean = mean + _beyond(own_mean - mean, self.k * (spread / num_pixels).sqrt())
            var = (var + _beyond(own_var - var, self.k * spread * (2 / (num_pixels - 1)) ** 0.5)).relu()
        maps = (maps - mean) * (var + self.eps).rsqrt()
        if self.affine:
            maps = maps * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return maps.to(x.dtype)

    def _batch_statistics(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        running_mean, running_var = self.running_mean, self.running_var
        if not self.training and running_mean is not None and running_var is not None:
            return running_mean, running_var
        if maps.numel() == maps.shape[1]:
            raise ValueError("norm=instance_aware needs more than one value per channel to train, got one.")
        var, mean = torch.var_mean(maps, (0, 2, 3))
        if self.training and running_mean is not None and running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), weight)
                running_var.lerp_(var.to(running_var.dtype), weight)
        return mean, var


def _beyond(value: Tensor, margin: Tensor) -> Tensor:
    return value - torch.minimum(torch.maximum(value, -margin), margin)


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


class TimmBody(nn.Module):
    """A timm model without its classifier; its stages are the modules of its `feature_info`.

    Args:
        model: made with `num_classes=0`.
        feature_dim: width of what comes out.
    """

    def __init__(self, model: nn.Module, feature_dim: int):
        super().__init__()
        self.model, self.feature_dim = model, feature_dim
        modules = dict(model.named_modules())
        info: Any = getattr(model, "feature_info", None) or ()
        self.stages = tuple(dict.fromkeys(entry["module"] for entry in info if modules.get(entry["module"])))

    def forward(self, x: Tensor, after: Hooks | None = None) -> Tensor:
        """Features, (N, F)."""
        with ExitStack() as placed:
            for name, hook in (after or {}).items():
                if name in self.stages:
                    placed.enter_context(_placed(self.stage(name), hook))
            return self.model(x)

    def stage(self, name: str) -> nn.Module:
        """The module of a stage."""
        return self.model.get_submodule(name)


def _placed(module: nn.Module, hook: Callable[[Tensor], Tensor]) -> Any:
    return module.register_forward_hook(lambda _module, _inputs, output: hook(output))


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


def make_norm(norm: str, channels: int, *, is_flat: bool = False) -> nn.Module:
    """The normalisation of maps, or of flat activations, by name."""
    if norm == "none":
        return nn.Identity()
    if norm == "group":
        return nn.GroupNorm(max(g for g in range(1, 9) if channels % g == 0), channels)
    if norm == "layer":
        return nn.LayerNorm(channels) if is_flat else nn.GroupNorm(1, channels)
    if norm == "instance_aware":
        return InstanceAwareBatchNorm2d(channels)
    return nn.BatchNorm1d(channels) if is_flat else nn.BatchNorm2d(channels)


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
    slope = 0.01 if nonlinearity == "leaky_relu" else 0.0
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


def timm_body(
    model: str,
    input_shape: tuple[int, ...],
    *,
    tag: str | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> TimmBody:
    """A timm model, random or with the weights of a tag or of a file in the model's own format.

    Args:
        model: timm's name, without tag.
        input_shape: of an image. Pretrained filters of other channel counts are the weights' own, repeated.
        tag: one of timm's sets of weights, which timm downloads.
        state: content of a local file.

    Raises:
        ValueError: the weights cannot be had or do not fit, or the model cannot take the images.
    """
    cfg: Any = timm.get_pretrained_cfg(model)
    own_shape = tuple((cfg and cfg.input_size) or (3, 224, 224))
    options: dict[str, Any] = {"num_classes": 0}
    if cfg and cfg.fixed_input_size and input_shape[1:] != own_shape[1:]:
        options["img_size"] = input_shape[1:]
    channels = own_shape[0] if tag else input_shape[0]
    try:
        made = timm.create_model(f"{model}.{tag}" if tag else model, bool(tag), in_chans=channels, **options)
        if tag and channels != input_shape[0]:
            source, made = made, timm.create_model(model, in_chans=input_shape[0], **options)
            made.pretrained_cfg = source.pretrained_cfg
            _load(made, source.state_dict())
        if state is not None:
            # By timm's convention this reads older formats and fits position embeddings to the image.
            convert = getattr(sys.modules[type(made).__module__], "checkpoint_filter_fn", None)
            _load(made, convert(dict(state), made) if convert else state)
    except Exception as error:
        raise ValueError(_timm_failure(model, tag, state, input_shape, error)) from error
    return TimmBody(made, _measured(made, model, input_shape))


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    # timm itself would leave what is missing at random; a classifier may be there in vain.
    own = model.state_dict()
    model.load_state_dict({key: value for key, value in repeat_channels(state, own).items() if key in own})


def check_timm(model: str, tag: str | None) -> None:
    """Whether timm knows the names, without building or downloading anything.

    Raises:
        UnknownName: it does not.
        ValueError: the model's name carries a tag.
    """
    if "." in model:
        bare, tag = model.split(".", 1)
        raise ValueError(
            f"network='timm:{model}' holds a tag, expected a bare model name. "
            f"Use network=timm:{bare} network.weights={tag}."
        )
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=5, cutoff=0.5)
        raise UnknownName("timm model", model, [*near, "the others of timm.list_models()"])
    if tag is not None:
        tags = [name.split(".", 1)[1] for name in timm.list_pretrained(f"{model}.*")]
        if tag not in tags:
            raise UnknownName(f"set of weights of timm:{model} (nor a .safetensors, .pth or .pt file)", tag, tags)


def _timm_failure(model: str, tag: str | None, state: Any, shape: tuple[int, ...], error: Exception) -> str:
    cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if tag:
        return (
            f"The weights {tag!r} of the timm model {model!r} could not be downloaded ({cause}). "
            f"Fetch them where there is internet and set network.weights=<local file>."
        )
    if state is not None:
        return f"network.weights does not fit timm:{model} ({cause}). Use a state_dict of that model."
    return f"timm:{model} cannot be made for images of shape {shape} ({cause}). Use another size or network."


def _measured(model: nn.Module, name: str, input_shape: tuple[int, ...]) -> int:
    # `num_features` is not always the width of what a model without classifier returns.
    try:
        with torch.no_grad():
            features = model.eval()(torch.zeros(1, *input_shape))  # (1, F)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(_timm_failure(name, None, None, input_shape, error)) from error
    model.train()
    if features.ndim != 2:
        shape = ("N", *features.shape[1:])
        raise ValueError(f"timm:{name} returns features of shape {shape}, expected (N, F). Use another network.")
    return features.shape[1]


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
