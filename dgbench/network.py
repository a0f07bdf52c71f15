"""Networks: normalise -> stages -> features (N, F) -> head (N, C)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from dgbench import backbones
from dgbench.backbones import ACTIVATIONS, INITS, Hooks, Staged, initialise
from dgbench.normalisation import NORMS, Normalise
from dgbench.registry import UnknownName
from dgbench.timm_body import TimmBody, build_timm_body, check_timm
from dgbench.weights import (
    SUFFIXES,
    is_weights_file,
    read_weights,
    repeat_channels,
    weights_hash,
    weights_identity,
)

__all__ = ["NETWORKS", "Network", "Options", "build_network", "network_recipe", "weights_hash", "weights_identity"]

# PyTorch draws a linear layer's weights so small that an mlp is far from done after a few hundred steps.
_PLAIN = {"activation": "relu", "init": "kaiming", "norm": "none"}
# The options that each net takes, with their defaults.
_OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 128, "depth": 1, **_PLAIN},
    "small_cnn": {"width": 16, "depth": 3, **_PLAIN, "init": "default"},
    "mnist_cnn": {"init": "default", "normalise": "none"},
    "small_resnet": {"width": 16, "depth": 1, **_PLAIN, "norm": "batch"},
}
NETWORKS = tuple(_OPTIONS)


class Options(TypedDict, total=False):
    """The options of a network; one that is None is the net's own default."""

    width: int | None
    """Units of a hidden layer, or channels of the first stage."""
    depth: int | None
    """Hidden layers (0 is linear), convolutions, or blocks of each layer."""
    activation: str | None
    """One of relu, gelu, leaky_relu (of slope 0.1), tanh and elu."""
    init: str | None
    """One of default, kaiming, xavier and orthogonal."""
    norm: str | None
    """One of none, batch, group, layer and instance_aware."""
    normalise: str | None
    """Statistics that inputs are normalised by: of the training data, of the weights' own training, or none."""
    weights: str | Path | None
    """A tag of timm's, or a local file: a network's state_dict, for timm also the model's own."""
    dropout: float
    """Probability that a feature is dropped in training."""
    freeze_bn: bool
    """Batch norms keep their running statistics; their weights are still trained."""
    channels_last: bool
    """Keep image tensors with channels innermost, which some devices compute faster."""
    compile: bool
    """Compile each stage."""


_GENERAL: Options = {"dropout": 0.0, "freeze_bn": False, "channels_last": False, "compile": False}


