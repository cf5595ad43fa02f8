"""The array API standard's namespace (https://data-apis.org/array-api, 2024.12) over :class:`compiler.Tensor`.

    xp = x.__array_namespace__()        # or: from compiler import array_api as xp
    xp.sum(xp.asarray([1.0, 2.0]), axis=0)

What is left out, and why:

- complex types, and with them ``conj``, ``real``, ``imag``, ``linalg.eig``, ``linalg.eigvals`` and ``fft``: kernels
  have no complex arithmetic;
- an index in a tensor is not checked (it would have to be computed first): beyond the end it reads 0;
- integer division by zero gives 0, and no error, as the standard lets it;
- ``sin``, ``cos`` and ``tan`` lose digits beyond 2**28 and mean nothing from about 1e15 on (``sin`` and ``cos`` leave
  [-1, 1]), and ``remainder`` and ``floor_divide`` of float64 lose them where the quotient times the divisor has more
  than 53 bits: no kernel carries more;
- the greater of 0.0 and -0.0 is the first, and so is the lesser;
- an array's memory is never shared: ``copy=False`` is an error where another library's array would be needed.

Default types are float32 and int32, of indices too.
"""

from __future__ import annotations

import math

from compiler.array_api import linalg
from compiler.array_api.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tril,
    triu,
    zeros,
    zeros_like,
)
from compiler.array_api.elementwise import *  # noqa: F403
from compiler.array_api.elementwise import __all__ as _elementwise
from compiler.array_api.manipulation import (
    broadcast_arrays,
    broadcast_shapes,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    moveaxis,
    permute_dims,
    repeat,
    reshape,
    roll,
    squeeze,
    stack,
    tile,
    unstack,
)
from compiler.array_api.statistics import (
    all,
    any,
    argmax,
    argmin,
    argsort,
    count_nonzero,
    cumulative_prod,
    cumulative_sum,
    diff,
    isin,
    max,
    mean,
    min,
    nonzero,
    prod,
    searchsorted,
    sort,
    std,
    sum,
    take,
    take_along_axis,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
    var,
    where,
)
from compiler.array_api.types import (
    __array_namespace_info__,
    astype,
    can_cast,
    finfo,
    iinfo,
    isdtype,
    result_type,
)
from compiler.dtypes import (
    bool_ as bool,
)
from compiler.dtypes import (
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)

matmul, matrix_transpose, tensordot, vecdot = linalg.matmul, linalg.matrix_transpose, linalg.tensordot, linalg.vecdot
e, pi, inf, nan, newaxis = math.e, math.pi, math.inf, math.nan, None
__array_api_version__ = "2024.12"

__all__ = [
    "__array_api_version__",
    "__array_namespace_info__",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "asarray",
    "astype",
    "bool",
    "broadcast_arrays",
    "broadcast_shapes",
    "broadcast_to",
    "can_cast",
    "concat",
    "count_nonzero",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "e",
    "empty",
    "empty_like",
    "expand_dims",
    "eye",
    "finfo",
    "flip",
    "float32",
    "float64",
    "from_dlpack",
    "full",
    "full_like",
    "iinfo",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "isdtype",
    "isin",
    "linalg",
    "linspace",
    "matmul",
    "matrix_transpose",
    "max",
    "mean",
    "meshgrid",
    "min",
    "moveaxis",
    "nan",
    "newaxis",
    "nonzero",
    "ones",
    "ones_like",
    "permute_dims",
    "pi",
    "prod",
    "repeat",
    "reshape",
    "result_type",
    "roll",
    "searchsorted",
    "sort",
    "squeeze",
    "stack",
    "std",
    "sum",
    "take",
    "take_along_axis",
    "tensordot",
    "tile",
    "tril",
    "triu",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unstack",
    "var",
    "vecdot",
    "where",
    "zeros",
    "zeros_like",
    *_elementwise,
]
