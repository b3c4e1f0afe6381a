"""The table of rules: what each operation of a model's graph does to the labels of its channels."""

from tonsor.shrink.attention import attention
from tonsor.shrink.contract import addmm, conv, conv_transposed, embedding, linear, matmul, prelu
from tonsor.shrink.elementwise import dropout, like, meet, same, scale
from tonsor.shrink.mixing import measure, reduce, spatial
from tonsor.shrink.move import (
    cat,
    expand_as,
    index,
    made,
    move,
    pad,
    pick,
    shuffle,
    stack,
    view_as,
)
from tonsor.shrink.normalise import batch_norm, group_norm, instance_norm, layer_norm, weight_norm
from tonsor.shrink.part import glu, part, split
from tonsor.shrink.product import einsum
from tonsor.shrink.recurrent import cell, recurrent
from tonsor.shrink.value import Rule
from tonsor.shrink.window import col2im, gather, im2col, sample, triangle, unfold

# Rule by rule the operations that follow it, as torch names them, with the overload where it matters. An
# operation that changes in place has the rule of its twin that does not. An operation that is not here
# freezes the labels it is given, and is reported.
OPERATIONS: dict[Rule, str] = {
    # sums over channels
    linear: "linear",
    conv: "conv1d conv2d conv3d",
    conv_transposed: "conv_transpose1d conv_transpose2d conv_transpose3d",
    embedding: "embedding",
    matmul: "bmm dot matmul mm mv",
    addmm: "addmm addmv baddbmm",
    einsum: "einsum",
    attention: "scaled_dot_product_attention",
    prelu: "prelu",
    recurrent: "gru lstm rnn_relu rnn_tanh",
    cell: "gru_cell lstm_cell rnn_relu_cell rnn_tanh_cell",
    # normalisations
    batch_norm: "batch_norm",
    instance_norm: "instance_norm",
    group_norm: "group_norm",
    layer_norm: "layer_norm rms_norm",
    weight_norm: "_weight_norm",
    # element by element
    meet: """
        __and__ __or__ __xor__ abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh
        bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip
        copy copysign cos cosh div divide elu eq erf erfc exp exp2 expm1 floor floor_divide fmax
        fmin fmod frac ge gelu greater gt hardshrink hardsigmoid hardswish hardtanh isfinite isinf
        isnan le leaky_relu lerp less log log10 log1p log2 log_sigmoid logaddexp logical_and
        logical_not logical_or logical_xor logit lt masked_fill max.other maximum min.other
        minimum mish nan_to_num ne neg pow reciprocal relu relu6 remainder round rsqrt rsub selu
        sgn sigmoid sign silu sin sinh softplus softshrink sqrt square sub subtract tan tanh
        threshold true_divide trunc where
    """,
    scale: "mul multiply",
    same: "_to_copy alias clone contiguous detach lift_fresh_copy positive to type_as",
    dropout: "alpha_dropout dropout feature_alpha_dropout feature_dropout",
    like: "empty_like fill full_like ones_like zeros_like",
    # data movement, carried out on the labels
    move: """
        _unsafe_view adjoint broadcast_to channel_shuffle expand flatten flip mT movedim permute
        pixel_unshuffle ravel repeat repeat_interleave reshape squeeze swapaxes t tile transpose unflatten
        unsqueeze view
    """,
    expand_as: "expand_as",
    view_as: "reshape_as view_as",
    pick: "index_select roll select unbind",
    part: "narrow slice",
    split: "chunk split split_with_sizes",
    index: "index",
    glu: "glu",
    shuffle: "pixel_shuffle",
    cat: "cat concat",
    stack: "stack",
    pad: "constant_pad_nd pad",
    made: "empty full new_empty new_full new_ones new_zeros ones zeros",
    im2col: "im2col",
    col2im: "col2im",
    unfold: "unfold",
    sample: "grid_sampler",
    triangle: "tril triu",
    gather: "gather",
    # what mixes elements along dimensions
    reduce: """
        all amax amin any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum
        log_softmax logcumsumexp logsumexp max median min nanmean nansum prod softmax sort sum topk
    """,
    measure: "linalg_vector_norm mean norm std std_mean var var_mean",
    spatial: """
        _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact2d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
        adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d
        max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices upsample_bicubic2d
        upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
        upsample_nearest3d upsample_trilinear3d
    """,
}

RULES: dict[str, Rule] = {
    f"aten.{name}": rule for rule, names in OPERATIONS.items() for name in names.split()
}
