"""What corruptions are made of: random numbers of each image's own, blurs, zooms, warps and random textures.

Images are (N, C, H, W) double, what is drawn for them is (N, ...). No image of a batch depends on another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

REFERENCE_DISC = 8
"""Smallest half-width of the grid on which the disc of a defocused lens is drawn."""


class Draws:
    """Random numbers for a batch of images, each image's from a generator of its own.

    Args:
        seeds: of the images.
        device: where the numbers are wanted; they are drawn on the CPU, and so are the same everywhere.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.generators = [Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (N, *shape)."""
        return self._stacked(lambda g: torch.randn(shape, generator=g, dtype=torch.float64))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), (N, *shape)."""
        return low + (high - low) * self._stacked(lambda g: torch.rand(shape, generator=g, dtype=torch.float64))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform among low, ..., high - 1, (N, *shape)."""
        return self._stacked(lambda g: torch.randint(low, high, shape, generator=g))

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson counts, as `rate` (N, ...)."""
        pairs = zip(rate.cpu(), self.generators, strict=True)
        return torch.stack([torch.poisson(one, generator=g) for one, g in pairs]).to(self.device)

    def _stacked(self, draw: Callable[[Generator], Tensor]) -> Tensor:
        return torch.stack([draw(g) for g in self.generators]).to(self.device)


def reflected(index: Tensor, n: int) -> Tensor:
    """Indices outside [0, n) mirrored into it, the border's own element repeated: -1 is 0, n is n - 1."""
    index = index.remainder(2 * n)
    return torch.minimum(index, 2 * n - 1 - index)


def gaussian_blur(x: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Convolve (..., H, W) with a Gaussian, the image mirrored beyond its borders.

    Args:
        x: images or fields.
        sigma: standard deviation in pixels; 0 changes nothing.
        truncate: standard deviations after which the Gaussian is cut off.
    """
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.exp(-0.5 * (offsets / sigma).double() ** 2)
    weights = weights / weights.sum()

    def matrix(n: int) -> Tensor:
        """Row i holds what the n pixels of a line contribute to pixel i, (n, n)."""
        places = reflected(torch.arange(n, device=x.device)[:, None] + offsets, n)  # (n, 2 radius + 1)
        return weights.new_zeros(n, n).scatter_add_(1, places, weights.expand(n, -1))

    return matrix(x.shape[-2]) @ x @ matrix(x.shape[-1]).T


def correlated(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate (N, C, H, W) with kernels (N or 1, 2r + 1, 2r + 1), the border's pixels repeated outwards.

    By Fourier transforms: the cost does not depend on the kernel's size, and every image may have its own.
    """
    H, W = x.shape[-2:]
    radius = kernel.shape[-1] // 2
    padded = F.pad(x, (radius,) * 4, mode="replicate")
    size = padded.shape[-2:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=size)[:, None].conj()
    return torch.fft.irfft2(spectrum, s=size)[..., :H, :W]


def disc(radius: float, alias: float, scale: float) -> Tensor:
    """The kernel of a defocused lens, (1, n, n): a disc of that radius, its rim smoothed.

    Args:
        radius: in pixels of the side for which the constants are given.
        alias: standard deviation of the Gaussian that smooths the rim, likewise.
        scale: pixels of the image per such pixel.
    """
    half = max(REFERENCE_DISC, int(radius))
    place = torch.arange(-half, half + 1, dtype=torch.float64)
    kernel = (place[:, None] ** 2 + place**2 <= radius**2).double()
    rim = 1 if radius <= REFERENCE_DISC else 2
    smoothing = torch.exp(-0.5 * (torch.arange(-rim, rim + 1) / alias).double() ** 2)
    smoothing = torch.outer(smoothing, smoothing) / smoothing.sum() ** 2
    kernel = F.conv2d(kernel[None, None], smoothing[None, None], padding=rim)[0, 0]
    # Linear resampling: the identity at scale 1, and smaller discs do not jump with the pixels that they cover.
    reach = math.ceil(half * scale)
    target = torch.arange(-reach, reach + 1, dtype=torch.float64)
    resample = (1 - (target[:, None] - scale * place).abs() / max(1.0, scale)).clamp(min=0)
    kernel = resample @ kernel @ resample.T
    return (kernel / kernel.sum())[None]


def line_kernel(radius: float, sigma: float, angle: Tensor) -> Tensor:
    """Kernels that smear along a line by half a Gaussian, (N, n, n).

    Args:
        radius: the smear is 2 radius + 1 pixels long.
        sigma: standard deviation of the Gaussian, in pixels.
        angle: directions in degrees, (N,) double.
    """
    reach = 2 * math.ceil(radius)
    steps = torch.arange(reach + 1, device=angle.device).to(angle)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    radians = torch.deg2rad(angle)[:, None]
    rows = (steps * radians.sin()).round().long() + reach  # (N, reach + 1)
    columns = (steps * radians.cos()).round().long() + reach
    width = 2 * reach + 1
    kernel = weights.new_zeros(len(angle), width * width)
    kernel.scatter_add_(1, rows * width + columns, (weights / weights.sum()).expand(len(angle), -1))
    return kernel.unflatten(1, (width, width))


def zoomed(x: Tensor, factor: float) -> Tensor:
    """The middle of (N, C, H, W), enlarged to the same size."""
    size = x.shape[-2:]
    middle = [math.ceil(n / factor - 1e-9) for n in size]
    (top, left), (height, width) = [(n - m) // 2 for n, m in zip(size, middle, strict=True)], middle
    large = F.interpolate(
        x[..., top : top + height, left : left + width],
        [max(n, round(m * factor)) for n, m in zip(size, middle, strict=True)],
        mode="bilinear",
        align_corners=True,
    )
    top, left = [(big - n) // 2 for big, n in zip(large.shape[-2:], size, strict=True)]
    return large[..., top : top + size[0], left : left + size[1]]


def pixel_grid(x: Tensor) -> Tensor:
    """(row, column) of every pixel, (H, W, 2)."""
    rows, columns = (torch.arange(n, device=x.device).to(x) for n in x.shape[-2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)


def warped(x: Tensor, places: Tensor) -> Tensor:
    """(N, C, H, W) read at (row, column) places (N, H, W, 2), linear between pixels and mirrored at the borders."""
    last = torch.tensor(x.shape[-2:], device=x.device).to(x) - 1
    grid = (2 * places / last.clamp(min=1) - 1).flip(-1)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=True)


def jittered_affine(x: Tensor, jitter: Tensor) -> Tensor:
    """(N, C, H, W) under the affine maps that move three points around the middle by `jitter` (N, 3, 2) pixels."""
    H, W = x.shape[-2:]
    arm = min(H, W) // 3
    row, column = H // 2, W // 2
    corners = [[row + arm, column + arm], [row - arm, column + arm], [row - arm, column - arm]]
    before = torch.tensor(corners, device=x.device).to(x).expand(len(x), 3, 2)
    ones = before.new_ones(len(x), 3, 1)
    # What the moved points' coordinates, and a one, are multiplied by to give the old ones.
    back = torch.linalg.solve(torch.cat([before + jitter, ones], -1), before)  # (N, 3, 2)
    return warped(x, pixel_grid(x) @ back[:, None, :2] + back[:, None, 2:])


def box_resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, H, W) resized with a box filter: every new pixel is the mean of the old ones whose centres it covers."""

    def matrix(old: int, new: int) -> Tensor:
        ratio = old / new
        centre = (torch.arange(new, device=x.device).to(x) + 0.5) * ratio
        offset = (torch.arange(old, device=x.device).to(x) + 0.5 - centre[:, None]) / max(1.0, ratio)
        covers = ((offset > -0.5) & (offset <= 0.5)).to(x)  # (new, old)
        return covers / covers.sum(1, keepdim=True)

    return matrix(x.shape[-2], size[0]) @ x @ matrix(x.shape[-1], size[1]).T


def scattered(x: Tensor, draws: Draws, reach: int) -> Tensor:
    """(N, C, H, W) with every pixel replaced, from the last to the first, by a random neighbour's present value.

    Args:
        x: images.
        draws: of the neighbours.
        reach: neighbours are at most so many pixels away.
    """
    H, W = x.shape[-2:]
    rows, columns = (torch.arange(n, device=x.device) for n in (H, W))
    inside = ((rows > reach) & (rows <= H - reach))[:, None] & ((columns > reach) & (columns <= W - reach))
    shift = draws.integers(-reach, reach, H, W, 2)
    place = rows[:, None] * W + columns
    source = torch.where(inside, place + shift[..., 0] * W + shift[..., 1], place).flatten(1)  # (N, H*W)
    # A neighbour that comes later in the image has been replaced already: what it holds came from its own neighbour,
    # and so on. Following all these chains at once doubles the length followed with every turn.
    replaced = (source > place.flatten()) & inside.flatten()[source]
    while bool(replaced.any()):
        replaced, source = (
            replaced & replaced.gather(1, source),
            torch.where(replaced, source.gather(1, source), source),
        )
    return x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).unflatten(2, (H, W))


def plasma(draws: Draws, height: int, width: int, decay: float) -> Tensor:
    """Clouds in [0, 1], (N, height, width): midpoint displacement on a torus that is a power of two wide.

    Args:
        draws: of the displacements.
        height: in pixels.
        width: in pixels.
        decay: displacements shrink by its square from one octave to the next.
    """
    size = 2 ** math.ceil(math.log2(max(height, width, 2)))
    heights = torch.zeros(len(draws.generators), size, size, dtype=torch.float64, device=draws.device)
    step, displacement = size, 1.0
    while step >= 2:
        half, cells = step // 2, size // step

        def near(heights: Tensor, cells: int = cells, displacement: float = displacement) -> Tensor:
            return heights / 4 + draws.uniform(-displacement, displacement, cells, cells)

        corners = heights[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        heights[:, half::step, half::step] = near(pairs + pairs.roll(-1, 2))
        centres = heights[:, half::step, half::step]
        across = centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)
        down = centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)
        heights[:, ::step, half::step], heights[:, half::step, ::step] = near(across), near(down)
        step, displacement = half, displacement / decay**2
    heights = heights - heights.amin((1, 2), keepdim=True)
    return (heights / heights.amax((1, 2), keepdim=True))[:, :height, :width]


def frost(draws: Draws, height: int, width: int, scale: float) -> Tensor:
    """Ice crystals on a pane, in [0, 1], (N, height, width): needles in all directions that grow in patches.

    Args:
        draws: of patches, germs and directions.
        height: in pixels.
        width: in pixels.
        scale: side in pixels, per 224.
    """
    patches = ((plasma(draws, height, width, 1.5) - 0.25) / 0.35).clamp(0, 1)
    needles = torch.zeros_like(patches)
    for _ in range(3):
        germs = (draws.uniform(0, 1, height, width) < 0.02 * patches / scale).double()
        angle = draws.uniform(0, 60)
        star = sum(line_kernel(10 * scale, 7 * scale, angle + turn) for turn in range(0, 360, 60))
        needles = needles + correlated(germs[:, None], torch.as_tensor(star))[:, 0]
    brightest = needles.flatten(1).quantile(0.98, dim=1).clamp(min=1e-6)[:, None, None]
    return 0.15 + patches * (0.25 + 0.6 * (needles / brightest).clamp(0, 1))