class Network(nn.Module):
    """What every method trains. Made by `build_network`.

    Args:
        recipe: as `network_recipe` returns it.
        input_shape: of an example, channels first.
        num_outputs: width of the head.
        weights: timm tag or local file, None for random ones.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        input_shape: tuple[int, ...],
        num_outputs: int,
        weights: str | None = None,
    ):
        super().__init__()
        self.recipe, self.input_shape, self.num_outputs = recipe, input_shape, num_outputs
        self.pretrained = weights is not None
        self._weights = weights
        state = read_weights(weights) if weights is not None and is_weights_file(weights) else None
        is_own = state is not None and "normalise.mean" in state
        self.normalise = Normalise(input_shape)
        self.body = self._make_body(None if is_own else state)
        self.stages, self.feature_dim = self.body.stages, self.body.feature_dim
        self.dropout = nn.Dropout(recipe["dropout"])
        self.head = self.new_head()
        if is_own and state is not None:
            self._load(state)
        norms = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if recipe["freeze_bn"] and not norms:
            raise ValueError(
                f"network.freeze_bn=true, but {recipe['name']} as configured has no batch norm. "
                f"Set freeze_bn=false, or use a net or norm that has."
            )
        if recipe["channels_last"]:
            self.to(memory_format=torch.channels_last)
        if recipe["compile"]:
            for name in self.stages:
                self.body.stage(name).compile()
        self.train()

    def _make_body(self, state: Mapping[str, Tensor] | None) -> Staged | TimmBody:
        name = self.recipe["name"]
        if name in NETWORKS:
            if state is not None:
                raise ValueError(
                    f"network.weights={self._weights!r} is not a state_dict of a dgbench network, which "
                    f"network={name} needs. Save one with torch.save(network.state_dict(), path)."
                )
            options = {key: self.recipe[key] for key in _OPTIONS[name] if key not in ("init", "normalise")}
            body: Staged = getattr(backbones, name)(self.input_shape, **options)
            initialise(body, self.recipe["init"], self.recipe.get("activation", "relu"))
            return body
        tag = self._weights if self._weights and not is_weights_file(self._weights) else None
        timm_body = build_timm_body(name.removeprefix("timm:"), self.input_shape, tag=tag, state=state)
        if (tag is not None or state is not None) and self.recipe["normalise"] == "weights":
            cfg: Any = timm_body.model.pretrained_cfg
            self.normalise.set(torch.tensor(cfg["mean"]), torch.tensor(cfg["std"]))
        return timm_body

    def _load(self, state: Mapping[str, Tensor]) -> None:
        if self.recipe["normalise"] == "weights":
            self.normalise.set(state["normalise.mean"].flatten(), state["normalise.std"].flatten())
        own = self.state_dict()
        body = {key: value for key, value in state.items() if key.startswith("body.")}
        # The head belongs to another task.
        kept = {key: value for key, value in own.items() if not key.startswith("body.")}
        try:
            self.load_state_dict({**repeat_channels(body, own), **kept})
        except RuntimeError as error:
            cause = " ".join(str(error).split())[:300]
            raise ValueError(
                f"network.weights={self._weights!r} does not fit network={self.recipe['name']} ({cause}). "
                f"Use the options that its network was built with."
            ) from error

    def features(self, x: Tensor, after: Hooks | None = None) -> Tensor:
        """Features of inputs (N, *input_shape), (N, F).

        Args:
            x: inputs.
            after: what to do with the output of a stage, by its name; `normalise` counts as one.

        Raises:
            UnknownName: `after` names no stage.
        """
        after = after or {}
        for name in after:
            if name not in ("normalise", *self.stages):
                raise UnknownName(f"stage of {self.recipe['name']}", name, ["normalise", *self.stages])
        x = self.normalise(x)
        x = after["normalise"](x) if "normalise" in after else x
        if self.recipe["channels_last"]:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.dropout(self.body(x, after))

    def forward(self, x: Tensor, after: Hooks | None = None) -> Tensor:
        """The answer in the task's inner scale, (N, C)."""
        return self.head(self.features(x, after))

    def train(self, mode: bool = True) -> Network:
        """As of any module, but frozen batch norms keep their running statistics."""
        super().train(mode)
        if self.recipe["freeze_bn"]:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def new_head(self, in_features: int | None = None) -> nn.Linear:
        """A fresh head.

        Args:
            in_features: what it reads, if not the features.
        """
        head = nn.Linear(self.feature_dim if in_features is None else in_features, self.num_outputs)
        initialise(head, self.recipe.get("init", "default"), "linear")
        return head

    def rebuild(self, **changes: Any) -> Network:
        """A network of the same recipe with changes, drawn or loaded afresh, with this one's normalisation.

        Args:
            changes: arguments of `build_network`. Channels that are added get pretrained filters in turn.
        """
        kept = {**self.recipe, "weights": changes.get("weights", self._weights)}
        if kept["weights"] is None and kept["normalise"] == "weights":
            # A checkpoint names the weights that a run began with, but does not need their file.
            kept["normalise"] = None
        shapes = {"input_shape": self.input_shape, "num_outputs": self.num_outputs}
        made = build_network(**{**kept, **shapes, **changes})
        if not {"name", "weights"} & set(changes):
            made.normalise.set(self.normalise.mean.flatten(), self.normalise.std.flatten())
        return made.to(self.normalise.mean.device)


