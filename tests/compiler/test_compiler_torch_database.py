"""Our operations on the samples of PyTorch's own database of operations: values, kinds, shapes, gradients, errors."""

from __future__ import annotations

from typing import Any

import pytest
from torch_database import (
    WHOLE,
    Difference,
    compare,
    database,
    described,
    flat,
    ours,
    samples,
    tensors,
    translated,
    values,
)

from compiler import Tensor

SAMPLES = 2     # of an operation and type; all of them: python tests/compiler/torch_database.py

_NAMES = """
    H T __getitem__ __radd__ __rand__ __rmatmul__ __rmod__ __rmul__ __ror__ __rpow__ __rsub__ __rxor__ abs acos
    acosh add addbmm addcdiv addcmul addmm addmm/decomposed addmv addr all allclose amax amin aminmax angle any
    arange argmax argmin argsort argwhere as_strided asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d
    baddbmm bernoulli bfloat16 bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
    bitwise_xor block_diag bmm bmm/triton_optimized bool broadcast_shapes broadcast_tensors broadcast_to bucketize
    byte cartesian_prod cat cdist ceil char cholesky cholesky_inverse cholesky_solve chunk clamp clamp_max clamp_min
    clone column_stack combinations conj conj_physical constant_pad_nd contiguous copysign corrcoef cos cosh
    count_nonzero cov cross cummax cummin cumprod cumsum cumulative_trapezoid deg2rad diag diag_embed diagflat
    diagonal diagonal_scatter diff digamma dist div/floor_rounding div/no_rounding_mode div/trunc_rounding dot
    double dsplit dstack einsum empty empty_like eq equal erf erfc erfinv exp exp2 expand expand_as expm1 eye fill
    flatten flip fliplr flipud float float_power floor floor_divide fmax fmin fmod frac frexp full full_like gather
    gcd ge gt half heaviside histc hsplit hstack hypot index_add index_copy index_fill index_put index_reduce/amax
    index_reduce/amin index_reduce/mean index_reduce/prod index_select inner int isclose isfinite isin isinf isnan
    isneginf isposinf isreal item kron kthvalue lcm ldexp le lerp lgamma linalg.cholesky linalg.cross linalg.det
    linalg.diagonal linalg.eigh linalg.eigvalsh linalg.inv linalg.matrix_norm linalg.matrix_power linalg.matrix_rank
    linalg.matrix_rank/hermitian linalg.multi_dot linalg.pinv linalg.pinv/hermitian linalg.qr linalg.slogdet
    linalg.solve linalg.solve_triangular linalg.svd linalg.svdvals linalg.tensorinv linalg.tensorsolve linalg.vecdot
    linalg.vector_norm linspace linspace/tensor_overload log log10 log1p log2 log_softmax log_softmax/with_dtype
    logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or logical_xor logit logspace
    logspace/tensor_overload logsumexp long lt mH mT masked_fill masked_scatter masked_select matmul max/binary
    max/reduction_no_dim max/reduction_with_dim maximum mean median meshgrid/list_of_tensors
    meshgrid/variadic_tensors min/binary min/reduction_no_dim min/reduction_with_dim minimum mm mode movedim msort
    mul multinomial mv mvlgamma/mvlgamma_p_1 mvlgamma/mvlgamma_p_3 mvlgamma/mvlgamma_p_5 nan_to_num nanmean
    nanmedian nansum narrow narrow_copy ne neg new_empty new_full new_ones new_zeros nextafter
    nn.functional.adaptive_avg_pool1d nn.functional.adaptive_avg_pool2d nn.functional.adaptive_avg_pool3d
    nn.functional.adaptive_max_pool1d nn.functional.adaptive_max_pool2d nn.functional.adaptive_max_pool3d
    nn.functional.avg_pool1d nn.functional.avg_pool2d nn.functional.avg_pool3d nn.functional.batch_norm
    nn.functional.bilinear nn.functional.binary_cross_entropy nn.functional.binary_cross_entropy_with_logits
    nn.functional.celu nn.functional.channel_shuffle nn.functional.conv1d nn.functional.conv2d nn.functional.conv3d
    nn.functional.conv_transpose1d nn.functional.conv_transpose2d nn.functional.conv_transpose3d
    nn.functional.cosine_embedding_loss nn.functional.cosine_similarity nn.functional.cross_entropy
    nn.functional.dropout nn.functional.dropout2d nn.functional.dropout3d nn.functional.elu nn.functional.embedding
    nn.functional.embedding_bag nn.functional.gaussian_nll_loss nn.functional.gelu nn.functional.glu
    nn.functional.grid_sample nn.functional.group_norm nn.functional.hardshrink nn.functional.hardsigmoid
    nn.functional.hardswish nn.functional.hardtanh nn.functional.hinge_embedding_loss nn.functional.huber_loss
    nn.functional.instance_norm nn.functional.interpolate/area nn.functional.interpolate/bicubic
    nn.functional.interpolate/bilinear nn.functional.interpolate/linear nn.functional.interpolate/nearest
    nn.functional.interpolate/nearest-exact nn.functional.interpolate/trilinear nn.functional.kl_div
    nn.functional.l1_loss nn.functional.layer_norm nn.functional.leaky_relu nn.functional.linear
    nn.functional.local_response_norm nn.functional.logsigmoid nn.functional.margin_ranking_loss
    nn.functional.max_pool1d nn.functional.max_pool2d nn.functional.max_pool3d nn.functional.max_unpool2d
    nn.functional.max_unpool2d/grad nn.functional.mish nn.functional.mse_loss nn.functional.multi_margin_loss
    nn.functional.multilabel_margin_loss nn.functional.multilabel_soft_margin_loss nn.functional.nll_loss
    nn.functional.normalize nn.functional.one_hot nn.functional.pad/circular nn.functional.pad/constant
    nn.functional.pad/reflect nn.functional.pad/replicate nn.functional.pad/replicate_negative
    nn.functional.pairwise_distance nn.functional.pdist nn.functional.pixel_shuffle nn.functional.pixel_unshuffle
    nn.functional.poisson_nll_loss nn.functional.prelu nn.functional.relu nn.functional.relu6 nn.functional.rms_norm
    nn.functional.rrelu nn.functional.scaled_dot_product_attention nn.functional.selu nn.functional.silu
    nn.functional.smooth_l1_loss nn.functional.soft_margin_loss nn.functional.softmin
    nn.functional.softmin/with_dtype nn.functional.softplus nn.functional.softshrink nn.functional.softsign
    nn.functional.tanhshrink nn.functional.threshold nn.functional.triplet_margin_loss nn.functional.unfold
    nn.functional.upsample_bilinear nn.functional.upsample_nearest nonzero norm norm/fro norm/inf norm/nuc normal
    normal/number_mean ones ones_like outer permute pinverse positive pow prod put qr quantile rad2deg rand_like
    randint randint_like randn randn_like ravel real reciprocal remainder renorm repeat repeat_interleave reshape
    reshape_as resolve_conj resolve_neg roll rot90 round round/decimals_0 round/decimals_3 round/decimals_neg_3
    rsqrt rsub scalar_tensor scatter scatter_add scatter_reduce/amax scatter_reduce/amin scatter_reduce/mean
    scatter_reduce/prod scatter_reduce/sum searchsorted select select_scatter sgn short sigmoid sign signbit sin
    sinc sinh slice_scatter softmax softmax/with_dtype sort special.entr special.ndtr special.ndtri special.xlog1py
    split split/list_args split_with_sizes sqrt square squeeze squeeze/multiple stack std std/unbiased std_mean
    std_mean/unbiased sub sum sum_to_size svd t take take_along_dim tan tanh tensor_split tensordot tile to topk
    trace transpose trapezoid trapz tril tril_indices triu triu_indices true_divide trunc unbind unflatten unfold
    unique unique_consecutive unravel_index unsafe_chunk unsafe_split unsqueeze var var/unbiased var_mean
    var_mean/unbiased vdot view view_as vsplit vstack where xlogy zeros zeros_like
"""
OPERATIONS = tuple(_NAMES.split())

