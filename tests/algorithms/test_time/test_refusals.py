"""Values that several adapters refuse alike."""

import math

import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.keys import typed
from dgbench.registry import adapters
from tests.algorithms.test_time.small_model import stream, trained

NOT_FINITE = [
    ("bn_adapt", "prior", math.inf),
    ("bn_adapt", "prior", math.nan),
    ("memo", "prior", math.inf),
    ("memo", "lr", math.nan),
    ("lame", "weight", math.inf),
    ("adanpc", "temperature", math.nan),
    ("tent", "lr", -math.inf),
]


@pytest.mark.parametrize("name", ["tent", "cotta", "pseudo_label", "shot_im"])
@pytest.mark.parametrize("num", [0, -1])
def test_a_batch_is_updated_on_at_least_once(name, num):
    with pytest.raises(ValueError, match=rf"adapter\.num_updates={num}, expected updates per batch\. Set it to 1 or"):
        adapters[name].HParams(num_updates=num)


@pytest.mark.parametrize(("name", "field", "value"), NOT_FINITE)
def test_numbers_that_are_not_finite_are_refused_from_python_and_from_the_command(name, field, value):
    text = rf"adapter\.{field}={value}, expected a finite number\. Set it to one, or leave it out"
    with pytest.raises(ValueError, match=text):
        build_adapter(name, trained(), hparams={field: value}, source=[])
    with pytest.raises(ValueError, match=text):
        typed(adapters[name].HParams, {field: value}, "adapter.")


def test_infinity_is_taken_where_it_has_a_meaning_and_nan_is_not():
    model, x = trained("drm"), stream(1)[0]
    surest = build_adapter("drm_select", model, hparams={"gamma": -1.0})
    for hp in ({"gamma": math.inf}, typed(adapters["drm_select"].HParams, {"gamma": math.inf}, "adapter.")):
        assert torch.equal(build_adapter("drm_select", model, hparams=hp).step(x), surest.step(x))
    with pytest.raises(ValueError, match=r"adapter\.gamma=nan, expected"):
        build_adapter("drm_select", model, hparams={"gamma": math.nan})
