"""Text to token numbers and back, by what a GGUF file's metadata or GPT-2's own two files say.

Two kinds: pieces with scores (SentencePiece, "llama"), of which the best-scored neighbours are joined first; and
byte pairs (GPT-2, "gpt2"), of which those that stand first in the list of merges are.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BytePairs", "Bytes", "Pieces", "tokenizer_of"]

# gguf.h, token types
CONTROL, BYTE = 3, 6
SPACE = "\u2581"        # SentencePiece's mark for a space
# What a byte-pair tokenizer never joins across: GPT-2's own pattern, and LLaMA 3's (llama.cpp, llama-vocab.cpp), in
# the classes that Python's re has: [^\W\d_] is a letter.
_GPT2 = r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\r\n\w]|_)?[^\W\d_]+|\d{1,3}| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
PATTERNS = {"gpt-2": _GPT2, "default": _GPT2, "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "smollm": _GPT2}


class Bytes:
    """Each byte of UTF-8 is a token: for models that came without a vocabulary."""

    bos: int | None = None
    eos: int | None = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(t for t in tokens if t < 256).decode(errors="replace")


def _join(symbols: list[str], rank: Any) -> list[str]:
    """Join neighbours, the lowest ``rank(left, right)`` first (None: never), the leftmost of equals; until none is
    left."""
    after, before = list(range(1, len(symbols) + 1)), list(range(-1, len(symbols) - 1))
    queue: list[tuple[Any, int, str, str]] = []

    def offer(i: int) -> None:
        j = after[i] if i >= 0 else len(symbols)
        if i >= 0 and j < len(symbols) and (r := rank(symbols[i], symbols[j])) is not None:
            heapq.heappush(queue, (r, i, symbols[i], symbols[j]))
    for i in range(len(symbols)):
        offer(i)
    while queue:
        _, i, left, right = heapq.heappop(queue)
        j = after[i]
        if symbols[i] != left or j >= len(symbols) or symbols[j] != right:
            continue        # joined otherwise meanwhile
        symbols[i], symbols[j] = left + right, ""
        after[i] = after[j]
        if after[i] < len(symbols):
            before[after[i]] = i
        offer(before[i])
        offer(i)
    return [s for s in symbols if s]


class Pieces:
    """SentencePiece's: tokens with scores; characters that no token has are written as their bytes' tokens."""

    def __init__(self, tokens: Sequence[str], scores: Sequence[float], types: Sequence[int] = (),
                 bos: int | None = 1, eos: int | None = 2, unknown: int = 0, add_bos: bool = True,
                 add_space: bool = True) -> None:
        self.tokens, self.scores = list(tokens), [float(s) for s in scores]
        if len(self.tokens) != len(self.scores):
            raise ValueError(f"{len(self.tokens)} tokens have {len(self.scores)} scores")
        self.types = [int(t) for t in types] or [1] * len(self.tokens)
        self.numbers = {t: i for i, t in enumerate(self.tokens) if self.types[i] not in (CONTROL,)}
        self.bos, self.eos, self.unknown, self.add_bos, self.add_space = bos, eos, unknown, add_bos, add_space

    def encode(self, text: str) -> list[int]:
        out = [self.bos] if self.add_bos and self.bos is not None else []
        marked = (" " if self.add_space and text else "") + text
        symbols = _join(list(marked.replace(" ", SPACE)), self._rank)
        for s in symbols:
            if (number := self.numbers.get(s)) is not None:
                out.append(number)
            else:
                out += [self.numbers.get(f"<0x{b:02X}>", self.unknown) for b in s.encode()]
        return out

    def _rank(self, left: str, right: str) -> float | None:
        number = self.numbers.get(left + right)
        return None if number is None else -self.scores[number]

    def decode(self, tokens: Iterable[int]) -> str:
        data = b""
        for n in tokens:
            if self.types[n] == BYTE:
                data += bytes([int(self.tokens[n][3:5], 16)])
            elif self.types[n] != CONTROL:
                data += self.tokens[n].replace(SPACE, " ").encode()
        text = data.decode(errors="replace")
        return text[1:] if self.add_space and text.startswith(" ") else text


def _letters() -> dict[int, str]:
    """GPT-2's letter for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in seen]
    return {b: chr(b) for b in seen} | {b: chr(256 + n) for n, b in enumerate(rest)}


