"""The transcendental unit against decimals of 50 digits: errors in ulp, by the RDNA3 ISA guide's limits."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal as D
from decimal import localcontext
from typing import Any

import numpy as np
import pytest

from mock.isa.vocabulary import Mode, Vocabulary

MODE = 0x3f0
LN2 = D("0.69314718055994530941723212145817656807550013436025525412068")
PI = D("3.14159265358979323846264338327950288419716939937510582097494459")


def exact(x: float) -> D:
    return D(x)         # every binary fraction is a decimal one


def sine(turns: D) -> D:
    angle = (turns % 1) * 2 * PI
    term, total, k = angle, angle, 1
    while abs(term) > D("1e-45"):
        term *= -angle * angle / ((k + 1) * (k + 2))
        total, k = total + term, k + 2
    return total


FUNCTIONS: dict[str, Callable[[D], D]] = {
    "rcp": lambda x: 1 / x, "rsq": lambda x: 1 / x.sqrt(), "sqrt": lambda x: x.sqrt(),
    "exp2": lambda x: (x * LN2).exp(), "log2": lambda x: x.ln() / LN2, "sin_turns": sine,
    "cos_turns": lambda x: sine(x + D("0.25"))}
LIMITS = {np.float16: D("0.51"), np.float32: D("0.5001"), np.float64: D("1.5")}
"""The guide: 0.51 ulp for f16, 1 ulp for f32, 2**29 ulp for f64."""


def errors(name: str, x: np.ndarray) -> list[D]:
    """In units of the result's last place."""
    v: Any = Vocabulary(Mode(MODE))
    with np.errstate(all="ignore"):
        got = getattr(v, name)(x)
    found = []
    info = np.finfo(x.dtype)
    with localcontext() as context:
        context.prec = 50
        for given, result in zip(x, got, strict=True):
            want = FUNCTIONS[name](exact(float(given)))
            if not np.isfinite(result):
                assert abs(want) >= exact(float(info.max)), (name, given, result)
                continue
            size = max(abs(exact(float(result))), exact(float(info.tiny)))
            ulp = D(2) ** (int(np.floor(np.log2(float(size)))) - info.nmant)
            error = abs(exact(float(result)) - want) / ulp
            if x.dtype == np.float32 and abs(want) < exact(float(info.tiny)):
                assert result == 0, (name, given, result)       # flushed
                continue
            found.append(error)
    return found


def inputs(name: str, kind: Any) -> np.ndarray:
    rng = np.random.default_rng(len(name))
    if name in ("sin_turns", "cos_turns"):
        x = np.concatenate([rng.uniform(-2, 2, 300), rng.uniform(-250, 250, 100), rng.uniform(-1e-3, 1e-3, 100)])
    elif name == "exp2":
        span = 14 if kind is np.float16 else 126
        x = np.concatenate([rng.uniform(-span, span, 400), rng.uniform(-1e-3, 1e-3, 100)])
    else:
        span = {np.float16: 9, np.float32: 80, np.float64: 400}[kind]
        x = np.concatenate([np.exp(rng.uniform(-span, span, 300)), rng.uniform(0.5, 2, 200)])
        if name == "log2":
            x = np.concatenate([x, 1 + rng.normal(0, 1e-3, 200)])
    x = x.astype(kind)
    return x[(x != 0) & (np.abs(x) >= np.finfo(kind).tiny)]


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_within_the_guide_s_ulp(name: str, kind: Any) -> None:
    assert max(errors(name, inputs(name, kind))) <= LIMITS[kind]


@pytest.mark.parametrize("name", ["rcp", "rsq", "sqrt"])
def test_float64_roots_and_reciprocals(name: str) -> None:
    found = errors(name, inputs(name, np.float64))
    assert max(found) <= (D("0.5") if name != "rsq" else LIMITS[np.float64])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_special_values(kind: Any) -> None:
    v: Any = Vocabulary(Mode(MODE))
    inf, nan = kind(np.inf), kind(np.nan)
    x = np.array([0.0, -0.0, inf, -inf, nan, -1.0, 1.0, 4.0, 0.25], kind)
    want = {"rcp": [inf, -inf, 0, -0.0, nan, -1, 1, 0.25, 4], "rsq": [inf, -inf, 0, nan, nan, nan, 1, 0.5, 2],
            "sqrt": [0, -0.0, inf, nan, nan, nan, 1, 2, 0.5]}
    if kind is not np.float64:
        want |= {"exp2": [1, 1, inf, 0, nan, 0.5, 2, 16, 2 ** 0.25], "log2": [-inf, -inf, inf, nan, nan, nan, 0, 2, -2],
                 "sin_turns": [0, -0.0, nan, nan, nan, -0.0, 0, 0, 1], "cos_turns": [1, 1, nan, nan, nan, 1, 1, 1, 0]}
    for name, values in want.items():
        with np.errstate(all="ignore"):
            got = getattr(v, name)(x)
        np.testing.assert_array_equal(got, np.array(values, kind), err_msg=name)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(np.array(values, kind)) & ~np.isnan(got), name)


def test_float32_has_no_denormals_here_and_float16_has() -> None:
    v: Any = Vocabulary(Mode(MODE))
    tiny = np.array([1e-40, -1e-40], np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(v.rcp(tiny), np.array([np.inf, -np.inf], np.float32))
        assert (v.exp2(np.array([-127.5], np.float32)) == 0).all()
        assert v.exp2(np.array([-15.0], np.float16))[0] == np.float16(2.0 ** -15)
        assert v.rcp(np.array([2.0 ** 15 * 1.5], np.float16))[0] == np.float16(1 / (2.0 ** 15 * 1.5))


def test_far_angles_are_angle_zero() -> None:
    """The guide: valid from -256 to 256 turns; beyond, the sine is 0 and the cosine 1."""
    v: Any = Vocabulary(Mode(MODE))
    x = np.array([256.25, -1e6, 3e38], np.float32)
    assert (v.sin_turns(x) == 0).all() and (v.cos_turns(x) == 1).all()
    assert v.sin_turns(np.array([255.25], np.float32))[0] == 1
