import numpy as np
import pytest
import scipy.ndimage
import torch

from dgbench import corruption_fields as fields
from tests.test_corruption import images


def test_scattering_is_the_loop_over_pixels_from_the_last_to_the_first():
    x, reach = images(2, 3, 20, 17).double(), 2
    shift = fields.Draws([8, 9]).integers(-reach, reach, 20, 17, 2)
    expected = x.clone()
    for image, moves in zip(expected, shift.tolist(), strict=True):
        for row in range(20 - reach, reach, -1):
            for column in range(17 - reach, reach, -1):
                down, right = moves[row][column]
                image[:, row, column] = image[:, row + down, column + right]
    assert torch.equal(fields.scattered(x, fields.Draws([8, 9]), reach), expected)
    assert not torch.equal(expected, x)


def test_correlation_is_scipys_for_each_images_own_kernel():
    x, kernel = images(2, 3, 21, 30).double(), torch.rand(2, 7, 7, dtype=torch.float64)
    got = fields.correlated(x, kernel)
    for image, own, result in zip(x, kernel, got, strict=True):
        expected = scipy.ndimage.correlate(image.numpy(), own[None].numpy(), mode="nearest")
        np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.4, 2.0, 30.0])
def test_gaussian_blur_is_scipys(sigma):
    x = images(1, 1, 21, 30).double()
    expected = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), sigma, truncate=3, mode="reflect")
    np.testing.assert_allclose(fields.gaussian_blur(x, sigma, truncate=3)[0, 0], expected, atol=1e-12)
    assert torch.equal(fields.gaussian_blur(x, 0.0), x)


@pytest.mark.parametrize(("radius", "alias"), [(3, 0.1), (8, 0.5), (10, 0.5), (0.3, 0.4)])
def test_disc_at_the_constants_side_is_a_disc_with_a_smooth_rim(radius, alias):
    kernel = fields.disc(radius, alias, 1.0)[0]
    half = max(8, int(radius))
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    disc = (rows**2 + columns**2 <= radius**2) * 1.0
    rim = np.exp(-0.5 * (np.arange(-2, 3) / alias) ** 2)
    if radius <= 8:
        rim[[0, 4]] = 0
    smooth = scipy.ndimage.convolve(disc, np.outer(rim, rim), mode="constant")
    np.testing.assert_allclose(kernel, smooth / smooth.sum(), atol=1e-12)


def test_disc_grows_with_the_scale():
    def spread(scale):
        kernel = fields.disc(6, 0.5, scale)[0]
        place = torch.arange(len(kernel)) - len(kernel) // 2
        return (kernel.sum(1) * place**2).sum().sqrt().item()

    for scale in (0.5, 2.0, 3.0):
        assert spread(scale) == pytest.approx(scale * spread(1.0), rel=0.1)


def test_lines_point_where_they_are_told():
    kernel = fields.line_kernel(2, 1.5, torch.tensor([0.0, 90.0, -45.0], dtype=torch.float64))
    weights = np.exp(-0.5 * (np.arange(5) / 1.5) ** 2)
    weights /= weights.sum()
    np.testing.assert_allclose(kernel.sum((1, 2)), 1)
    np.testing.assert_allclose(kernel[0, 4, 4:], weights)  # to the right
    np.testing.assert_allclose(kernel[1, 4:, 4], weights)  # down
    assert kernel[2, :5, 4:].sum().item() == pytest.approx(1)  # up and to the right


@pytest.mark.parametrize("factor", [1.0, 1.11, 1.3, 4.5])
def test_zoom_is_scipys_of_the_middle(factor):
    x = images(1, 1, 48, 32).double()
    height, width = (int(np.ceil(n / factor)) for n in (48, 32))
    top, left = (48 - height) // 2, (32 - width) // 2
    large = scipy.ndimage.zoom(x[0, 0, top : top + height, left : left + width].numpy(), factor, order=1)
    top, left = (large.shape[0] - 48) // 2, (large.shape[1] - 32) // 2
    np.testing.assert_allclose(fields.zoomed(x, factor)[0, 0], large[top : top + 48, left : left + 32], atol=1e-9)


def test_affine_map_moves_its_three_points():
    x = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    # Middle 15, arm 10.
    jitter = torch.tensor([[[2.0, -3.0], [1.0, 2.0], [0.0, 4.0]]], dtype=torch.float64)
    for point, moved in zip([(25, 25), (5, 25), (5, 5)], [(27, 22), (6, 27), (5, 9)], strict=True):
        x.zero_()[0, 0, point[0], point[1]] = 1
        assert fields.jittered_affine(x, jitter)[0, 0, moved[0], moved[1]].item() == pytest.approx(1)
    x = images(2, 3, 20, 31).double()
    torch.testing.assert_close(fields.jittered_affine(x, torch.zeros(2, 3, 2, dtype=torch.float64)), x)


def test_clouds_are_rougher_with_less_decay_and_fill_the_unit_interval():
    def roughness(decay):
        clouds = fields.plasma(fields.Draws(range(4)), 64, 64, decay)
        assert clouds.shape == (4, 64, 64)
        assert clouds.flatten(1).amin(1).tolist() == [0] * 4
        assert clouds.flatten(1).amax(1).tolist() == [1] * 4
        return clouds.diff(dim=1).abs().mean().item()

    assert roughness(1.4) > roughness(2.0) > roughness(3.0)
    assert fields.plasma(fields.Draws([1]), 40, 70, 2.0).shape == (1, 40, 70)


def test_frost_lies_in_the_unit_interval_and_leaves_some_of_the_pane_clear():
    ice = fields.frost(fields.Draws(range(6)), 112, 96, 0.5)
    assert 0 <= ice.min() < 0.2
    assert 0.8 < ice.max() <= 1
    assert 0.2 < ice.mean().item() < 0.7
