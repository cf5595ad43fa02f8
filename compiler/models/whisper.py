"""Whisper (Radford et al., 2022), with the names of OpenAI's checkpoints; and the spectrogram that it hears."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import Tensor, nn

__all__ = ["SIZES", "Whisper", "WhisperConfig", "log_mel", "mel_filters"]

F: Any = nn.functional
RATE, WINDOW, HOP = 16000, 400, 160         # samples a second, of a spectrum, and between two (section 2.2)
SECONDS = 30                                # of audio at once


@dataclass(frozen=True)
class WhisperConfig:
    """Dimensions by OpenAI's names."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int = 384
    n_audio_head: int = 6
    n_audio_layer: int = 4
    n_vocab: int = 51865
    n_text_ctx: int = 448
    n_text_state: int = 384
    n_text_head: int = 6
    n_text_layer: int = 4


# table 1 of the paper, and one that fits into a test
SIZES = {"mini": WhisperConfig(80, 50, 32, 2, 2, 128, 16, 32, 2, 2), "tiny": WhisperConfig(),
         "base": WhisperConfig(80, 1500, 512, 8, 6, 51865, 448, 512, 8, 6)}


def mel_filters(count: int = 80, bins: int = WINDOW // 2 + 1, rate: int = RATE) -> np.ndarray:
    """(count, bins) float32: triangles on the mel scale of Slaney's Auditory Toolbox (1998), of equal area.

    The scale is linear up to 1 kHz (200/3 Hz a mel), and from there on each mel is a factor of 6.4 ** (1/27).
    """
    def mel(f: float) -> float:
        return f * 3 / 200 if f < 1000 else 15 + math.log(f / 1000) * 27 / math.log(6.4)
    mels = np.linspace(0, mel(rate / 2), count + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))
    f = np.linspace(0, rate / 2, bins)
    up = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
    heights = 2 / (edges[2:] - edges[:-2])
    return (np.maximum(0, np.minimum(up, down)) * heights[:, None]).astype(np.float32)