def network_recipe(name: str, **options: Unpack[Options]) -> dict[str, Any]:
    """Name and resolved options of a network as primitives; builds and downloads nothing.

    Raises:
        UnknownName: no such network, option, weights, activation, init or norm.
        ValueError: an option that the network does not take, or a value out of range.
    """
    if name not in NETWORKS and not name.startswith("timm:"):
        raise UnknownName("network", name, [*NETWORKS, "timm:<name>"])
    own = _OPTIONS.get(name, {})
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in Options.__annotations__:
            raise UnknownName("option of a network", key, Options.__annotations__)
        if key not in (*own, *_GENERAL, "weights", "normalise"):
            takes = f"only {', '.join(own)}" if own else "no options of architecture"
            raise ValueError(f"network.{key}={value!r}, but {name} takes {takes}. Leave {key} out.")
    weights = options.get("weights")
    normalise = {"normalise": "data" if weights is None else "weights"}
    recipe: dict[str, Any] = {"name": name, **normalise, **own, **_GENERAL, **given}
    sources = ("data", "none") if weights is None else ("data", "weights", "none")
    for key, known in (("activation", ACTIVATIONS), ("init", INITS), ("norm", NORMS), ("normalise", sources)):
        if key in recipe and recipe[key] not in known:
            raise UnknownName(key, recipe[key], known)
    for key, least in (("width", 1), ("depth", 0 if name == "mlp" else 1)):
        if key in recipe and recipe[key] < least:
            raise ValueError(f"network.{key}={recipe[key]}, expected at least {least} for {name}.")
    if name == "mlp" and recipe["channels_last"]:
        raise ValueError("network.channels_last=true is for nets on images, but mlp flattens. Leave it false.")
    if name == "mlp" and recipe["norm"] == "instance_aware":
        raise ValueError("network.norm='instance_aware' normalises maps, but mlp has none. Use batch or layer.")
    if not 0 <= recipe["dropout"] < 1:
        raise ValueError(f"network.dropout={recipe['dropout']}, expected a probability from 0 to below 1.")
    _check_weights(name, weights)
    return {**recipe, "weights": weights_identity(weights)}


def _check_weights(name: str, weights: str | Path | None) -> None:
    is_file = weights is not None and is_weights_file(weights)
    if name.startswith("timm:"):
        check_timm(name.removeprefix("timm:"), None if is_file or weights is None else str(weights))
    elif weights is not None and not is_file:
        raise ValueError(
            f"network.weights={str(weights)!r}, expected a local file ({', '.join(SUFFIXES)}) for {name}. "
            f"Tags belong to network=timm:<name>."
        )
    if is_file and not Path(str(weights)).expanduser().is_file():
        raise ValueError(f"network.weights={str(weights)!r} does not exist. Name a file that torch.save wrote.")


def build_network(name: str, input_shape: tuple[int, ...], num_outputs: int, **options: Unpack[Options]) -> Network:
    """A network by name.

    Args:
        name: one of `NETWORKS`, or `timm:` and a name of timm's.
        input_shape: of an example, channels first.
        num_outputs: width of the head.
        options: see `Options`; each net has its own defaults.

    >>> build_network("small_cnn", (3, 16, 16), 2).stages
    ('conv1', 'conv2', 'conv3')

    Raises:
        UnknownName: no such network, option, weights, activation, init or norm.
        ValueError: an option or input that the network does not take, or weights that do not fit it.
    """
    input_shape = tuple(input_shape)
    recipe = network_recipe(name, **options)
    if name != "mlp" and len(input_shape) != 3:
        raise ValueError(f"network={name} takes images (C, H, W), got inputs of {input_shape}. Use network=mlp.")
    weights = options.get("weights")
    if weights is not None and is_weights_file(weights):
        weights = Path(weights).expanduser().resolve()
    return Network(recipe, input_shape, num_outputs, None if weights is None else str(weights))
