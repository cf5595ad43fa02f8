"""Tensors and the arrays of other libraries: NumPy's protocol and DLPack. Memory is never shared, for it is reused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Exchange"]

_CPU = (1, 0)       # kDLCPU (DLPack, dlpack.h), device 0
_ROCM = 10          # kDLROCM


def _restored(values: np.ndarray, dtype: str, device: str, requires_grad: bool) -> Any:
    from compiler.tensor import Tensor
    return Tensor(values, dtype, device, requires_grad)


class Exchange(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a tensor's memory is its own: an array of it is a copy")
        data: np.ndarray = self.numpy()
        return data if dtype is None else data.astype(dtype)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, _, number = self.device.partition(":")
        return _CPU if kind == "CPU" else (_ROCM, int(number or 0))

    def __dlpack__(self, *, stream: Any = None, max_version: tuple[int, int] | None = None,
                   dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> Any:
        """A capsule with a copy in host memory.

        :raises BufferError: for types that NumPy lacks, without a copy, and for a GPU's memory, unless it is asked for
            in host memory (``dl_device=(1, 0)``).
        """
        if self.dtype.coded:
            raise BufferError(f"{self.dtype.name} has no NumPy type to export it by; cast it first")
        if copy is False:
            raise BufferError("a tensor's memory is reused: it is exported as a copy only")
        if dl_device is None and self.__dlpack_device__() != _CPU:
            raise BufferError(f"memory of {self.device} is this process's driver's alone; export x.to('CPU'), or ask "
                              "for dl_device=(1, 0)")
        if dl_device is not None and tuple(dl_device) != _CPU:
            raise BufferError(f"tensors are exported to host memory (1, 0), not to device {dl_device}")
        return self.numpy().__dlpack__(**({} if max_version is None else {"max_version": max_version}))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, and copied by ``copy.deepcopy``, as values; not the history."""
        return _restored, (self.numpy(), self.dtype.name, self.device, self.requires_grad)

    @classmethod
    def from_dlpack(cls, source: Any, *, device: str | None = None) -> Tensor:
        """A tensor with a copy of an array of any library that has its values in host memory."""
        make: Any = cls
        return make(np.from_dlpack(source).copy(), device=device)  # type: ignore[no-any-return]

    @classmethod
    def from_numpy(cls, array: np.ndarray, *, device: str | None = None) -> Tensor:
        """A tensor with a copy of an array."""
        make: Any = cls
        return make(array, device=device)  # type: ignore[no-any-return]
