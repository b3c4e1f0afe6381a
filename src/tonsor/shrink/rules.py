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
    widen,
)
from tonsor.shrink.normalise import batch_norm, group_norm, instance_norm, layer_norm, weight_norm
from tonsor.shrink.part import glu, part, split
from tonsor.shrink.product import einsum
from tonsor.shrink.recurrent import cell, recurrent
from tonsor.shrink.scatter import bag, put, scatter
from tonsor.shrink.spelled import diagonal, paired, parted, slope, stacked, together, unpool
from tonsor.shrink.sums import bilinear, distances, inner, outer, pairs, tensordot, total
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
    bag: "_embedding_bag embedding_bag",
    bilinear: "bilinear",
    matmul: "bmm dot linalg_matmul matmul mm mv vdot",
    tensordot: "tensordot",
    outer: "ger outer",
    inner: "inner",
    pairs: "cosine_similarity linalg_vecdot",
    distances: "_euclidean_dist cdist",
    total: "linalg_norm linalg_vector_norm nansum norm sum",
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
        __and__ __lshift__ __or__ __rshift__ __xor__ abs absolute acos acosh add addcdiv addcmul angle
        arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh bitwise_and
        bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp
        clamp_max clamp_min clip complex conj conj_physical copy copysign cos cosh deg2rad digamma div
        divide elu eq erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmax fmin fmod
        frac ge gelu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot
        isclose isfinite isinf isnan isneginf isposinf isreal ldexp le leaky_relu lerp less less_equal
        lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not logical_or
        logical_xor logit lt masked_fill max.other maximum min.other minimum mish nan_to_num ne neg
        negative nextafter not_equal polar polygamma pow rad2deg reciprocal relu relu6 remainder round
        rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink special_digamma
        special_entr special_erf special_erfc special_erfinv special_exp2 special_expit special_expm1
        special_gammaln special_log1p special_logit special_round special_sinc special_xlogy sqrt square
        sub subtract tan tanh threshold true_divide trunc where xlogy
    """,
    scale: "mul multiply",
    same: """
        _conj _to_copy alias clone contiguous detach imag lift_fresh_copy positive real
        resolve_conj to type_as
    """,
    dropout: "alpha_dropout dropout feature_alpha_dropout feature_dropout",
    like: "empty_like fill full_like ones_like zero zeros_like",
    # data movement, carried out on the labels
    move: """
        _reshape_alias _unsafe_view adjoint atleast_1d atleast_2d atleast_3d channel_shuffle flatten
        flip fliplr flipud mH mT matrix_H moveaxis movedim numpy_T permute pixel_unshuffle ravel
        repeat_interleave reshape rot90 squeeze swapaxes swapdims t tile transpose unflatten unsqueeze
        view
    """,
    widen: "broadcast_to expand repeat",
    expand_as: "expand_as",
    view_as: "reshape_as view_as",
    pick: "index_select roll select unbind",
    part: "narrow slice",
    split: "chunk split split_with_sizes",
    index: "index",
    glu: "glu",
    shuffle: "pixel_shuffle",
    cat: "cat concat concatenate",
    stacked: "column_stack dstack hstack row_stack vstack",
    together: "broadcast_tensors",
    diagonal: "diagonal",
    scatter: """
        index_add index_copy index_fill scatter scatter_add scatter_reduce select_scatter
        slice_scatter
    """,
    put: "index_put",
    paired: "view_as_complex",
    parted: "view_as_real",
    slope: "rrelu",
    stack: "stack",
    pad: "constant_pad_nd pad",
    made: "empty full new_empty new_full new_ones new_zeros ones zeros",
    im2col: "im2col",
    col2im: "col2im",
    unfold: "unfold",
    sample: "grid_sampler",
    triangle: "tril triu",
    gather: "gather take_along_dim",
    # what mixes elements along dimensions
    reduce: """
        all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum diff
        fft_fft fft_fft2 fft_fftn fft_fftshift fft_hfft fft_ifft fft_ifft2 fft_ifftn fft_ifftshift
        fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn kthvalue log_softmax
        logcumsumexp logsumexp max median min mode nanmean nanmedian prod softmax sort special_softmax
        topk
    """,
    measure: "mean std std_mean var var_mean",
    unpool: "max_unpool2d max_unpool3d",
    spatial: """
        _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_nearest_exact3d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
        adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d
        max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d upsample_bicubic2d
        upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
        upsample_nearest3d upsample_trilinear3d
    """,
}

RULES: dict[str, Rule] = {
    f"aten.{name}": rule for rule, names in OPERATIONS.items() for name in names.split()
}
