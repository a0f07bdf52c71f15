"""The families of corruptions: each makes something else of (N, C, H, W) double images in [0, 1].

`draws` are the images' random numbers and `scale` is the pixels of the image per pixel of the side for which the
constants are given, which follow.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dgbench.corruption_fields import (
    Draws,
    box_resized,
    correlated,
    disc,
    frost,
    gaussian_blur,
    jittered_affine,
    line_kernel,
    pixel_grid,
    plasma,
    scattered,
    warped,
    zoomed,
)


def quantised(x: Tensor) -> Tensor:
    """Clipped to [0, 1] and cut to multiples of 1/255."""
    return levels(x).to(x) / 255


def levels(x: Tensor) -> Tensor:
    """Clipped to [0, 1], times 255, cut to whole numbers, uint8."""
    return (x.clamp(0, 1) * 255 + 1e-3).floor().to(torch.uint8)  # so flat regions survive a blur as they are


def grey(x: Tensor) -> Tensor:
    """Luma of three channels (ITU-R 601), else the mean of the channels, (N, 1, H, W)."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def drawn_size(x: Tensor, scale: float) -> tuple[int, int]:
    """The size at which drops and flakes are drawn, to be made smaller: that of the constants if images are smaller."""
    H, W = x.shape[-2:]
    return (H, W) if scale >= 1 else (round(H / scale), round(W / scale))


def gaussian_noise(x: Tensor, draws: Draws, scale: float, deviation: float) -> Tensor:
    """Noise of an electronic sensor in the dark."""
    return x + deviation * draws.normal(*x.shape[1:])


def shot_noise(x: Tensor, draws: Draws, scale: float, photons: float) -> Tensor:
    """Noise of counting few photons."""
    return draws.poisson(x * photons) / photons


def impulse_noise(x: Tensor, draws: Draws, scale: float, amount: float) -> Tensor:
    """Values replaced by black or white, salt and pepper."""
    chance = draws.uniform(0, 1, *x.shape[1:])
    return torch.where(chance < amount, (chance < amount / 2).to(x), x)


def speckle_noise(x: Tensor, draws: Draws, scale: float, deviation: float) -> Tensor:
    """Noise that grows with the brightness."""
    return x + x * deviation * draws.normal(*x.shape[1:])


def blur(x: Tensor, draws: Draws, scale: float, sigma: float) -> Tensor:
    """A Gaussian blur."""
    return gaussian_blur(x, sigma * scale)


def defocus_blur(x: Tensor, draws: Draws, scale: float, radius: float, alias: float) -> Tensor:
    """A lens out of focus."""
    return correlated(x, disc(radius, alias, scale).to(x))


def glass_blur(x: Tensor, draws: Draws, scale: float, sigma: float, reach: float, times: int) -> Tensor:
    """Seen through frosted glass: pixels are replaced by neighbours."""
    x = quantised(gaussian_blur(x, sigma * scale))
    for _ in range(times):
        x = scattered(x, draws, max(1, round(reach * scale)))
    return gaussian_blur(x, sigma * scale)


def motion_blur(x: Tensor, draws: Draws, scale: float, radius: float, sigma: float) -> Tensor:
    """A camera moved."""
    return correlated(x, line_kernel(radius * scale, sigma * scale, draws.uniform(-45, 45)))


def zoom_blur(x: Tensor, draws: Draws, scale: float, step: float, count: int) -> Tensor:
    """A camera moved towards the scene: the mean of the image and `count` enlargements of it."""
    return (x + torch.stack([zoomed(x, 1 + step * i) for i in range(count)]).sum(0)) / (count + 1)


def snow(
    x: Tensor,
    draws: Draws,
    scale: float,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    share: float,
) -> Tensor:
    """Flakes, and what the whitened scene lets through."""
    H, W = drawn_size(x, scale)
    flakes = mean + deviation * draws.normal(1, H, W)  # (N, 1, H, W)
    flakes = zoomed(flakes, zoom * max(1.0, scale))
    flakes = quantised(torch.where(flakes < threshold, 0, flakes))
    flakes = box_resized(flakes, x.shape[-2:])
    flakes = correlated(flakes, line_kernel(radius * scale, sigma * scale, draws.uniform(-135, -45)))
    whitened = torch.maximum(x, 1.5 * grey(x) + 0.5)
    return share * x + (1 - share) * whitened + flakes + flakes.rot90(2, (-2, -1))


