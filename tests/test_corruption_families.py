import io

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv

from dgbench import corruption_families as families
from dgbench import corruption_fields as fields
from dgbench.corruption import corrupt
from tests.test_corruption import cut, flat, images, single


def test_statistics_of_noise_are_those_of_the_table():
    x = flat(0.5, 224)
    seeds = [1, 2]
    for severity, c in enumerate([0.08, 0.12, 0.18], 1):  # beyond, clipping takes part
        assert corrupt(x, "gaussian_noise", severity, seeds).std().item() == pytest.approx(c, rel=0.02)
    for severity, c in enumerate([60, 25], 1):
        assert corrupt(x, "shot_noise", severity, seeds).std().item() == pytest.approx((0.5 / c) ** 0.5, rel=0.02)
    for severity, c in enumerate([0.03, 0.06, 0.09, 0.17, 0.27], 1):
        y = corrupt(x, "impulse_noise", severity, seeds)
        assert (y == 1).float().mean().item() == pytest.approx(c / 2, rel=0.05)
        assert (y == 0).float().mean().item() == pytest.approx(c / 2, rel=0.05)
    assert corrupt(x, "speckle_noise", 2, seeds).std().item() == pytest.approx(0.1, rel=0.02)
    small = corrupt(flat(0.5, 32, 60), "gaussian_noise", 5, range(60))
    assert small.std().item() == pytest.approx(0.10, rel=0.02)


def test_colours_are_those_of_hsv():
    x = images(1, 3, 64)
    hsv = rgb2hsv(x[0].permute(1, 2, 0).double().numpy())
    for severity, (c, (a, b)) in enumerate(
        zip([0.1, 0.2, 0.3, 0.4, 0.5], [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)], strict=True), 1
    ):
        brighter, other = hsv.copy(), hsv.copy()
        brighter[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
        other[..., 1] = np.clip(hsv[..., 1] * a + b, 0, 1)
        np.testing.assert_allclose(single("brightness", severity, x), cut(hsv2rgb(brighter)), atol=1e-6)
        np.testing.assert_allclose(single("saturate", severity, x), cut(hsv2rgb(other)), atol=1e-6)


def test_contrast_shrinks_distances_from_the_channels_mean():
    x = images(1, 3, 224)
    mean = x.double().mean((2, 3), keepdim=True)
    for severity, c in enumerate([0.4, 0.3, 0.2, 0.1, 0.05], 1):
        expected = cut(((x.double() - mean) * c + mean)[0].permute(1, 2, 0).numpy())
        np.testing.assert_allclose(single("contrast", severity, x), expected, atol=1e-6)


def test_pixelate_and_jpeg_are_those_of_pillow():
    x = images(1, 3, 224)
    picture = Image.fromarray((x[0].permute(1, 2, 0) * 255).round().byte().numpy())
    for severity, (c, quality) in enumerate([(0.6, 25), (0.5, 18), (0.4, 15), (0.3, 10), (0.25, 7)], 1):
        small = picture.resize((int(224 * c),) * 2, Image.Resampling.BOX)
        expected = np.asarray(small.resize((224, 224), Image.Resampling.BOX))
        np.testing.assert_allclose(255 * single("pixelate", severity, x), expected, atol=1.01)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(file), dtype=float)
        np.testing.assert_allclose(255 * single("jpeg_compression", severity, x), decoded, atol=1e-3)


@pytest.mark.parametrize(("side", "table"), [(224, (1.5, 2, 2.5, 2.5, 3)), (32, (0.2, 0.5, 0.75, 1, 1.5))])
def test_fog_lies_between_the_scaled_image_and_white(side, table):
    for severity, strength in enumerate(table, 1):
        y = corrupt(flat(1.0, side), "fog", severity, [1, 2]).flatten(1)
        np.testing.assert_allclose(y.amin(1), cut(1 / (1 + strength)), atol=1e-6)
        assert y.amax(1).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("side", "last", "step"),
    [
        (224, (1.11, 1.15, 1.20, 1.24, 1.30), (0.01, 0.01, 0.02, 0.02, 0.03)),
        (32, (1.06, 1.11, 1.15, 1.2, 1.25), [0.01] * 5),
    ],
)
def test_zoom_blur_is_the_mean_of_the_image_and_its_enlargements(side, last, step):
    x = images(1, 1, side)
    for severity in range(1, 6):
        layers = [x[0, 0].double().numpy()]
        for factor in np.arange(1, last[severity - 1] + 1e-6, step[severity - 1]):
            inner = int(np.ceil(side / factor - 1e-9))
            start = (side - inner) // 2
            middle = layers[0][start : start + inner, start : start + inner]
            large = scipy.ndimage.zoom(middle, factor, order=1)
            start = (len(large) - side) // 2
            layers.append(large[start : start + side, start : start + side])
        np.testing.assert_allclose(single("zoom_blur", severity, x)[..., 0], cut(np.mean(layers, 0)), atol=1.01 / 255)


@pytest.mark.parametrize(("side", "table"), [(224, (0.8, 0.7, 0.7, 0.65, 0.55)), (32, (0.95, 0.9, 0.9, 0.85, 0.8))])
def test_snow_whitens_what_it_does_not_cover(side, table):
    for severity, share in enumerate(table, 1):
        y = corrupt(flat(0.0, side, 6), "snow", severity, range(6))
        assert y.min().item() == pytest.approx(0.5 * (1 - share), abs=0.03)


def test_frost_mixes_scene_and_ice():
    for severity, (scene, ice) in enumerate([(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)], 1):
        dark, bright = (corrupt(flat(value), "frost_procedural", severity, [1, 2]) for value in (0.0, 0.2))
        is_seen = bright < 1
        np.testing.assert_allclose((bright - dark)[is_seen], 0.2 * scene, atol=1.01 / 255)
        assert dark.max() == pytest.approx(ice, rel=0.05)


def test_glass_moves_pixels_no_further_than_the_table_says():
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    x[..., 32:] = 1
    y = families.glass_blur(x, fields.Draws([1]), 1.0, 0.1, 3, 2)
    moved = (y != x).any(2).flatten().nonzero().flatten()
    # Chains of moves go further than one, but to the side they mix at the edge alone.
    assert 32 - 16 <= moved.min() < 32 <= moved.max() < 32 + 16
    assert set(y.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(("family", "severity"), [("snow", 3), ("snow", 5), ("frost_procedural", 5), ("spatter", 5)])
def test_what_is_drawn_covers_as_much_of_small_images(family, severity):
    def mean(side):
        return corrupt(torch.full((8, 3, side, side), 0.3), family, severity, range(8)).mean().item() - 0.3

    assert mean(64) == pytest.approx(mean(224), rel=0.15)


def test_elastic_displacements_scale_with_the_side():
    def displacement(side, scale):
        ramp = torch.arange(side, dtype=torch.float64).expand(1, 1, side, side)
        moved = families.elastic_transform(ramp, fields.Draws([1]), scale, 29.28, 2.44, 0.0)
        return (moved - ramp)[..., 8:-8].std().item()

    assert displacement(448, 2.0) == pytest.approx(2 * displacement(224, 1.0), rel=0.1)
    assert displacement(112, 0.5) == pytest.approx(displacement(224, 1.0) / 2, rel=0.1)


def test_drops_are_as_many_on_small_images():
    def count(side):
        mud = corrupt(flat(0.9, side), "spatter", 5, [1, 2])[:, 0] < 0.7
        return sum(scipy.ndimage.label(image)[1] for image in mud.numpy())

    assert 0.4 < count(112) / count(224) < 1.6
