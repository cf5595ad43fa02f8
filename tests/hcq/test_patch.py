"""Finding out where values stand in packets, and launches from packets that were built once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hcq
from hcq.patch import ADDRESS, NUMBER, NotPatchable, probe

LOW = 0xFFFFFFFF


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "n", "constant"]), st.integers(0, 1 << 33)), max_size=12),
       st.integers(0, (1 << 47) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 47) - 1))
def test_every_place_is_found(layout: list[tuple[str, int]], a: int, n: int, later: int) -> None:
    """Any row of addresses (plus constants), numbers and constants: what is patched is what would be encoded."""
    def encode(values: dict[str, int]) -> list[int]:
        words: list[int] = []
        for kind, constant in layout:
            if kind == "a":
                words += [values["a"] + constant & LOW, values["a"] + constant >> 32]
            elif kind == "n":
                words.append(values["n"])
            else:
                words.append(constant & LOW)
        return words
    words, holes = probe(encode, {"a": ADDRESS, "n": NUMBER}, {"a": a, "n": n})
    assert words == encode({"a": a, "n": n})
    for hole in holes:
        hole.store(words, {"a": later, "n": n}[hole.name])
    assert words == encode({"a": later, "n": n})


@pytest.mark.parametrize(("encode", "message"), [
    (lambda v: [v["a"] >> 8 & LOW, v["a"] >> 40], "the encoder's words are not its operands plus constants"),
    (lambda v: [v["a"] & LOW], "word 0 holds a part of a"),
    (lambda v: [0] * (v["a"] >> 40), "the number of words depends on a"),
    (lambda v: [v["a"] & LOW, v["a"] >> 32, int(v["a"] == 0x777000)], "not its operands plus constants"),
])
def test_encoders_that_do_more_are_noticed(encode, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotPatchable, match=message):
        probe(encode, {"a": ADDRESS}, {"a": 0x777000})


def test_scalars_keep_every_bit(dev: hcq.Device, code: bytes) -> None:
    """NumPy scalars go the short way from the second time on: the same bytes, NaNs and signed zeros included."""
    shape = dev.program(code, "shape")                      # copies its kernargs: float at 8, 8 unnamed bytes at 16
    out = dev.alloc(288)
    floats = [np.float32(-0.0), np.uint32(0x7FA00001).view(np.float32), np.float32(1e-45), np.float32("inf")]
    wide = [np.int64(-5), np.uint64(1 << 63), np.float64(-0.0), np.uint64(0x7FF4000000000001).view(np.float64)]
    for _ in range(2):
        for narrow, other in zip(floats, wide, strict=True):
            shape(out, narrow, other, grid=1, block=1)
            data = out.copyout()
            assert data[8:12].tobytes() == narrow.tobytes() and data[16:24].tobytes() == other.tobytes()
