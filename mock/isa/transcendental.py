"""The transcendental unit's words: computed in float64 and rounded once, so well within the ISA's ulp.

float32 results and operands below the normal range are flushed, as the hardware's unit has no denormals there
(LLVM, AMDGPULegalizerInfo, "needsDenormHandlingF32" and the scaling around v_rcp/v_sqrt/v_rsq); float16 and
float64 keep them by the mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Transcendental"]

Array = Any


class Transcendental:
    canonical: Callable[[Array], Array]
    flush: Callable[[Array], Array]
    finish: Callable[..., Array]

    def _special(self, function: Callable[[Array], Array], a: Array) -> Array:
        kind = a.dtype.type
        a = self.flush(a) if kind is np.float32 else self.canonical(a)
        result = np.asarray(function(a.astype(np.float64))).astype(kind)
        if kind is np.float32:
            result = self.flush(result)
        return self.finish(result, a)

    def rcp(self, a: Array) -> Array:
        return self._special(np.reciprocal, a)

    def sqrt(self, a: Array) -> Array:
        return self._special(np.sqrt, a)

    def rsq(self, a: Array) -> Array:
        return self._special(lambda x: 1.0 / np.sqrt(x), a)

    def exp2(self, a: Array) -> Array:
        return self._special(np.exp2, a)

    def log2(self, a: Array) -> Array:
        return self._special(np.log2, a)

    def sin_turns(self, a: Array) -> Array:
        """sin(2 pi a): the operand is in turns."""
        return self._special(lambda x: self._circle(np.sin, x, 0.0), a)

    def cos_turns(self, a: Array) -> Array:
        return self._special(lambda x: self._circle(np.cos, x, 0.25), a)

    @staticmethod
    def _circle(function: Callable[[Array], Array], turns: Array, zero: float) -> Array:
        """Outside +-256 turns the unit returns what angle 0 gives."""
        part = turns - np.rint(turns)
        # Whole quarters are exact: no residue of 2 pi's rounding.
        result = function(2.0 * np.pi * part)
        quarters = part * 4.0
        whole = np.rint(quarters) == quarters
        exact = np.rint(result)
        result = np.where(whole, np.where(exact == 0, np.copysign(0.0, turns) if zero == 0.0 else 0.0, exact), result)
        far = np.isfinite(turns) & (np.abs(turns) > 256.0)
        return np.where(far, np.copysign(0.0, turns) if zero == 0.0 else 1.0, result)
