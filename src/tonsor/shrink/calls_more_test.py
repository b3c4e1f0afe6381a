"""How the contract test calls the operations that have several spellings, or write, or compare."""

import torch
import torch.nn.functional as F  # noqa: N812

aten = torch.ops.aten


def spectrum(name, **given):
    """Return how a transform is called, its two parts beside each other."""

    def call(net, h, _):
        complexes = getattr(aten, name)(
            h if "_r" in name or "ihfft" in name else torch.complex(h, h - 0.5), **given
        )
        return torch.cat([complexes.real, complexes.imag], 3) if complexes.is_complex() else complexes

    return call


def stacked(name):
    """Return how a stack is called."""
    return lambda net, h, g: getattr(aten, name)([h, g])


def padded(kind, n):
    """Return how values beside the border are repeated."""
    shapes = {1: lambda h: h.flatten(2), 2: lambda h: h, 3: lambda h: h[:, :, None].expand(-1, -1, 2, -1, -1)}
    return lambda net, h, _: getattr(aten, f"{kind}_pad{n}d")(shapes[n](h), [1, 0] * n)


FFTS = {
    "fft_fft": {"dim": 2},
    "fft_fft2": {},
    "fft_fftn": {"dim": [2]},
    "fft_fftshift": {"dim": [2]},
    "fft_hfft": {"dim": 2},
    "fft_ifft": {"dim": 2},
    "fft_ifft2": {},
    "fft_ifftn": {"dim": [2]},
    "fft_ifftshift": {"dim": [2]},
    "fft_ihfft": {"dim": 2},
    "fft_irfft": {"dim": 2},
    "fft_irfft2": {},
    "fft_irfftn": {"dim": [2]},
    "fft_rfft": {"dim": 2},
    "fft_rfft2": {},
    "fft_rfftn": {"dim": [2]},
}
MORE = {name: spectrum(name, **given) for name, given in FFTS.items()}
MORE |= {name: stacked(name) for name in ("column_stack", "dstack", "hstack", "row_stack", "vstack")}
MORE |= {f"{kind}_pad{n}d": padded(kind, n) for kind in ("reflection", "replication") for n in (1, 2, 3)}
MORE |= {
    "concatenate": lambda net, h, g: torch.concatenate([h, g], 1),
    "broadcast_tensors": lambda net, h, _: torch.add(*torch.broadcast_tensors(h, h.mean(3, keepdim=True))),
    "rot90": lambda net, h, _: torch.rot90(h, 1, (1, 3)),
    "numpy_T": lambda net, h, _: h.mean((2, 3)).T.T,
    "matrix_H": lambda net, h, _: h.mean((2, 3)).H.H,
    "swapdims": lambda net, h, _: h.swapdims(1, 2),
    "moveaxis": lambda net, h, _: h.moveaxis(1, 2),
    "_reshape_alias": lambda net, h, _: aten._reshape_alias(h, [2, h[0].numel()], [h[0].numel(), 1]),
    "diagonal": lambda net, h, _: h.diagonal(0, 2, 3),
    "scatter": lambda net, h, g: h.scatter(3, h.argsort(3), g),
    "scatter_add": lambda net, h, g: h.scatter_add(3, h.argsort(3), g),
    "scatter_reduce": lambda net, h, g: h.scatter_reduce(3, h.argsort(3), g, "amax"),
    "index_add": lambda net, h, g: h.index_add(2, net.places, g[:, :, :2]),
    "index_copy": lambda net, h, g: h.index_copy(2, net.places, g[:, :, :2]),
    "index_fill": lambda net, h, _: h.index_fill(2, net.places, 0.5),
    "index_put": lambda net, h, g: h.movedim(1, -1).index_put((net.places[1:],), g.movedim(1, -1)[:1]),
    "select_scatter": lambda net, h, g: h.select_scatter(g[:, :, 1], 2, 0),
    "slice_scatter": lambda net, h, g: h.slice_scatter(g[:, :, :2], 2, 1, 3),
    "take_along_dim": lambda net, h, _: h.take_along_dim(h.argsort(2), 2),
    "view_as_complex": lambda net, h, _: torch.view_as_complex(h.unflatten(3, (2, 2))).imag,
    "view_as_real": lambda net, h, g: torch.view_as_real(torch.complex(h, g)),
    "complex": lambda net, h, g: torch.complex(h, g).imag,
    "polar": lambda net, h, g: torch.polar(h, g).imag,
    "real": lambda net, h, g: aten.real(torch.complex(h, g)),
    "imag": lambda net, h, g: aten.imag(torch.complex(h, g)),
    "_conj": lambda net, h, g: aten._conj(torch.complex(h, g)).imag,
    "resolve_conj": lambda net, h, g: aten.resolve_conj(torch.complex(h, g)).imag,
    "__lshift__": lambda net, h, _: (h > 0.5).int() << 1,
    "__rshift__": lambda net, h, _: (h > 0.5).int() >> 1,
    "bitwise_left_shift": lambda net, h, _: torch.bitwise_left_shift((h > 0.5).int(), 1),
    "bitwise_right_shift": lambda net, h, _: torch.bitwise_right_shift((4 * h).int(), 1),
    "zero": lambda net, h, _: h + h.clone().zero_(),
    "arccosh": lambda net, h, _: torch.arccosh(h + 1),
    "float_power": lambda net, h, _: h.float_power(1.5),
    "ldexp": lambda net, h, _: torch.ldexp(h, torch.tensor(2)),
    "polygamma": lambda net, h, _: torch.polygamma(1, h + 1),
    "rrelu": lambda net, h, _: F.rrelu(h - 0.5),
    "sum": lambda net, h, g: h * ((h - 0.5) * g).sum(1, keepdim=True),
    "nansum": lambda net, h, _: h * (h - 0.5).nansum(1, keepdim=True),
    "linalg_norm": lambda net, h, _: h / (1 + torch.linalg.norm(h - 0.5, dim=1, keepdim=True)),
    "cosine_similarity": lambda net, h, g: h * F.cosine_similarity(h - 0.5, g - 0.5)[:, None],
    "linalg_vecdot": lambda net, h, g: h * torch.linalg.vecdot(h - 0.5, g, dim=1)[:, None],
    "cdist": lambda net, h, g: h * torch.cdist(h.mean(3).mT - 0.5, g.mean(3).mT - 0.5)[:, None],
    "_euclidean_dist": lambda net, h, g: (
        h * aten._euclidean_dist(h.mean(3).mT - 0.5, g.mean(3).mT - 0.5)[:, None]
    ),
    "tensordot": lambda net, h, _: torch.tensordot(h - 0.5, net.matrix, ([1], [1])),
    "outer": lambda net, h, g: torch.outer(h.mean((0, 2, 3)), g[0, 0, 0])[None].expand(2, -1, -1),
    "ger": lambda net, h, g: torch.ger(h.mean((0, 2, 3)), g[0, 0, 0])[None].expand(2, -1, -1),
    "inner": lambda net, h, _: torch.inner(h.movedim(1, -1) - 0.5, net.matrix),
    "vdot": lambda net, h, g: h * torch.vdot((h - 0.5).mean((0, 2, 3)), g.mean((0, 2, 3))),
    "linalg_matmul": lambda net, h, _: aten.linalg_matmul(h.movedim(1, -1), net.matrix.t()),
    "bilinear": lambda net, h, g: F.bilinear(
        h.mean((2, 3)), g.mean((2, 3)), net.matrix[..., None] * net.vector, net.vector
    ),
    "embedding_bag": lambda net, h, _: h * F.embedding_bag(net.places[None], net.matrix)[..., None, None],
    "_embedding_bag": lambda net, h, _: (
        h * aten._embedding_bag(net.matrix, net.places, net.places[:1] * 0)[0][..., None, None]
    ),
    "max_unpool2d": lambda net, h, _: F.max_unpool2d(*F.max_pool2d(h, 2, return_indices=True), 2),
    "max_unpool3d": lambda net, h, _: F.max_unpool3d(
        *F.max_pool3d(h[..., None], (2, 2, 1), return_indices=True), (2, 2, 1)
    ),
    "aminmax": lambda net, h, _: h.aminmax(dim=2)[0],
    "mode": lambda net, h, _: h.mode(2)[0],
    "nanmedian": lambda net, h, _: h.nanmedian(2)[0],
    "diff": lambda net, h, _: h.diff(dim=2),
    "kthvalue": lambda net, h, _: h.kthvalue(2, 2)[0],
    "_upsample_nearest_exact1d": lambda net, h, _: F.interpolate(h.flatten(2), 20, mode="nearest-exact"),
    "max_pool1d_with_indices": lambda net, h, _: F.max_pool1d(h.flatten(2), 2, return_indices=True)[0],
}