def log_mel(audio: Tensor, n_mels: int = 80) -> Tensor:
    """(..., samples) at 16 kHz -> (..., n_mels, samples / 160): short-time spectra by a product with sines and
    cosines, mel bands, logarithms, and the range that Whisper was trained on."""
    n = audio.shape[-1]
    frames = audio.pad([WINDOW // 2, WINDOW // 2], "reflect").unfold(-1, WINDOW, HOP)[..., :n // HOP, :]
    at = np.arange(WINDOW)
    hann = 0.5 - 0.5 * np.cos(2 * math.pi * at / WINDOW)
    angles = 2 * math.pi * np.outer(at, np.arange(WINDOW // 2 + 1)) / WINDOW
    basis = np.concatenate([np.cos(angles), np.sin(angles)], 1) * hann[:, None]
    spectrum = frames.contiguous() @ Tensor(basis.astype(np.float32), device=audio.device)
    real, imaginary = spectrum.chunk(2, -1)
    power = real * real + imaginary * imaginary
    mel = power @ Tensor(mel_filters(n_mels).T.copy(), device=audio.device)
    logs = mel.clamp(min=1e-10).log10()
    logs = logs.maximum(logs.amax((-2, -1), True) - 8)      # type: ignore[attr-defined]
    return ((logs + 4) / 4).transpose(-2, -1)               # type: ignore[no-any-return]


def sinusoids(length: int, width: int) -> np.ndarray:
    """(length, width): sines of positions, then cosines, of falling frequencies."""
    scales = np.exp(-math.log(10000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.outer(np.arange(length), scales)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Any) -> Any:
        b, t, width = x.shape
        return x.reshape(b, t, self.heads, width // self.heads).transpose(1, 2)

    def known(self, other: Any) -> tuple[Any, Any]:
        """Keys and values of what is attended to."""
        return self.split(self.key(other)), self.split(self.value(other))

    def forward(self, x: Any, other: Any = None, causal: bool = False, cache: Any = None, start: Any = None) -> Any:
        """:param cache: keys and values: all there are, or, with ``start``, of so many tokens before these, which are
        written behind them."""
        q = self.split(self.query(x))
        if cache is None:
            k, v = self.known(x if other is None else other)
        elif start is None:
            k, v = cache
        else:
            k, v = self.known(x)
            keys, values = cache
            end = start + x.shape[1]
            keys[:, :, start:end], values[:, :, start:end] = k, v
            causal = isinstance(start, int) and start == 0      # then the new tokens are all there is
            if not causal:
                k, v = keys[:, :, :end], values[:, :, :end]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(*x.shape))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, cross: bool = False) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.cross_attn = Attention(width, heads) if cross else None
        self.cross_attn_ln = nn.LayerNorm(width) if cross else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Any, other: Any = None, causal: bool = False, cache: Any = None, heard: Any = None,
                start: Any = None) -> Any:
        """:param heard: keys and values of ``other``, where they are known already."""
        x = x + self.attn(self.attn_ln(x), None, causal, cache, start)
        if self.cross_attn is not None and self.cross_attn_ln is not None:
            x = x + self.cross_attn(self.cross_attn_ln(x), other, False, heard)
        return x + self.mlp(self.mlp_ln(x))


class Encoder(nn.Module):
    """(batch, mels, 2 * context) -> (batch, context, width)"""

    def __init__(self, c: WhisperConfig) -> None:
        super().__init__()
        width = c.n_audio_state
        self.conv1 = nn.Conv1d(c.n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", Tensor(sinusoids(c.n_audio_ctx, width)))
        self.blocks = nn.ModuleList([Block(width, c.n_audio_head) for _ in range(c.n_audio_layer)])
        self.ln_post = nn.LayerNorm(width)

    def forward(self, mel: Any) -> Any:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positional_embedding       # type: ignore[attr-defined]
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class Decoder(nn.Module):
    """(batch, t) tokens, and what was heard -> (batch, t, vocabulary)"""

    def __init__(self, c: WhisperConfig) -> None:
        super().__init__()
        self.config = c
        self.token_embedding = nn.Embedding(c.n_vocab, c.n_text_state)
        self.positional_embedding = nn.Parameter(Tensor(np.zeros((c.n_text_ctx, c.n_text_state), np.float32)))
        self.blocks = nn.ModuleList([Block(c.n_text_state, c.n_text_head, True) for _ in range(c.n_text_layer)])
        self.ln = nn.LayerNorm(c.n_text_state)

    def forward(self, tokens: Any, heard: Any) -> Any:
        x = self.token_embedding(tokens) + self.positional_embedding[:tokens.shape[1]]
        for block in self.blocks:
            x = block(x, heard, True)
        return F.linear(self.ln(x), self.token_embedding.weight)

    def cache_shape(self, batch: int = 1) -> tuple[int, ...]:
        """Of the keys (and of the values) of tokens that each layer keeps."""
        c = self.config
        return batch, c.n_text_head, c.n_text_ctx, c.n_text_state // c.n_text_head

    def known(self, heard: Any) -> list[tuple[Any, Any]]:
        """For each layer the keys and values of what was heard, which are the same for all tokens."""
        return [block.cross_attn.known(heard) for block in self.blocks]

    def following(self, tokens: Any, caches: Any, known: Any, start: Any = 0) -> Any:
        """(batch, vocabulary): logits for what follows the last of ``tokens``, which follow ``start`` others.

        :param caches: (keys, values) for each layer, of :meth:`cache_shape`; what is new is written into them.
        :param known: of :meth:`known`. :param start: may be a symbolic size; several tokens only at the beginning.
        """
        x = self.token_embedding(tokens) + self.positional_embedding[start:start + tokens.shape[1]]
        for block, cache, heard in zip(self.blocks, caches, known, strict=True):
            x = block(x, cache=cache, heard=heard, start=start)
        return F.linear(self.ln(x[:, -1]), self.token_embedding.weight)


class Whisper(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, mel: Any, tokens: Any) -> Any:
        return self.decoder(tokens, self.encoder(mel))