class BytePairs:
    """GPT-2's: bytes written as letters, joined by a list of merges, within words that a pattern cuts."""

    def __init__(self, tokens: Sequence[str] | Mapping[str, int], merges: Sequence[str], pattern: str = _GPT2,
                 types: Sequence[int] = (), bos: int | None = None, eos: int | None = None,
                 add_bos: bool = False) -> None:
        self.numbers = dict(tokens) if isinstance(tokens, Mapping) else {t: i for i, t in enumerate(tokens)}
        self.names = {i: t for t, i in self.numbers.items()}
        self.ranks = {tuple(m.split(" ", 1)): n for n, m in enumerate(merges)}
        self.pattern = re.compile(pattern)
        self.control = {i for i, t in enumerate(types) if int(t) == CONTROL}
        self.bos, self.eos, self.add_bos = bos, eos, add_bos
        self._letter = _letters()
        self._byte = {c: b for b, c in self._letter.items()}

    def encode(self, text: str) -> list[int]:
        """:raises ValueError: the vocabulary lacks a byte's letter."""
        out = [self.bos] if self.add_bos and self.bos is not None else []
        for word in self.pattern.findall(text):
            for part in _join([self._letter[b] for b in word.encode()], lambda a, b: self.ranks.get((a, b))):
                if part not in self.numbers:
                    raise ValueError(f"the vocabulary has no token {part!r}; it is damaged")
                out.append(self.numbers[part])
        return out

    def decode(self, tokens: Iterable[int]) -> str:
        data = bytearray()
        for n in tokens:
            if n not in self.control:
                for c in self.names.get(n, ""):
                    data += bytes([self._byte[c]]) if c in self._byte else c.encode()
        return data.decode(errors="replace")


def tokenizer_of(source: Mapping[str, Any] | str | Path | None) -> Any:
    """A tokenizer from a GGUF file's metadata, from a folder with ``vocab.json`` and ``merges.txt``, or of bytes.

    :raises ValueError: the metadata are of a kind that is not known here.
    """
    if source is None:
        return Bytes()
    if not isinstance(source, Mapping):
        folder = Path(source)
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        end = vocabulary.get("<|endoftext|>")
        return BytePairs(vocabulary, [line for line in lines if line and not line.startswith("#version")], bos=end,
                         eos=end)
    prefix = "tokenizer.ggml."
    kind = source.get(prefix + "model")
    if kind is None:
        return Bytes()
    tokens, types = source[prefix + "tokens"], source.get(prefix + "token_type", ())
    bos, eos = (None if (n := source.get(f"{prefix}{end}_token_id")) is None else int(n) for end in ("bos", "eos"))
    if kind == "llama":
        return Pieces(tokens, source[prefix + "scores"], types, bos, eos,
                      int(source.get(prefix + "unknown_token_id", 0)), bool(source.get(prefix + "add_bos_token", True)),
                      bool(source.get(prefix + "add_space_prefix", True)))
    if kind == "gpt2":
        name = source.get(prefix + "pre", "default")
        if name not in PATTERNS:
            raise ValueError(f"the tokenizer cuts words the way of {name!r}; known here are {', '.join(PATTERNS)}")
        llama3 = PATTERNS[name] is _LLAMA3
        return BytePairs(tokens, source[prefix + "merges"], PATTERNS[name], types, bos, eos,
                         bool(source.get(prefix + "add_bos_token", llama3)))
    raise ValueError(f"a tokenizer of kind {kind!r} is not known here; 'llama' and 'gpt2' are")
