"""What Whisper hears: 30 seconds of sound through its spectrogram, encoder and decoder, at their true shapes.

    python examples/whisper.py                                      # whisper-tiny's shapes, random weights, a chirp
    python examples/whisper.py --weights tiny.pt --audio speech.wav   # OpenAI's weights; 16 kHz, mono
    AMDRV_HAL=mock python examples/whisper.py --device AM --small

Tokens are numbers here: Whisper's own vocabulary turns them into text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiler import Tensor, Variable, jit, no_grad
from compiler.files import torch_load
from compiler.models.weights import fill
from compiler.models.whisper import HOP, RATE, SIZES, Whisper, WhisperConfig, log_mel
from examples.progress import Progress, parser, script

START = (50258, 50259, 50359, 50363)        # start of transcript, English, transcribe, no timestamps (multilingual)


def sound(path: str | None, samples: int) -> np.ndarray:
    """float32 in -1..1, cut or filled up. :raises SystemExit: the file is not 16-bit mono at 16 kHz."""
    if path is None:
        t = np.arange(samples) / RATE
        wave_form = 0.3 * np.sin(2 * np.pi * (200 * t + 60 * t * t)) * (np.sin(2 * np.pi * 0.7 * t) > -0.3)
    else:
        try:
            file = wave.open(path)      # noqa: SIM115 - closed below
        except (wave.Error, EOFError) as error:
            raise SystemExit(f"{path}: no WAV file: {error}") from None
        with file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
                raise SystemExit(f"{path}: {file.getnchannels()} channels of {8 * file.getsampwidth()} bits at "
                                 f"{file.getframerate()} Hz; one of 16 bits at {RATE} Hz is wanted")
            wave_form = np.frombuffer(file.readframes(samples), "<i2") / 32768
    out = np.zeros(samples, np.float32)
    out[:len(wave_form)] = wave_form[:samples]
    return out


def run(args: argparse.Namespace, weights: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """:param weights: default: random ones, of the seed."""
    if args.weights:
        saved = torch_load(args.weights)
        model = Whisper(WhisperConfig(**{k: int(v) for k, v in saved["dims"].items()}))
        model.load_state_dict(saved["model_state_dict"])
    else:
        model = Whisper(SIZES[args.size])
        fill(model, args.seed) if weights is None else model.load_state_dict(weights)
    c, device = model.config, args.device
    for p in model.parameters():
        p.requires_grad_(False)
    model.eval().to(device)
    progress = Progress(args.tokens + 2, args.json)
    seconds = {}
    with no_grad():
        begun = time.perf_counter()
        mel = log_mel(Tensor(sound(args.audio, 2 * c.n_audio_ctx * HOP)[None], device=device), c.n_mels).realize()
        seconds["spectrogram"] = time.perf_counter() - begun
        progress.step("spectrogram")
        begun = time.perf_counter()
        heard = model.encoder(mel).realize()
        seconds["encoder"] = time.perf_counter() - begun
        progress.step("encoder")
        begun = time.perf_counter()
        tokens = [t for t in START if t < c.n_vocab] or [0]
        first = len(tokens)
        known = model.decoder.known(heard)
        caches = [tuple(Tensor.zeros(*model.decoder.cache_shape(), device=device).contiguous() for _ in range(2))
                  for _ in known]
        Tensor.realize(*[t for pair in [*known, *caches] for t in pair])
        start = Variable("start", 1, c.n_text_ctx - 1)

        @jit                                    # one recording for all positions
        def step(token: Tensor, at: Any) -> Tensor:
            return model.decoder.following(token, caches, known, at)        # type: ignore[no-any-return]

        logits = model.decoder.following(Tensor(np.array([tokens], np.int32), device=device), caches, known)
        for _ in range(min(c.n_text_ctx, first + args.tokens) - first):
            tokens.append(int(logits.numpy()[0].argmax()))
            progress.step("decoder")
            if len(tokens) < min(c.n_text_ctx, first + args.tokens):
                logits = step(Tensor(np.array([tokens[-1:]], np.int32), device=device), start.bind(len(tokens) - 1))
        seconds["decoder"] = time.perf_counter() - begun
    progress.close()
    return {"device": device, "mel": list(mel.shape), "heard": list(heard.shape), "tokens": tokens[first:],
            "loudest": float(mel.numpy().max()), "norm": float((heard * heard).mean().item()),
            "parameters": sum(t.numel() for t in model.state_dict().values()),
            "seconds": {k: round(v, 3) for k, v in seconds.items()}}


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--size", choices=SIZES, default="tiny")
    options.add_argument("--weights", help="a checkpoint of OpenAI's: {'dims': ..., 'model_state_dict': ...}")
    options.add_argument("--audio", help="a WAV file, 16 bits, one channel, 16 kHz; without: a chirp")
    options.add_argument("--tokens", type=int, default=8)
    args = options.parse_args(argv)
    if args.small:
        args.size, args.tokens = "mini", min(args.tokens, 3)
    result = run(args)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{result['device']}: {result['parameters']:,} numbers; spectrogram {result['mel']}, heard "
              f"{result['heard']}, tokens {result['tokens']}; "
              + ", ".join(f"{k} {v:.2f} s" for k, v in result["seconds"].items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
