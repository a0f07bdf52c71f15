"""Any timm model as the body of a network.

timm takes 0.8 s to import, so the functions that need it import it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.backbones import Hooks
from dgbench.registry import UnknownName
from dgbench.weights import repeat_channels


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


def build_timm_body(
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
    import timm

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
        raise ValueError(_failure(model, tag, state, input_shape, error)) from error
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
    import timm

    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=5, cutoff=0.5)
        raise UnknownName("timm model", model, [*near, "the others of timm.list_models()"])
    if tag is not None:
        tags = [name.split(".", 1)[1] for name in timm.list_pretrained(f"{model}.*")]
        if tag not in tags:
            raise UnknownName(f"set of weights of timm:{model} (nor a .safetensors, .pth or .pt file)", tag, tags)


def _failure(model: str, tag: str | None, state: Any, shape: tuple[int, ...], error: Exception) -> str:
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
        raise ValueError(_failure(name, None, None, input_shape, error)) from error
    model.train()
    if features.ndim != 2:
        shape = ("N", *features.shape[1:])
        raise ValueError(f"timm:{name} returns features of shape {shape}, expected (N, F). Use another network.")
    return features.shape[1]
