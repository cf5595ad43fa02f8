"""Finding out where values stand in packets, and launches from packets that were built once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
