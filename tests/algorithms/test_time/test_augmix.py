import importlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

mix = importlib.import_module("dgbench.algorithms.test_time._augmix")


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def at(strength, N=1):
    return torch.full((N, 1, 1, 1), strength, dtype=torch.float64)


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "posterize", "solarize"])
def test_operations_on_colours_are_those_of_pillow(name):
    pixels = (np.random.default_rng(0).random((20, 30, 3)) ** 2 * 200).astype(np.uint8) + 30
    argument = {"posterize": (4,), "solarize": (256 - 20,)}.get(name, ())
    expected = np.asarray(getattr(ImageOps, name)(Image.fromarray(pixels), *argument), dtype=float)
    x = torch.from_numpy(pixels).permute(2, 0, 1).double() / 255
    got = getattr(mix, name)(x.unsqueeze(0), at(-20 / 256))[0].permute(1, 2, 0) * 255
    # Of posterize's 16 levels, 240 is the highest of Pillow's 255.
    np.testing.assert_allclose(got, expected * (255 / 256 if name == "posterize" else 1), atol=1.001)


def test_affine_operations_move_pixels_as_they_say():
    square, x = images(1, 2, 5, 5), images(1, 2, 5, 9)
    torch.testing.assert_close(mix.rotate(square, at(3.0)), square.rot90(1, (2, 3)))
    torch.testing.assert_close(mix.rotate(x, at(6.0)), x.flip(2, 3))
    one_right = torch.cat([x[..., 1:], torch.full_like(x[..., :1], 0.5)], 3)
    torch.testing.assert_close(mix.translate_x(x, at(1 / 3)), one_right)
    one_down = torch.cat([x[:, :, 1:], torch.full_like(x[:, :, :1], 0.5)], 2)
    torch.testing.assert_close(mix.translate_y(x, at(3 / 5)), one_down)
    sheared = mix.shear_x(x, at(1 / 0.3))
    torch.testing.assert_close(sheared[:, :, 2], x[:, :, 2])
    torch.testing.assert_close(sheared[:, :, 3], one_right[:, :, 3])
    torch.testing.assert_close(mix.shear_y(x, at(1 / 0.3))[..., 5], one_down[..., 5])


def test_copies_without_operations_are_shifted_and_mirrored(monkeypatch):
    monkeypatch.setattr(mix, "OPERATIONS", (lambda x, strength: x,))
    torch.manual_seed(0)
    image = images(1, 16, 8)
    padded = torch.nn.functional.pad(image, (1, 1, 2, 2))
    views = {(i, j, m): padded[:, i : i + 16, j : j + 8] for i in range(5) for j in range(3) for m in (False, True)}
    views = {key: view.flip(-1) if key[2] else view for key, view in views.items()}
    found = [[k for k, v in views.items() if torch.allclose(v, y)] for y in mix.augmix(image, 600)]
    assert all(len(keys) == 1 for keys in found)
    assert {keys[0] for keys in found} == views.keys()


def test_chains_have_one_to_three_operations_of_severity_one(monkeypatch):
    strengths = []

    def halve(x, strength):
        strengths.append(strength.flatten())
        return x / 2

    monkeypatch.setattr(mix, "OPERATIONS", (halve, halve))
    torch.manual_seed(0)
    y = mix.augmix(torch.ones(1, 4, 4), 6000)[:, 0, 0, 0]
    depth_mean = (1 / 2 + 1 / 4 + 1 / 8) / 3
    assert y.mean().item() == pytest.approx(0.5 + 0.5 * depth_mean, abs=0.01)
    s = torch.cat(strengths)
    assert s.abs().min() >= 0.01
    assert 0.0995 < s.abs().max() <= 0.1
    assert abs((s > 0).double().mean() - 0.5) < 0.02


def test_chains_are_mixed_by_uniform_weights(monkeypatch):
    """Dirichlet(1, 1, 1): E w_i^2 = 1 / 6 and E w_i w_j = 1 / 12; Beta(1, 1): E m^2 = 1 / 3 and E m (1 - m) = 1 / 6."""
    monkeypatch.setattr(mix, "OPERATIONS", (lambda x, strength: x, lambda x, strength: 0 * x))
    monkeypatch.setattr(mix, "MAX_DEPTH", 1)  # so that a chain is white or black
    torch.manual_seed(0)
    y = mix.augmix(torch.ones(1, 4, 4), 40000)[:, 0, 0, 0]
    white = 3 / 6 / 2 + 6 / 12 / 4  # mean square of the white chains' weight
    assert y.square().mean().item() == pytest.approx(1 / 3 + 2 / 6 / 2 + white / 3, abs=0.004)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (5, 7, 9), (2, 1, 1)])
def test_any_shape_stays_in_the_unit_interval(shape):
    torch.manual_seed(0)
    image = 3 * torch.randn(shape)
    before = image.clone()
    y = mix.augmix(image, 40)
    assert y.shape == (40, *shape)
    assert y.dtype == image.dtype
    assert y.min() >= 0
    assert y.max() <= 1 + 1e-6
    assert torch.equal(image, before)
