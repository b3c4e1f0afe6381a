"""Ways in which an input gets worse, each at five strengths, the same each time it is asked for."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

STRENGTHS = 5


def noise(inputs: Tensor, strength: int, /, *, seed: int = 0) -> Tensor:
    r"""Add Gaussian noise: :math:`x + c\,\sigma z`, with the spread :math:`\sigma` of all the inputs' values.

    Args:
        inputs: Shape `(batch, ...)`.
        strength: 1 to 5: c is 0.1, 0.2, 0.4, 0.7, 1.
        seed: Another seed is another noise; equal seeds give noise of one form at every strength.

    Returns:
        Like the inputs.

    Example:
        >>> x = torch.tensor([[0.0, 2.0]])
        >>> weak, strong = noise(x, 1) - x, noise(x, 5) - x
        >>> torch.allclose(10 * weak, strong)
        True

    References:
        Hendrycks and Dietterich, 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations", https://arxiv.org/abs/1903.12261
    """
    drawn = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed))
    size = _of(strength, (0.1, 0.2, 0.4, 0.7, 1.0)) * inputs.float().std(correction=0)
    return (inputs + size * drawn.to(inputs.device)).to(inputs.dtype)


def scale(inputs: Tensor, strength: int, /, *, seed: int = 0) -> Tensor:
    """Multiply the inputs, as a sensor that reads too high: by 1.1, 1.2, 1.4, 1.7 or 2.

    Args:
        inputs: Shape `(batch, ...)`.
        strength: 1 to 5.
        seed: Takes no part; nothing is drawn.

    Returns:
        Like the inputs.

    Example:
        >>> scale(torch.tensor([3.0]), 5)
        tensor([6.])
    """
    return inputs * _of(strength, (1.1, 1.2, 1.4, 1.7, 2.0))


def blur(images: Tensor, strength: int, /, *, seed: int = 0) -> Tensor:
    """Blur images by a Gaussian whose spread is 2, 4, 6, 8 or 10 % of the shorter side; edges are repeated.

    Args:
        images: Shape `(batch, channels, height, width)`.
        strength: 1 to 5.
        seed: Takes no part; nothing is drawn.

    Returns:
        Like the images.

    Example:
        >>> blur(torch.full((1, 1, 8, 8), 3.0), 5).round(decimals=4).unique()
        tensor([3.])

    References:
        Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261
    """
    spread = _of(strength, (0.02, 0.04, 0.06, 0.08, 0.1)) * min(images.shape[-2:])
    reach = max(1, math.ceil(3 * spread))
    at = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
    kernel = (-0.5 * (at / spread).square()).exp()
    kernel /= kernel.sum()
    planes = images.float().flatten(0, 1).unsqueeze(1)
    planes = functional.pad(planes, [reach] * 4, mode="replicate")
    planes = functional.conv2d(planes, kernel.view(1, 1, -1, 1))
    planes = functional.conv2d(planes, kernel.view(1, 1, 1, -1))
    return planes.view(images.shape).to(images.dtype)


def contrast(images: Tensor, strength: int, /, *, seed: int = 0) -> Tensor:
    r"""Flatten images: :math:`\bar x + c\,(x - \bar x)`, with the mean of each image.

    Args:
        images: Shape `(batch, channels, height, width)`.
        strength: 1 to 5: c is 0.75, 0.5, 0.35, 0.2, 0.1.
        seed: Takes no part; nothing is drawn.

    Returns:
        Like the images.

    Example:
        >>> contrast(torch.tensor([[[[0.0, 2.0]]]]), 2)
        tensor([[[[0.5000, 1.5000]]]])

    References:
        Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261
    """
    mean = images.flatten(1).mean(1).view(-1, 1, 1, 1)
    return mean + _of(strength, (0.75, 0.5, 0.35, 0.2, 0.1)) * (images - mean)


def shift(images: Tensor, strength: int, /, *, seed: int = 0) -> Tensor:
    """Move each image in a direction of its own by 4, 8, 12, 16 or 20 % of its shorter side.

    What comes in at an edge repeats the edge.

    Args:
        images: Shape `(batch, channels, height, width)`.
        strength: 1 to 5; parts of a pixel are interpolated.
        seed: Another seed gives other directions; the same at every strength.

    Returns:
        Like the images.

    Example:
        >>> shift(torch.full((1, 1, 8, 8), 3.0), 5).round(decimals=4).unique()
        tensor([3.])
    """
    height, width = images.shape[-2:]
    distance = _of(strength, (0.04, 0.08, 0.12, 0.16, 0.2)) * min(height, width)
    turn = 2 * math.pi * torch.rand(len(images), generator=torch.Generator().manual_seed(seed))
    # An affine grid counts in halves of the image, from -1 to 1.
    moves = torch.eye(2, 3).repeat(len(images), 1, 1)
    moves[:, 0, 2] = 2 * distance * turn.cos() / width
    moves[:, 1, 2] = 2 * distance * turn.sin() / height
    grid = functional.affine_grid(moves, list(images.shape), align_corners=False).to(images.device)
    moved = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return moved.to(images.dtype)


FOR_IMAGES: dict[str, Callable[..., Tensor]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "shift": shift,
}
FOR_TABLES: dict[str, Callable[..., Tensor]] = {"noise": noise, "scale": scale}


def _of(strength: int, values: tuple[float, ...]) -> float:
    """Return what a strength stands for."""
    if not 1 <= strength <= STRENGTHS:
        raise ValueError(f"report.corruptions: strength must be 1 to {STRENGTHS}; got {strength}")
    return values[strength - 1]
