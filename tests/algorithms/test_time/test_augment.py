import colorsys
import importlib
import math

import numpy as np
import pytest
import torch

core = importlib.import_module("dgbench.algorithms.test_time._augment")
COLOURS = {"hard": (0.4, 0.3, 0.5, 0.3, 0.06), "soft": (0.2, 0.15, 0.25, 0.15, 0.03)}
GREY = np.array([0.2989, 0.587, 0.114])


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def still(monkeypatch):
    """Without changes of colour, so that only the place changes, and without blur."""
    monkeypatch.setattr(core, "_COLOURS", dict.fromkeys(("hard", "soft"), (0.0,) * 5))
    monkeypatch.setattr(core, "_BLUR", dict.fromkeys(("hard", "soft"), (1e-3, 2e-3)))


def jittered(x, factors, order):
    """The five operations by their definitions, (3, H, W); grey is ITU-R 601's."""
    brightness, contrast, saturation, hue, gamma = factors

    def turned(x):
        flat = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(3, -1).T]
        return np.array([colorsys.hsv_to_rgb((h + hue) % 1, s, v) for h, s, v in flat]).T.reshape(x.shape)

    operations = [
        lambda x: brightness * x,
        lambda x: contrast * x + (1 - contrast) * np.tensordot(GREY, x, 1).mean(),
        lambda x: saturation * x + (1 - saturation) * np.tensordot(GREY, x, 1),
        turned,
        lambda x: x.clip(1e-8, 1) ** gamma,
    ]
    for index in order:
        x = operations[index](x).clip(0, 1)
    return x


@pytest.mark.parametrize("strength", ["hard", "soft"])
def test_colours_change_by_one_draw_of_factors_and_of_their_order(strength):
    x, orders = images(2, 3, 4, 5), set()
    b, c, s, g, hue = COLOURS[strength]
    for seed in range(12):
        torch.manual_seed(seed)
        draws = [float(torch.rand(())) for _ in range(5)]
        widths = (b, c, s, hue, g)
        factors = [
            centre + width * (2 * u - 1) for centre, width, u in zip((1, 1, 1, 0, 1), widths, draws, strict=True)
        ]
        order = torch.randperm(5).tolist()
        orders.add(tuple(order))
        torch.manual_seed(seed)
        got = core.jitter_colours(x, *core._COLOURS[strength])
        expected = np.stack([jittered(image.numpy(), factors, order) for image in x])
        # The library's grey rounds its third weight to 0.114 and its hue is computed in float32.
        np.testing.assert_allclose(got, expected, atol=1e-3)
    assert len(orders) == 12


@pytest.mark.parametrize("C", [1, 2, 5])
def test_channels_that_are_not_rgb_change_by_themselves(C):
    x = images(3, C, 6, 6)
    torch.manual_seed(0)
    got = core.jitter_colours(x, *COLOURS["hard"])
    for channel in range(C):
        torch.manual_seed(0)
        assert torch.equal(got[:, channel : channel + 1], core.jitter_colours(x[:, [channel]], *COLOURS["hard"]))


@pytest.mark.parametrize("strength", ["hard", "soft"])
def test_equal_images_are_augmented_alike_but_for_the_noise(strength):
    torch.manual_seed(1)
    x = 0.3 + 0.2 * images(1, 3, 32, 32)
    y = core.augment(x.expand(20, 3, 32, 32), strength)
    assert y.std(0).mean().item() == pytest.approx(0.005, rel=0.03)
    assert (y.mean(0) - x[0]).abs().max() > 0.01
    assert not torch.equal(core.augment(x, strength), core.augment(x, strength))


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (1, 1, 8, 8), (2, 5, 7, 9), (1, 2, 1, 1), (2, 3, 2, 2)])
@pytest.mark.parametrize("strength", ["hard", "soft"])
def test_any_shape_stays_in_the_unit_interval(shape, strength):
    x = 3 * torch.randn(shape)
    before = x.clone()
    for _ in range(5):
        y = core.augment(x, strength)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert y.min() >= 0
        assert y.max() <= 1
    assert torch.equal(x, before)
    torch.manual_seed(0)
    y = core.augment(x, strength)
    torch.manual_seed(0)
    assert torch.equal(y, core.augment(x.clamp(0, 1), strength))


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(("n", "furthest"), [(16, 2), (32, 4)])
def test_shifts_reach_an_eighth_of_the_side_and_half_are_mirrored(n, furthest, monkeypatch):
    monkeypatch.setattr(core, "_PLACE", {"hard": (0.0, 0.0)})
    torch.manual_seed(0)
    x = torch.zeros(1, 1, n, n)
    x[..., n // 2, n // 4] = 1  # left of the centre, so right of it where mirrored
    places = [divmod(int(core.augment(x, "hard").argmax()), n) for _ in range(300)]
    assert {row - n // 2 for row, _ in places} == set(range(-furthest, furthest + 1))
    left = [column for _, column in places if column < n // 2]
    assert {column - n // 4 for column in left} == set(range(-furthest, furthest + 1))
    assert 0.4 < len(left) / 300 < 0.6


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(("strength", "degrees", "scale"), [("hard", 15, 0.1), ("soft", 8, 0.05)])
def test_rotation_and_scale_fill_their_intervals(strength, degrees, scale):
    torch.manual_seed(0)
    n, angles, scales = 64, [], []
    x = torch.zeros(1, 1, n, n)
    x[..., n // 2 - 1 : n // 2 + 1, 16:19] = x[..., n // 2 - 1 : n // 2 + 1, 45:48] = 1
    for _ in range(300):
        y = core.augment(x, strength)[0, 0]
        y = y * (y > 0.1)
        points = []
        columns = torch.arange(n).float()
        middle = float((y.sum(0) * columns).sum() / y.sum())
        for side in (columns < middle, columns > middle):
            part = y * side
            points.append(
                (float((part.sum(0) * columns).sum()), float((part.sum(1) * columns).sum()), float(part.sum()))
            )
        (a, b, s), (c, d, t) = points
        dx, dy = c / t - a / s, d / t - b / s
        angles.append(math.degrees(math.atan2(dy, dx)))
        scales.append(math.hypot(dx, dy) / 29)
    assert np.abs(angles).max() < degrees + 0.7
    assert min(angles) < -0.9 * degrees
    assert max(angles) > 0.9 * degrees
    assert np.abs(np.array(scales) - 1).max() < scale + 0.015
    assert min(scales) < 1 - 0.85 * scale
    assert max(scales) > 1 + 0.85 * scale


@pytest.mark.usefixtures("still")
def test_nothing_from_beyond_the_padded_edge_comes_in():
    torch.manual_seed(0)
    for _ in range(50):
        assert (core.augment(torch.full((1, 3, 16, 16), 0.5), "hard") - 0.5).abs().max() < 0.03


@pytest.mark.parametrize(("strength", "widest"), [("hard", 0.5), ("soft", 0.25)])
def test_blur_is_a_gaussian_of_at_most_the_given_width(strength, widest, monkeypatch):
    monkeypatch.setattr(core, "_COLOURS", {strength: (0.0,) * 5})
    monkeypatch.setattr(core, "_PLACE", {strength: (0.0, 0.0)})
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 32, 32)
    x[..., 16, 16] = 1
    lowest = (1 / (1 + 2 * math.exp(-0.5 / widest**2) + 2 * math.exp(-2 / widest**2))) ** 2
    peaks = [float(core.augment(x, strength).max()) for _ in range(100)]
    assert min(peaks) == pytest.approx(lowest, abs=0.03)
    assert max(peaks) > 0.98
