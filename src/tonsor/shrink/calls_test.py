"""How the contract test calls each operation."""

import torch
import torch.nn.functional as F  # noqa: N812

from tonsor.shrink.calls_more_test import MORE

aten = torch.ops.aten
UNITS = 6
GATES = {"gru": 3, "lstm": 4, "rnn_relu": 1, "rnn_tanh": 1}


def recurrent(kind, net, h):
    """Run a recurrent layer along the positions; the channels are its input and its hidden units."""
    weight = net.gates[GATES[kind]]
    zeros = h.new_zeros(1, 2, h.shape[1])
    state = [zeros, zeros] if kind == "lstm" else zeros
    x = h.flatten(2).mT
    return getattr(aten, kind).input(x, state, [weight, weight], False, 1, 0.0, False, False, True)


def normed(kernel):
    """Return a kernel whose rows have length 1."""
    return torch._weight_norm(kernel, kernel.new_ones(len(kernel), 1, 1, 1))


def stepped(kind, net, h):
    """Take one step of a recurrent cell."""
    weight = net.gates[GATES[kind]]
    x = h.mean((2, 3))
    return getattr(aten, f"{kind}_cell")(x, [x, x] if kind == "lstm" else x, weight, weight)


# How an operation is called on a value `h` of shape (2, 6, 4, 4) and on a second one like it, where `called`
# would not find out by itself: a new rule of an elementwise operation is tested at once.
CASES = {
    "linear": lambda net, h, _: F.linear(h.mean((2, 3)), net.matrix, net.vector),
    "matmul": lambda net, h, _: torch.matmul(h.movedim(1, -1), net.matrix.t()),
    "bmm": lambda net, h, _: torch.bmm(net.matrix.expand(2, -1, -1), h.flatten(2)),
    "mv": lambda net, h, _: torch.mv(net.matrix, h.mean((0, 2, 3)))[None].expand(2, -1),
    "dot": lambda net, h, g: h * torch.dot((h - 0.5).mean((0, 2, 3)), g.mean((0, 2, 3))),
    "einsum": lambda net, h, _: torch.einsum("bc...,oc->bo...", h, net.matrix),
    "scaled_dot_product_attention": lambda net, h, g: F.scaled_dot_product_attention(h, g, h),
    "addmv": lambda net, h, _: torch.addmv(net.vector, net.matrix, h.mean((0, 2, 3)))[None].expand(2, -1),
    "baddbmm": lambda net, h, g: torch.baddbmm(h.flatten(2), net.matrix.expand(2, -1, -1), g.flatten(2)),
    "mm": lambda net, h, _: torch.mm(h.mean((2, 3)), net.matrix.t()),
    "addmm": lambda net, h, _: torch.addmm(net.vector, h.mean((2, 3)), net.matrix.t()),
    "conv1d": lambda net, h, _: F.conv1d(h.flatten(2), net.matrix[:, :, None], net.vector),
    "conv2d": lambda net, h, _: F.conv2d(h, net.kernel, net.vector, padding=1),
    "conv3d": lambda net, h, _: F.conv3d(h[:, :, None], net.kernel[:, :, None], net.vector),
    "conv_transpose1d": lambda net, h, _: F.conv_transpose1d(
        h.flatten(2), net.matrix[:, :, None], net.vector
    ),
    "conv_transpose2d": lambda net, h, _: F.conv_transpose2d(h, net.kernel, net.vector, stride=2),
    "conv_transpose3d": lambda net, h, _: F.conv_transpose3d(h[:, :, None], net.kernel[:, :, None]),
    "embedding": lambda net, h, _: h + F.embedding(net.places, net.matrix)[:, :, None, None],
    "prelu": lambda net, h, _: F.prelu(h, net.vector),
    "batch_norm": lambda net, h, _: F.batch_norm(h, net.mean, net.mean, net.vector, net.vector),
    "instance_norm": lambda net, h, _: F.instance_norm(h, weight=net.vector, bias=net.vector),
    "group_norm": lambda net, h, _: F.group_norm(h, h.shape[1], net.vector, net.vector),
    "layer_norm": lambda net, h, _: F.layer_norm(h, (4, 4)),
    "rms_norm": lambda net, h, _: F.rms_norm(h, (4, 4)),
    "_weight_norm": lambda net, h, _: F.conv2d(
        h, torch._weight_norm(net.kernel, net.vector.view(-1, 1, 1, 1))
    ),
    "gru": lambda net, h, _: recurrent("gru", net, h)[0][:, -1],
    "lstm": lambda net, h, _: recurrent("lstm", net, h)[0][:, -1],
    "rnn_relu": lambda net, h, _: recurrent("rnn_relu", net, h)[0][:, -1],
    "rnn_tanh": lambda net, h, _: recurrent("rnn_tanh", net, h)[0][:, -1],
    "gru_cell": lambda net, h, _: stepped("gru", net, h),
    "lstm_cell": lambda net, h, _: stepped("lstm", net, h)[0],
    "rnn_relu_cell": lambda net, h, _: stepped("rnn_relu", net, h),
    "rnn_tanh_cell": lambda net, h, _: stepped("rnn_tanh", net, h),
    "im2col": lambda net, h, _: F.unfold(h, 2),
    "col2im": lambda net, h, _: F.fold(aten.repeat_interleave(h, 4, 1).flatten(2)[..., :9], (4, 4), 2),
    "unfold": lambda net, h, _: h.unfold(2, 2, 2),
    "grid_sampler": lambda net, h, _: aten.grid_sampler(h, net.grid, 0, 0, False),
    "gather": lambda net, h, _: h.gather(3, h.argmax(3, keepdim=True).expand(-1, -1, -1, 2)),
    "threshold": lambda net, h, _: F.threshold(h, 0.1, 20.0),
    "clamp": lambda net, h, _: h.clamp(-0.1, 0.1),
    "clip": lambda net, h, _: h.clip(-0.1, 0.1),
    "copy": lambda net, h, g: torch.empty_like(h).copy_(g) + h,
    "__and__": lambda net, h, g: (h > 0.5) & (g > 0.5),
    "__or__": lambda net, h, g: (h > 0.5) | (g > 0.5),
    "__xor__": lambda net, h, g: (h > 0.5) ^ (g > 0.5),
    "bitwise_and": lambda net, h, g: torch.bitwise_and(h > 0.5, g > 0.5),
    "bitwise_or": lambda net, h, g: torch.bitwise_or(h > 0.5, g > 0.5),
    "bitwise_xor": lambda net, h, g: torch.bitwise_xor(h > 0.5, g > 0.5),
    "bitwise_not": lambda net, h, _: ~(h > 0.5),
    "linalg_vector_norm": lambda net, h, _: torch.linalg.vector_norm(h, dim=2),
    "norm": lambda net, h, _: aten.norm(h, 2, [2]),
    "fill": lambda net, h, _: h * aten.fill(h, 2.0),
    "acosh": lambda net, h, _: torch.acosh(h + 1),
    "where": lambda net, h, g: torch.where(h > 0.5, h, g),
    "masked_fill": lambda net, h, g: h.masked_fill(g > 0.5, 1.0),
    "lerp": lambda net, h, g: torch.lerp(h, g, 0.3),
    "to": lambda net, h, _: h.to(h.dtype, copy=True),
    "swapaxes": lambda net, h, _: aten.swapaxes(h, 1, 2),
    "full_like": lambda net, h, _: h * torch.full_like(h, 2.0),
    "ones_like": lambda net, h, _: h + torch.ones_like(h),
    "zeros_like": lambda net, h, _: h + torch.zeros_like(h),
    "empty_like": lambda net, h, _: torch.empty_like(h).fill_(1.0) * h,
    "ones": lambda net, h, _: h + torch.ones(2, 6, 1, 1),
    "zeros": lambda net, h, _: h + torch.zeros(2, 6, 4, 4),
    "full": lambda net, h, _: h + torch.full((1, 6, 4, 4), 2.0),
    "empty": lambda net, h, _: h + torch.empty(2, 6, 4, 4).fill_(0.5),
    "new_ones": lambda net, h, _: h + h.new_ones(4, 4),
    "new_zeros": lambda net, h, _: h + h.new_zeros(1),
    "new_full": lambda net, h, _: h + h.new_full((4, 1), 2.0),
    "new_empty": lambda net, h, _: h + h.new_empty(4).fill_(1.0),
    "_unsafe_view": lambda net, h, _: aten._unsafe_view(h, [2, -1, 16]),
    "broadcast_to": lambda net, h, _: h.mean(3, keepdim=True).broadcast_to(-1, -1, 4, 5),
    "expand": lambda net, h, _: h.mean(3, keepdim=True).expand(-1, -1, -1, 5),
    "expand_as": lambda net, h, g: h.mean(3, keepdim=True).expand_as(g),
    "flip": lambda net, h, _: h.flip(1),
    "movedim": lambda net, h, _: h.movedim(1, 3),
    "permute": lambda net, h, _: h.permute(0, 2, 3, 1),
    "pixel_shuffle": lambda net, h, _: F.pixel_shuffle(aten.repeat_interleave(h, 4, 1), 2),
    "pixel_unshuffle": lambda net, h, _: F.pixel_unshuffle(h, 2),
    "repeat": lambda net, h, _: h.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda net, h, _: aten.repeat_interleave(h, 2, 1),
    "reshape": lambda net, h, _: h.reshape(2, -1),
    "reshape_as": lambda net, h, g: h.reshape_as(g.flatten(1)),
    "t": lambda net, h, _: h.mean((2, 3)).t().t(),
    "tile": lambda net, h, _: h.tile(1, 2, 1, 1),
    "transpose": lambda net, h, _: h.transpose(1, 3),
    "unflatten": lambda net, h, _: h.unflatten(3, (2, 2)),
    "view": lambda net, h, _: h.view(2, -1, 2, 8),
    "view_as": lambda net, h, g: h.view_as(g.flatten(1)),
    "ravel": lambda net, h, _: h.ravel().reshape(2, -1),
    "flatten": lambda net, h, _: h.flatten(1),
    "narrow": lambda net, h, _: aten.narrow(h, 2, 1, 2),
    "roll": lambda net, h, _: h.roll(1, 2),
    "select": lambda net, h, _: h[:, :, 1],
    "slice": lambda net, h, _: h[:, :, 1:],
    "split": lambda net, h, _: h.split(2, 2)[1],
    "split_with_sizes": lambda net, h, _: aten.split_with_sizes(h, [1, 3], 2)[1],
    "unbind": lambda net, h, _: h.unbind(2)[1],
    "index": lambda net, h, _: h[:, :, net.places[:1]],
    "index_select": lambda net, h, _: h.index_select(2, net.places[:1]),
    "chunk": lambda net, h, g: torch.cat([h, g], 1).chunk(2, 1)[0],
    "glu": lambda net, h, g: F.glu(torch.cat([h, g], 1), 1),
    "cat": lambda net, h, g: torch.cat([h, torch.cat([g, h], 2)[:, :, :4]], 1),
    "concat": lambda net, h, g: torch.concat([h, g], 1),
    "stack": lambda net, h, g: torch.stack([h, g], 1),
    "pad": lambda net, h, _: aten.pad(h, [1, 0, 0, 1], "reflect"),
    "constant_pad_nd": lambda net, h, _: aten.constant_pad_nd(h, [1, 1, 0, 0, 2, 1]),
} | MORE
