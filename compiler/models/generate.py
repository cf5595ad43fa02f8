"""Text from a language model: a prompt is read at once, then tokens are made one by one. One recording serves prompts
of all lengths, and one all positions after them (:mod:`compiler.variable`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import Tensor, Variable, jit, no_grad

__all__ = ["Generator", "sample"]


def sample(logits: np.ndarray, rng: np.random.Generator, temperature: float = 1.0, top_k: int = 0,
           top_p: float = 1.0) -> int:
    """A token by its logits. Temperature 0: the likeliest.

    :param top_k: of this many likeliest tokens only (0: of all).
    :param top_p: of the likeliest that together have this share.
    :raises ValueError: what is asked for leaves no token.
    """
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature} and top_k {top_k} are not negative, top_p {top_p} in (0, 1]")
    if temperature == 0:
        return int(logits.argmax())
    scores = logits.astype(np.float64) / temperature
    order = np.argsort(-scores, kind="stable")[:top_k or None]
    shares = np.exp(scores[order] - scores[order[0]])
    shares /= shares.sum()
    if top_p < 1:
        keep = int(np.searchsorted(shares.cumsum(), top_p)) + 1
        order, shares = order[:keep], shares[:keep] / shares[:keep].sum()
    return int(order[min(int(np.searchsorted(shares.cumsum(), rng.random(), side="right")), len(order) - 1)])


class Generator:
    """A model (:mod:`compiler.models.gpt2`, ``llama``) with its memory of what was said.

    ``recordings`` counts what was compiled: two, however long prompts and texts are.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.model, self.device = model.eval(), device
        self.context: int = model.config.context
        shape = model.cache_shape()
        self.caches = [tuple(Tensor.zeros(*shape, device=device).contiguous() for _ in range(2))
                       for _ in range(model.config.layers)]
        Tensor.realize(*[t for pair in self.caches for t in pair])
        self.at = 0
        self._length = Variable("length", 1, self.context)
        self._start = Variable("start", 1, max(1, self.context - 1))

        @jit
        def read(tokens: Tensor, length: Any) -> Tensor:
            with no_grad():
                return self.model(tokens[:, :length], self.caches, 0)       # type: ignore[no-any-return]

        @jit
        def step(token: Tensor, start: Any) -> Tensor:
            with no_grad():
                return self.model(token, self.caches, start)                # type: ignore[no-any-return]
        self._read, self._step = read, step

    @property
    def recordings(self) -> int:
        return len(self._read.captured) + len(self._step.captured)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """(vocabulary,): what follows these tokens, and all that were given before.

        :raises ValueError: no tokens, or more than the model's context has room for.
        """
        if not tokens or self.at + len(tokens) > self.context:
            raise ValueError(f"{len(tokens)} tokens after {self.at}: the context has room for 1 to {self.context}")
        if self.at == 0:
            whole = np.zeros((1, self.context), np.int32)
            whole[0, :len(tokens)] = tokens
            out = self._read(Tensor(whole, device=self.device), self._length.bind(len(tokens)))
            self.at = len(tokens)
            return out.numpy()[0]           # type: ignore[no-any-return]
        for token in tokens:
            x = Tensor(np.array([[token]], np.int32), device=self.device)
            out = self._step(x, self._start.bind(self.at))
            self.at += 1
        return out.numpy()[0]               # type: ignore[no-any-return]

    def reset(self) -> None:
        """Forget what was said."""
        self.at = 0

    def generate(self, prompt: Sequence[int], count: int, temperature: float = 0.0, top_k: int = 0,
                 top_p: float = 1.0, seed: int = 0, stop: Sequence[int] = ()) -> Iterator[int]:
        """Up to ``count`` tokens after a prompt; fewer at the context's end, or after one of ``stop``."""
        rng = np.random.default_rng(seed)
        self.reset()
        tokens = list(prompt)
        for _ in range(count):
            token = sample(self.logits(tokens), rng, temperature, top_k, top_p)
            yield token
            tokens = [token]
            if token in stop or self.at >= self.context:
                return
