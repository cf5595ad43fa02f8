"""Images: pixels for channels and back, and reading at places that a grid names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Images"]


class Images(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def pixel_shuffle(self, upscale_factor: int) -> Tensor:
        """(..., c * r * r, y, x) -> (..., c, y * r, x * r)"""
        *outer, c, h, w = self.shape
        r = upscale_factor
        if r < 1 or c % (r * r):
            raise ValueError(f"pixel_shuffle by {r}: {c} channels are no multiple of {r * r}")
        n = len(outer)
        x: Any = self.reshape(*outer, c // (r * r), r, r, h, w).permute(*range(n + 1), n + 3, n + 1, n + 4, n + 2)
        return x.reshape(*outer, c // (r * r), h * r, w * r)  # type: ignore[no-any-return]

    def pixel_unshuffle(self, downscale_factor: int) -> Tensor:
        """(..., c, y * r, x * r) -> (..., c * r * r, y, x)"""
        *outer, c, h, w = self.shape
        r = downscale_factor
        if r < 1 or h % r or w % r:
            raise ValueError(f"pixel_unshuffle by {r}: {h} x {w} places are no multiple of {r}")
        n = len(outer)
        x: Any = self.reshape(*outer, c, h // r, r, w // r, r).permute(*range(n + 1), n + 2, n + 4, n + 1, n + 3)
        return x.reshape(*outer, c * r * r, h // r, w // r)  # type: ignore[no-any-return]

    def channel_shuffle(self, groups: int) -> Tensor:
        """Of (batch, channels, ...) the channels of all groups in turns."""
        n, c, *rest = self.shape
        if groups < 1 or c % groups:
            raise ValueError(f"channel_shuffle: {c} channels are no multiple of {groups} groups")
        return self.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(self.shape)  # type: ignore[no-any-return]

    def affine_grid(self, size: Sequence[int], align_corners: bool = False) -> Tensor:
        """Places for :meth:`grid_sample` of an image of ``size`` (n, c, y, x), or with a z axis, from matrices
        (n, 2, 3) or (n, 3, 4)."""
        axes = list(size[2:])
        if self.ndim != 3 or self.shape != (size[0], len(axes), len(axes) + 1) or len(axes) not in (2, 3):
            raise ValueError(f"affine_grid of size {tuple(size)} takes matrices (n, 2, 3) or (n, 3, 4), not "
                             f"{self.shape}")
        cls: Any = type(self)
        lines = []
        for n in axes:
            line = cls.linspace(-1, 1, n, device=self.device) if n > 1 else cls.zeros(1, device=self.device)
            lines.append(line if align_corners or n == 1 else line * ((n - 1) / n))
        x: Any = cls.stack([*cls.meshgrid(*lines, indexing="ij")[::-1], cls.ones(*axes, device=self.device)], dim=-1)
        places = x.cast(self.dtype).reshape(1, -1, len(axes) + 1) @ self.mT
        return places.reshape(size[0], *axes, len(axes))  # type: ignore[no-any-return]

    def grid_sample(self, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros",
                    align_corners: bool | None = None) -> Tensor:
        """(n, c, y, x) read at (n, y', x', 2): x and y from -1 to 1. ``mode``: "bilinear" or "nearest";
        ``padding_mode``: "zeros", "border" or "reflection"."""
        if self.ndim != 4 or grid.ndim != 4 or grid.shape[-1] != 2 or grid.shape[0] != self.shape[0]:
            raise ValueError(f"grid_sample takes (n, c, y, x) and (n, y', x', 2), not {self.shape} and {grid.shape}")
        if mode not in ("bilinear", "nearest") or padding_mode not in ("zeros", "border", "reflection"):
            raise ValueError(f"grid_sample: no mode {mode!r} with padding {padding_mode!r}; modes are bilinear and "
                             "nearest, paddings zeros, border and reflection")
        n, c, height, width = self.shape
        x, y = (_pixels(grid[..., k], size, padding_mode, bool(align_corners)) for k, size in ((0, width), (1, height)))
        flat = self.flatten(2)

        def read(column: Any, row: Any) -> Any:
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row.clamp(0, height - 1).int() * width + column.clamp(0, width - 1).int()
            values = flat.gather(2, place.reshape(n, 1, -1).expand(n, c, place.numel() // max(n, 1)))
            return inside.unsqueeze(1).where(values.reshape(n, c, *place.shape[1:]), 0)
        if mode == "nearest":
            return read(x.round(), y.round())  # type: ignore[no-any-return]
        left, top = x.floor().detach(), y.floor().detach()
        u, v = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
        return ((read(left, top) * (1 - u) + read(left + 1, top) * u) * (1 - v)  # type: ignore[no-any-return]
                + (read(left, top + 1) * (1 - u) + read(left + 1, top + 1) * u) * v)


def _pixels(place: Any, size: int, padding: str, corners: bool) -> Any:
    """From -1..1 to pixels; those outside brought in."""
    x = (place + 1) * ((size - 1) / 2) if corners else ((place + 1) * size - 1) / 2
    if padding == "reflection":
        low, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
        if span == 0:
            return x * 0
        away = (x - low).abs()
        turns = (away / span).floor().detach()
        rest = away - turns * span
        x = (turns - (turns / 2).floor() * 2).eq(0).where(rest + low, span + low - rest)
    return x if padding == "zeros" else x.clamp(0, size - 1)
