import itertools

import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage.filters import gaussian

from dgbench import corruption_fields as fields
from dgbench.corruption import DEVELOPMENT, FAMILIES, SEVERITIES, STANDARD, corrupt
from dgbench.registry import UnknownName

# ImageNet-C's order; the frost is not the photographs'.
ORDER = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost_procedural", "fog", "brightness", "contrast", "elastic_transform", "pixelate"),
    "jpeg_compression",
)
NOT_RANDOM = {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("gaussian_blur", "saturate"),
}


def images(n=2, channels=3, height=64, width=None, seed=0):
    """Smooth images with some texture, as 8-bit files have them."""
    rng = np.random.RandomState(seed)
    shape = (n, channels, height, width or height)
    x = scipy.ndimage.gaussian_filter(rng.rand(*shape), (0, 0, height / 12, height / 12))
    x = 0.15 + 0.6 * (x - x.min()) / np.ptp(x) + 0.05 * rng.rand(*shape)
    return torch.from_numpy(np.floor(255 * x) / 255).float()


def flat(value, side=128, n=2):
    return torch.full((n, 3, side, side), value)


def cut(x):
    """As the benchmark stores images."""
    return np.floor(255 * np.clip(x, 0, 1) + 1e-3) / 255


def single(family, severity, x):
    """Of one image as (H, W, C)."""
    return corrupt(x[:1], family, severity, [0])[0].permute(1, 2, 0).numpy()


def psnr(x, y):
    return -10 * (x - y).square().mean().log10().item()


def test_families_and_their_order():
    assert STANDARD == ORDER
    assert DEVELOPMENT == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    for family in FAMILIES.values():
        assert len(family.small) == len(family.large) == len(SEVERITIES) == 5


@pytest.mark.parametrize("family", FAMILIES)
def test_shape_range_and_levels_for_any_image(family):
    sizes = [(1, 8, 8), (3, 28, 28), (3, 32, 32), (2, 48, 40), (3, 64, 96), (5, 70, 65)]
    for (channels, height, width), severity in itertools.product(sizes, SEVERITIES):
        x = images(2, channels, height, width)
        y = corrupt(x, family, severity, [3, 4])
        assert y.shape == x.shape
        assert y.dtype == torch.float32
        assert 0 <= y.min() <= y.max() <= 1
        assert torch.equal((y * 255).round() / 255, y)
    assert corrupt(images(2)[:0], family, 1, []).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [32, 72])
def test_an_image_depends_on_its_own_seed_alone(family, side):
    x, seeds = images(19, 3, side), list(range(100, 119))
    before, state = x.clone(), torch.get_rng_state()
    together = corrupt(x, family, 3, seeds)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    backwards = corrupt(x.flip(0), family, 3, seeds[::-1]).flip(0)
    assert torch.equal(backwards, together)
    for i in (0, 7, 18):
        assert torch.equal(corrupt(x[i : i + 1], family, 3, seeds[i : i + 1])[0], together[i])
    same = corrupt(x[:1].expand(2, -1, -1, -1), family, 3, [1, 2])
    assert torch.equal(same[0], same[1]) == (family in NOT_RANDOM)


@pytest.mark.parametrize("family", ["gaussian_noise", "contrast", "jpeg_compression", "pixelate"])
@pytest.mark.parametrize("side", [32, 224])
def test_severity_lowers_the_signal_to_noise_ratio(family, side):
    x = images(3, 3, side)
    ratios = [psnr(x, corrupt(x, family, severity, [1, 2, 3])) for severity in SEVERITIES]
    assert ratios == sorted(ratios, reverse=True)
    assert len(set(ratios)) == 5


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("contrast", "brightness", "saturate")])
def test_flat_regions_survive_what_only_moves_pixels(family):
    moves = {"defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate", "gaussian_blur"}
    x = flat(101 / 255)
    assert torch.equal(corrupt(x, family, 4, [1, 2]), x) == (family in moves)


@pytest.mark.parametrize(("side", "table"), [(128, [0.1, 0.2, 0.3, 0.4, 0.5]), (32, [0.05, 0.10, 0.15, 0.20, 0.30])])
def test_brightness_raises_the_mean_by_its_constant(side, table):
    x = flat(100 / 255, side)
    for severity, c in zip(SEVERITIES, table, strict=True):
        assert corrupt(x, "brightness", severity, [0, 0]).mean().item() == pytest.approx(100 / 255 + c, abs=1 / 255)


@pytest.mark.parametrize(
    ("side", "sigma"), [(224, 6), (112, 3), (448, 12), (64, 6 * 64 / 224), (48, 1.5), (32, 1), (16, 0.5)]
)
def test_lengths_scale_with_the_side(side, sigma):
    x = images(1, 3, side)
    expected = gaussian(x[0].double().numpy(), sigma, mode="reflect", channel_axis=0)
    np.testing.assert_allclose(single("gaussian_blur", 5, x), cut(expected).transpose(1, 2, 0), atol=1e-6)


def test_severity_family_images_and_seeds_are_checked():
    x = images(2)
    with pytest.raises(UnknownName, match=r"'frost' is not a known corruption. Did you mean 'frost_procedural'"):
        corrupt(x, "frost", 1, [1, 2])
    with pytest.raises(UnknownName, match=r"6 is not a known severity.* Known: 1, 2, 3, 4, 5"):
        corrupt(x, "fog", 6, [1, 2])
    with pytest.raises(ValueError, match=r"images \(N, C, H, W\) in \[0, 1\], got torch.float32 of shape \(2, 7\)"):
        corrupt(torch.rand(2, 7), "fog", 1, [1, 2])
    with pytest.raises(ValueError, match=r"got torch\.uint8"):
        corrupt(x.byte(), "fog", 1, [1, 2])
    with pytest.raises(ValueError, match="Got 1 seeds for 2 images, expected one for each"):
        corrupt(x, "fog", 1, [1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pixel", [torch.nan, torch.inf])
def test_an_image_that_is_not_finite_becomes_nan_and_the_others_what_they_were(family, pixel):
    x = images(3, height=32)
    broken = x.clone()
    broken[1, 0, 4, 5] = pixel
    got, clean = corrupt(broken, family, 3, [1, 2, 3]), corrupt(x, family, 3, [1, 2, 3])
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], clean[[0, 2]])
    assert not broken[1, 0, 4, 5].isfinite()


def test_draws_are_each_generators_own():
    draws = fields.Draws([5, 6])
    first = draws.normal(3)
    assert torch.equal(first[1], fields.Draws([6]).normal(3)[0])