def frost_procedural(x: Tensor, draws: Draws, scale: float, scene: float, ice: float) -> Tensor:
    """Ice crystals on the lens."""
    H, W = x.shape[-2:]
    finer = math.ceil(128 / min(H, W))  # needles are thin
    pane = frost(draws, finer * H, finer * W, finer * min(H, W) / 224)[:, None]
    return scene * x + ice * box_resized(pane, (H, W))


def fog(x: Tensor, draws: Draws, scale: float, strength: float, decay: float) -> Tensor:
    """Light scattered in clouds."""
    H, W = x.shape[-2:]
    brightest = x.flatten(1).amax(1)[:, None, None, None]
    clouds = plasma(draws, H, W, decay)[:, None]
    return (x + strength * clouds) * brightest / (brightest + strength)


def brightness(x: Tensor, draws: Draws, scale: float, more: float) -> Tensor:
    """A raised value (HSV)."""
    value = x.amax(1, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, x * raised / value, raised)


def contrast(x: Tensor, draws: Draws, scale: float, factor: float) -> Tensor:
    """Distances from the mean of the channel shrunk."""
    mean = x.mean((-2, -1), keepdim=True)
    return mean + factor * (x - mean)


def saturate(x: Tensor, draws: Draws, scale: float, factor: float, more: float) -> Tensor:
    """Another saturation (HSV); a grey pixel's hue is red, the first channel."""
    value = x.amax(1, keepdim=True)
    spread = value - x.amin(1, keepdim=True)
    saturation = torch.where(value > 0, spread / value, 0)
    red = torch.ones_like(x)
    red[:, 0] = 0
    away = torch.where(spread > 0, (value - x) / spread, red)  # (N, C, H, W), 1 in the smallest channel
    return value * (1 - (saturation * factor + more).clamp(0, 1) * away)


def elastic_transform(x: Tensor, draws: Draws, scale: float, amount: float, sigma: float, jitter: float) -> Tensor:
    """The image as a sheet of rubber: a random affine map, then a smooth random displacement."""
    x = jittered_affine(x, scale * draws.uniform(-jitter, jitter, 3, 2))
    noise = draws.uniform(-1, 1, 2, *x.shape[-2:])
    # The mean of white noise over an area falls with its side, so that displacements grow as the scale, not its square.
    shift = amount * scale**2 * gaussian_blur(noise, sigma * scale, truncate=3)
    return warped(x, pixel_grid(x) + shift.permute(0, 2, 3, 1))


def pixelate(x: Tensor, draws: Draws, scale: float, factor: float) -> Tensor:
    """Made smaller, and enlarged again."""
    H, W = x.shape[-2:]
    small = box_resized(x, (max(1, int(H * factor)), max(1, int(W * factor))))
    return box_resized((small * 255).round() / 255, (H, W))


def jpeg_compression(x: Tensor, draws: Draws, scale: float, quality: int) -> Tensor:
    """Compressed with loss; other than three channels each for itself."""
    pictures = levels(x).permute(0, 2, 3, 1) if x.shape[1] == 3 else levels(x).flatten(0, 1)
    # One picture at a time: each is a file.
    decoded = np.stack([_through_jpeg(picture, quality) for picture in pictures.cpu().numpy()])
    result = torch.from_numpy(decoded).to(x) / 255
    return result.permute(0, 3, 1, 2) if x.shape[1] == 3 else result.view_as(x)


def _through_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))


def spatter(
    x: Tensor,
    draws: Draws,
    scale: float,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    is_mud: bool,
) -> Tensor:
    """Drops of water or mud on the lens."""
    H, W = drawn_size(x, scale)
    scale = max(1.0, scale)
    layer = gaussian_blur(mean + deviation * draws.normal(1, H, W), sigma * scale)
    colour = x.new_tensor([63, 42, 20] if is_mud else [175, 238, 238])[:, None, None] / 255
    colour = colour if x.shape[1] == 3 else grey(colour[None])[0]
    if is_mud:
        drops = gaussian_blur((layer > threshold).to(x), strength * scale)
        drops = box_resized(torch.where(drops < 0.8, 0, drops), x.shape[-2:])
        return x * (1 - drops) + colour * drops
    layer = torch.where(layer < threshold, 0, layer)
    emboss = x.new_tensor([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])[None]
    lit = layer * gaussian_blur(correlated(layer, emboss).clamp(0, 1), scale)
    lit = lit / lit.flatten(1).amax(1).clamp(min=1e-6)[:, None, None, None]
    return x + strength * colour * box_resized(lit, x.shape[-2:])