ELSEWHERE = {       # operations of which there is a name here that means something else, or whose samples cannot be
    "gradient": "our gradient() is a derivative by tensors",
    "uniform": "our uniform() makes a tensor; in place it is uniform_()",
    "normal/in_place": "our normal() makes a tensor; in place it is normal_()",
    "zero_": "the samples are leaves that require gradients",
    "linalg.norm": "our norm() is torch.norm; matrix_norm() and vector_norm() are the two that linalg.norm is",
    "linalg.norm/subgradients_at_zero": "as linalg.norm",
    "linalg.vander": "our vander() is torch.vander, with falling powers",
    "linalg.pinv/singular": "the samples are two factors of the matrix",
    "nn.functional.batch_norm/without_cudnn": "all samples have one axis, of batch and channels",
    "nn.functional.silu/complex": "there are no complex types",
    "nn.functional.triplet_margin_with_distance_loss": "the samples measure distances by a module of PyTorch's",
    "as_strided/partial_views": "the samples are views of memory that they do not show",
    "nn.functional.ctc_loss": "50 steps of 16 batches are slow here; test_compiler_spellings.py has smaller ones",
}

# where there was a fault once: these are in the default suite, too
MENDED = {
    "addr", "atleast_1d", "cat", "cov", "diag_embed", "diagflat", "diff", "flip", "gather", "index_select", "isclose",
    "linalg.inv", "linspace", "nonzero", "rsub", "scatter_reduce/prod", "softmax", "square", "tensor_split",
    "tensordot", "to", "transpose", "tril", "var_mean/unbiased", "unique", "nn.functional.pad/replicate_negative",
    "nn.functional.adaptive_max_pool2d",
}

