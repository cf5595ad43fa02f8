"""Images: pixels for channels and back, and reading at places that a grid names."""

from __future__ import annotations

import itertools
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
        """(n, c, y, x) read at (n, y', x', 2), or (n, c, z, y, x) at (n, z', y', x', 3): x, y and z from -1 to 1.
        ``mode``: "bilinear", "nearest" or, of images, "bicubic"; ``padding_mode``: "zeros", "border" or
        "reflection"."""
        axes = self.ndim - 2
        if axes not in (2, 3) or grid.ndim != self.ndim or grid.shape[-1] != axes or grid.shape[0] != self.shape[0]:
            raise ValueError("grid_sample takes (n, c, y, x) and (n, y', x', 2), or with a z axis and 3, not "
                             f"{self.shape} and {grid.shape}")
        if mode not in ("bilinear", "nearest", "bicubic")[:5 - axes] or padding_mode not in _PADDINGS:
            raise ValueError(f"grid_sample: no mode {mode!r} with padding {padding_mode!r} of {axes} axes; modes are "
                             "bilinear, nearest and, of 2 axes, bicubic, paddings zeros, border and reflection")
        n, c, *sizes = self.shape
        corners = bool(align_corners)
        inward = "zeros" if mode == "bicubic" else padding_mode     # bicubic brings in what it reads, not where it is
        places = [_pixels(grid[..., axes - 1 - k], size, inward, corners) for k, size in enumerate(sizes)]
        flat = self.flatten(2)

        def read(at: list[Any]) -> Any:
            if mode == "bicubic" and padding_mode != "zeros":
                at = [_inside(p, size, padding_mode, corners) for p, size in zip(at, sizes, strict=True)]
            inside: Any = None
            place: Any = 0
            for p, size in zip(at, sizes, strict=True):
                here = (p >= 0) & (p < size)
                inside = here if inside is None else inside & here
                place = place * size + p.clamp(0, size - 1).int()
            got = flat.gather(2, place.reshape(n, 1, -1).expand(n, c, place.numel() // max(n, 1)))
            return inside.unsqueeze(1).where(got.reshape(n, c, *place.shape[1:]), 0)
        if mode == "nearest":
            return read([p.round() for p in places])  # type: ignore[no-any-return]
        low = [p.floor().detach() for p in places]
        part = [(p - q).unsqueeze(1) for p, q in zip(places, low, strict=True)]
        taps = [_cubic_taps(t) if mode == "bicubic" else [(0, 1 - t), (1, t)] for t in part]
        out: Any = None
        for choice in itertools.product(*taps):
            term = read([q + step for q, (step, _) in zip(low, choice, strict=True)])
            for _, weight in choice:
                term = term * weight
            out = term if out is None else out + term
        return out  # type: ignore[no-any-return]


_PADDINGS = ("zeros", "border", "reflection")


def _cubic_taps(t: Any) -> list[tuple[int, Any]]:
    """Steps from the element before, and weights (Keys, 1981, with the parameter -0.75)."""
    a = -0.75

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return [(-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))]


def _pixels(place: Any, size: int, padding: str, corners: bool) -> Any:
    """From -1..1 to pixels; those outside brought in."""
    return _inside((place + 1) * ((size - 1) / 2) if corners else ((place + 1) * size - 1) / 2, size, padding, corners)


def _inside(x: Any, size: int, padding: str, corners: bool) -> Any:
    if padding == "reflection":
        low, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
        if span == 0:
            return x * 0
        away = (x - low).abs()
        turns = (away / span).floor().detach()
        rest = away - turns * span
        x = (turns - (turns / 2).floor() * 2).eq(0).where(rest + low, span + low - rest)
    return x if padding == "zeros" else x.clamp(0, size - 1)
