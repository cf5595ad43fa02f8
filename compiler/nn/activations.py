"""Activations as layers."""

from __future__ import annotations

from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = [
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid",
    "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus",
    "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
]


class Hardsigmoid(Module):
    """:meth:`Tensor.hardsigmoid <compiler.tensor.Tensor.hardsigmoid>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.hardsigmoid()


class Hardswish(Module):
    """:meth:`Tensor.hardswish <compiler.tensor.Tensor.hardswish>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.hardswish()


class LogSigmoid(Module):
    """:meth:`Tensor.logsigmoid <compiler.tensor.Tensor.logsigmoid>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.logsigmoid()


class Mish(Module):
    """:meth:`Tensor.mish <compiler.tensor.Tensor.mish>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.mish()


class ReLU(Module):
    """:meth:`Tensor.relu <compiler.tensor.Tensor.relu>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class ReLU6(Module):
    """:meth:`Tensor.relu6 <compiler.tensor.Tensor.relu6>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu6()


class SELU(Module):
    """:meth:`Tensor.selu <compiler.tensor.Tensor.selu>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.selu()


class SiLU(Module):
    """:meth:`Tensor.silu <compiler.tensor.Tensor.silu>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.silu()


class Sigmoid(Module):
    """:meth:`Tensor.sigmoid <compiler.tensor.Tensor.sigmoid>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Softsign(Module):
    """:meth:`Tensor.softsign <compiler.tensor.Tensor.softsign>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.softsign()


class Tanh(Module):
    """:meth:`Tensor.tanh <compiler.tensor.Tensor.tanh>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


class Tanhshrink(Module):
    """:meth:`Tensor.tanhshrink <compiler.tensor.Tensor.tanhshrink>`"""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanhshrink()


class ELU(Module):
    """:meth:`Tensor.elu <compiler.tensor.Tensor.elu>`"""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return x.elu(self.alpha)


class CELU(Module):
    """:meth:`Tensor.celu <compiler.tensor.Tensor.celu>`"""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return x.celu(self.alpha)


class LeakyReLU(Module):
    """:meth:`Tensor.leaky_relu <compiler.tensor.Tensor.leaky_relu>`"""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return x.leaky_relu(self.negative_slope)


class Softplus(Module):
    """:meth:`Tensor.softplus <compiler.tensor.Tensor.softplus>`"""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        return x.softplus(self.beta, self.threshold)


class Hardtanh(Module):
    """:meth:`Tensor.hardtanh <compiler.tensor.Tensor.hardtanh>`"""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Tensor) -> Tensor:
        return x.hardtanh(self.min_val, self.max_val)


class Hardshrink(Module):
    """:meth:`Tensor.hardshrink <compiler.tensor.Tensor.hardshrink>`"""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, x: Tensor) -> Tensor:
        return x.hardshrink(self.lambd)


class Softshrink(Module):
    """:meth:`Tensor.softshrink <compiler.tensor.Tensor.softshrink>`"""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, x: Tensor) -> Tensor:
        return x.softshrink(self.lambd)


class Threshold(Module):
    """:meth:`Tensor.threshold <compiler.tensor.Tensor.threshold>`"""

    def __init__(self, threshold: float, value: float) -> None:
        self.threshold, self.value = threshold, value

    def forward(self, x: Tensor) -> Tensor:
        return x.threshold(self.threshold, self.value)


class GLU(Module):
    """:meth:`Tensor.glu <compiler.tensor.Tensor.glu>`"""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.glu(self.dim)


class Softmax(Module):
    """:meth:`Tensor.softmax <compiler.tensor.Tensor.softmax>`"""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(self.dim)


class LogSoftmax(Module):
    """:meth:`Tensor.log_softmax <compiler.tensor.Tensor.log_softmax>`"""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(self.dim)


class Softmin(Module):
    """:meth:`Tensor.softmin <compiler.tensor.Tensor.softmin>`"""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.softmin(self.dim)


class GELU(Module):
    """:meth:`Tensor.gelu <compiler.tensor.Tensor.gelu>`"""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return x.gelu(self.approximate)


class PReLU(Module):
    """A learned slope for negative numbers: one, or one for each channel."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: str | None = None) -> None:
        self.weight = Tensor.full((num_parameters,), init, device=device).requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        return x.prelu(self.weight)