RANDOM = Difference("random numbers are Threefry's, and not PyTorch's", values=False)
TIES = Difference("which of equal elements is named is not said by PyTorch", first_only=True)
SIGNS = Difference("vectors are what they are but for the sign", values=False)
UNWRITTEN = Difference("PyTorch leaves memory as it is, here there are zeros", values=False)


DIFFERENCES = {
    **dict.fromkeys((
        "bernoulli", "multinomial", "normal", "normal/number_mean", "rand_like", "randint", "randint_like", "randn",
        "randn_like", "nn.functional.dropout", "nn.functional.dropout2d", "nn.functional.dropout3d",
        "nn.functional.rrelu"), RANDOM),
    **dict.fromkeys(("kthvalue", "mode", "topk", "sort", "median", "nanmedian"), TIES),
    **dict.fromkeys(("linalg.svd", "svd", "linalg.eigh"), SIGNS),
    **dict.fromkeys(("empty", "empty_like", "new_empty"), UNWRITTEN),
    "argsort": Difference(TIES.why, without=lambda s: not s.input.dtype.is_floating_point),
    "linalg.pinv/hermitian": Difference("the samples are not symmetric, and PyTorch's gradient uses both triangles",
                                        gradient=False),
    **dict.fromkeys(("cholesky_inverse", "cholesky_solve"), Difference(
        "PyTorch's gradient is of the triangle that is not read, too", gradient=False)),
    "nextafter": Difference("the next number has no gradient here", gradient=False),
    "where": Difference("the database gives x, condition, y: with bools alone nobody sees which is the condition",
                        without=lambda s: str(s.input.dtype) == "torch.bool"),
    "nn.functional.batch_norm": Difference("a batch of channels has two axes at least",
                                           without=lambda s: s.input.ndim < 2),
    "nn.functional.local_response_norm": Difference("integers become floats, of no elements too",
                                                    without=lambda s: not s.input.dtype.is_floating_point),
    "nn.functional.max_unpool2d": Difference(
        "of values that go to one place the last has the gradient, not all of them", gradient=False),
    "nn.functional.scaled_dot_product_attention": Difference(
        RANDOM.why, without=lambda s: bool(s.kwargs.get("dropout_p"))),
}


