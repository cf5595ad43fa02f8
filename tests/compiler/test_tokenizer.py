"""Tokenizers: joined as the plainest way of joining would, decoded to what was encoded; from people's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.files.tokenizer import SPACE, BytePairs, Bytes, Pieces, _letters, tokenizer_of

WORDS = ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "ca", "▁c", "cab", "bb", "bbb"]
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *WORDS]
TYPES = [2, 3, 3, *[6] * 256, *[1] * len(WORDS)]
SCORES = [0.0] * 259 + [-float((7 * n) % 11) for n in range(len(WORDS))]
MERGES = ["a b", "ab c", "Ġ a", "b b", "bb b", "Ġa b", "c a", "Ġ Ġ"]
TEXT = st.text(st.sampled_from("abc  é日\n1'_-"), max_size=20)


def slowly(symbols: list[str], rank: Callable[[str, str], Any]) -> list[str]:
    """Look at all neighbours, join the best, and again."""
    while True:
        pairs = [(r, i) for i in range(len(symbols) - 1) if (r := rank(symbols[i], symbols[i + 1])) is not None]
        if not pairs:
            return symbols
        _, i = min(pairs)
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2:]]


def pieces() -> Pieces:
    return Pieces(TOKENS, SCORES, TYPES)


def byte_pairs() -> BytePairs:
    letters = [_letters()[b] for b in range(256)]
    return BytePairs([*letters, *(m.replace(" ", "") for m in MERGES)], MERGES)


@settings(max_examples=150)
@given(TEXT)
def test_pieces(text: str) -> None:
    made = pieces()
    found = made.encode(text)
    assert found[0] == 1 and made.decode(found) == text
    marked = ((" " if text else "") + text).replace(" ", SPACE)
    want = slowly(list(marked), lambda a, b: -SCORES[TOKENS.index(a + b)] if a + b in WORDS else None)
    assert "".join(want) == marked
    numbers = [n for s in want for n in ([TOKENS.index(s)] if s in WORDS else [3 + b for b in s.encode()])]
    assert found[1:] == numbers


@settings(max_examples=150)
@given(TEXT)
def test_byte_pairs(text: str) -> None:
    made = byte_pairs()
    found = made.encode(text)
    assert made.decode(found) == text
    words = made.pattern.findall(text)
    assert "".join(words) == text

    def rank(a: str, b: str) -> int | None:
        return MERGES.index(f"{a} {b}") if f"{a} {b}" in MERGES else None
    want = [part for word in words for part in slowly([_letters()[b] for b in word.encode()], rank)]
    assert [made.names[n] for n in found] == want


def test_gpt2s_words() -> None:
    """Its pattern's own examples: contractions, spaces before words, runs of spaces, digits, signs."""
    found = byte_pairs().pattern.findall("I'm here,  it's 2024_!\n\n x")
    assert found == ["I", "'m", " here", ",", " ", " it", "'s", " 2024", "_!", "\n\n", " x"]
    llama3 = BytePairs(["a"], [], tokenizer_of({
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": ["a"],
        "tokenizer.ggml.merges": []}).pattern.pattern)
    assert llama3.pattern.findall("We'RE 12345\n") == ["We", "'RE", " ", "123", "45", "\n"]


def test_where_they_come_from(tmp_path: Path) -> None:
    assert isinstance(tokenizer_of(None), Bytes) and isinstance(tokenizer_of({}), Bytes)
    assert Bytes().decode(Bytes().encode("é")) == "é"
    metadata = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": TOKENS,
                "tokenizer.ggml.scores": np.array(SCORES, np.float32), "tokenizer.ggml.token_type": np.array(TYPES),
                "tokenizer.ggml.bos_token_id": np.uint32(1), "tokenizer.ggml.eos_token_id": 2}
    made = tokenizer_of(metadata)
    assert made.encode("ab é") == pieces().encode("ab é") and made.eos == 2
    (tmp_path / "vocab.json").write_text(json.dumps(byte_pairs().numbers | {"<|endoftext|>": 300}))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
    made = tokenizer_of(tmp_path)
    assert made.encode("ab  bbb") == byte_pairs().encode("ab  bbb") and made.eos == 300
    with pytest.raises(ValueError, match="of kind 'rwkv' is not known here; 'llama' and 'gpt2' are"):
        tokenizer_of({"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": []})
    with pytest.raises(ValueError, match="the way of 'qwen2'; known here are gpt-2"):
        tokenizer_of({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": []})
    with pytest.raises(ValueError, match="2 tokens have 1 scores"):
        Pieces(["a", "b"], [0.0])
    with pytest.raises(ValueError, match="no token 'a'; it is damaged"):
        BytePairs(["b"], []).encode("a")
