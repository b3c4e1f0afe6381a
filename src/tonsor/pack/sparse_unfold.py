"""Convolutions as products: where it can be without unfolding, the kernel reads the image in its place."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.pack.sparse_rows import product_

PIECE = 1 << 22  # unfolded elements held at once


def convolved(layer: Any, x: Tensor, /) -> Tensor:
    """Return the convolution of a layer that uses its zeros, in the way of its plan."""
    shell = layer._shell[0]
    batch = x if x.ndim == len(shell.kernel_size) + 2 else x.unsqueeze(0)
    if x.ndim not in (batch.ndim, batch.ndim - 1) or batch.shape[1] != shell.in_channels:
        raise ValueError(f"pack: it takes {shell.in_channels} channels; got inputs of shape {tuple(x.shape)}")
    sizes = out_sizes(shell, batch.shape[2:])
    name = layer.way(len(batch) * prod(sizes))
    if name == "dense":
        weight = layer.ways["dense"].weight.view(layer.shape)
        out: Tensor = shell._conv_forward(batch, weight, layer.bias)
    else:
        padded = _padded(shell, batch)
        in_place = name == "kernel" and all(step == 1 for step in shell.stride)
        pieces = [padded] if in_place else torch.split(padded, _samples_at_once(layer, sizes))
        by = _in_place if in_place else _by_kernel if name == "kernel" else _by_columns
        found = [by(layer, name, piece, sizes) for piece in pieces]
        out = found[0] if len(found) == 1 else torch.cat(found)
    return out if x is batch else out[0]


def out_sizes(shell: Any, sizes: Sequence[int], /) -> tuple[int, ...]:
    """Return the sizes of a convolution's output for the sizes of its input."""
    padding = shell._reversed_padding_repeated_twice[::-1]
    return tuple(
        (size + before + after - gap * (kernel - 1) - 1) // step + 1
        for size, before, after, gap, kernel, step in zip(
            sizes, padding[::2], padding[1::2], shell.dilation, shell.kernel_size, shell.stride, strict=True
        )
    )


def unfolded(shell: Any, padded: Tensor, sizes: Sequence[int], /) -> Tensor:
    """Return the patches `(samples, channels x kernel, places)` that a convolution multiplies."""
    steps = padded.stride()
    inner = [step * gap for step, gap in zip(steps[2:], shell.dilation, strict=True)]
    outer = [step * stride for step, stride in zip(steps[2:], shell.stride, strict=True)]
    shape = (*padded.shape[:2], *shell.kernel_size, *sizes)
    patches = padded.as_strided(shape, (*steps[:2], *inner, *outer))
    return patches.reshape(len(padded), -1, prod(sizes))


def _padded(shell: Any, x: Tensor) -> Tensor:
    """Return the image with its border, side by side in memory."""
    border = shell._reversed_padding_repeated_twice
    if any(border):
        mode = "constant" if shell.padding_mode == "zeros" else shell.padding_mode
        x = nn.functional.pad(x, border, mode=mode)
    return x.contiguous()


def _samples_at_once(layer: Any, sizes: Sequence[int]) -> int:
    """Return how many samples are unfolded at once."""
    features: int = layer.rows.features
    return max(1, PIECE // max(1, features * prod(sizes)))


def _by_columns(layer: Any, name: str, padded: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the convolution by a way that takes a matrix."""
    patches = unfolded(layer._shell[0], padded, sizes)
    flat = patches.transpose(0, 1).reshape(patches.shape[1], -1)
    out = layer.ways[name](flat.t(), layer.bias, turned=True)
    return torch.unflatten(out.t(), 1, (len(padded), *sizes)).transpose(0, 1).contiguous()


def _by_kernel(layer: Any, name: str, padded: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the convolution by the kernel, unfolded."""
    out = padded.new_empty(len(padded), layer.rows.number, *sizes)
    product_(out.flatten(2), layer.rows, unfolded(layer._shell[0], padded, sizes), layer.bias)
    return out


def _in_place(layer: Any, name: str, padded: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the convolution by the kernel: each weight reads the image from where its patch starts."""
    shell, number = layer._shell[0], layer.rows.number
    steps = padded.stride()
    whole = (sizes[0], *padded.shape[3:])  # rows are as long as the image's; the rest is cut
    long = sum((size - 1) * step for size, step in zip(sizes, steps[2:], strict=True)) + 1
    out = padded.new_empty(len(padded), number, prod(whole))
    product_(out[..., :long], layer.rows, padded.flatten(2), layer.bias, _starts(shell, padded))
    out = torch.unflatten(out, 2, whole)
    for dim, (size, had) in enumerate(zip(sizes, whole, strict=True), start=2):
        out = out if size == had else out.narrow(dim, 0, size)
    return out.contiguous()


def _starts(shell: Any, padded: Tensor) -> Tensor:
    """Return where the patch of each channel and place of the kernel starts in a sample."""
    starts = torch.arange(shell.in_channels, dtype=torch.int32) * padded.stride(1)
    steps = zip(shell.kernel_size, shell.dilation, padded.stride()[2:], strict=True)
    for size, gap, step in steps:
        starts = (starts[:, None] + torch.arange(size, dtype=torch.int32) * (gap * step)).flatten()
    return starts