_NUMBERS = "numbers are taken where PyTorch wants tensors"
_VALUES = "values are not looked at before they are used"
_BROADCAST = "shapes broadcast, as NumPy has it"
_EMPTY = "of no elements nothing is computed"
ACCEPTED = {        # what is an error there, and none here
    **dict.fromkeys(("atan2", "clamp_max", "clamp_min", "fmax", "fmin", "gcd", "heaviside", "hypot", "isclose", "lcm",
                     "ldexp", "logaddexp", "logical_and", "logical_or", "logical_xor", "maximum", "minimum"), _NUMBERS),
    **dict.fromkeys(("gather", "multinomial", "scatter", "scatter_add"), _VALUES),
    **dict.fromkeys(("index_add", "linalg.cross", "masked_fill"), _BROADCAST),
    **dict.fromkeys(("nn.functional.max_pool1d", "nn.functional.max_pool3d", "nn.functional.multilabel_margin_loss"),
                    _EMPTY),
    **dict.fromkeys(("nn.functional.conv1d", "nn.functional.conv2d", "nn.functional.conv3d"), "types are promoted"),
    "arange": "against the step there is nothing, as NumPy has it",
    "cov": _VALUES,
    "flipud": "one number is its own mirror image",
    "mean": "integers have a mean, as NumPy has it",
}


@pytest.fixture(autouse=True)
def torch() -> Any:
    pytest.importorskip("expecttest")       # which PyTorch's database wants
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", [n if n in MENDED else pytest.param(n, marks=pytest.mark.slow) for n in OPERATIONS])
def test_samples(name: str, torch: Any) -> None:
    if (op := database().get(name)) is None:
        pytest.skip(f"this PyTorch's database has no {name}")
    difference = DIFFERENCES.get(name, WHOLE)
    done = 0
    for dtype in (torch.float32, torch.int64, torch.bool):
        if not op.supports_dtype(dtype, "cpu"):
            continue
        for sample in samples(op, dtype, SAMPLES):
            if difference.without(sample):
                continue
            try:
                done += compare(name, sample, difference)
            except Exception as error:
                raise AssertionError(f"{name}({described(sample)}): {type(error).__name__}: {error}") from error
    assert done, f"no sample of {name} was compared"


def test_every_operation_that_we_have_is_compared() -> None:
    """A name that a tensor has and PyTorch's database, too, is on one of the lists."""
    named = {name for name in database() if ours(name) is not None}
    assert named - set(OPERATIONS) - set(ELSEWHERE) == set()
    assert set(DIFFERENCES) <= set(OPERATIONS)
    assert set(OPERATIONS).isdisjoint(ELSEWHERE)
    assert set(OPERATIONS) >= MENDED


@pytest.mark.parametrize("name", [n if n in MENDED else pytest.param(n, marks=pytest.mark.slow) for n in OPERATIONS])
def test_errors(name: str, torch: Any) -> None:
    """What PyTorch's database knows for an error is one here, in words."""
    op = database().get(name)
    if op is None or op.error_inputs_func is None:
        pytest.skip("no errors are known")
    for given in op.error_inputs("cpu"):
        sample = given.sample_input
        every = list(tensors([sample.input, sample.args, sample.kwargs]))
        if any(t.is_complex() or t.layout is not torch.strided or t.ndim > 64 or t.numel() > 1 << 20 for t in every) \
                or not ((every and hasattr(sample.input, "shape")) or isinstance(sample.input, list)):
            continue        # there are no such tensors, or they are large; or none whose method it could be
        made: dict[int, Tensor] = {}
        arguments, keywords = translated((sample.input, *sample.args), made), translated(sample.kwargs, made)
        function = ours(name)
        assert function is not None
        try:
            for result in flat(function(*arguments, **keywords)):
                values(result)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            assert "LLVM" not in str(error), f"{name}({described(sample)}) breaks code generation: {error}"
            continue
        assert name in ACCEPTED, f"{name}({described(sample)}) is no error here; {given.error_regex}"
