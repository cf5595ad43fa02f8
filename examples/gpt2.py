"""Write text with GPT-2.

    python examples/gpt2.py                                        # a tiny model with random weights: bytes
    python examples/gpt2.py --weights model.safetensors --tokenizer FOLDER --prompt "The card"   # the real one
    AMDRV_HAL=mock python examples/gpt2.py --device AM --small

Keys and values of earlier tokens are kept, and their number is a symbolic size: one recording serves prompts of all
lengths, one all positions after them. Weights are those of the transformers library (safetensors or .bin), the folder
has its vocab.json and merges.txt.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiler.files import safe_load, torch_load
from compiler.files.tokenizer import Bytes, tokenizer_of
from compiler.models.generate import Generator
from compiler.models.gpt2 import GPT2, SIZES, adapted, config_of
from compiler.models.weights import fill
from examples.progress import Progress, parser, script


def build(args: argparse.Namespace, weights: dict[str, np.ndarray] | None = None) -> GPT2:
    if weights is not None:
        model = GPT2(SIZES[args.size])
        model.load_state_dict(weights)
    elif args.weights:
        load = safe_load if args.weights.endswith(".safetensors") else torch_load
        state = adapted(load(args.weights))
        model = GPT2(config_of(state))
        model.load_state_dict(state)
    else:
        model = fill(GPT2(SIZES[args.size]), args.seed)
    for p in model.parameters():
        p.requires_grad_(False)
    return model.to(args.device)


def run(args: argparse.Namespace, weights: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """:param weights: default: random ones, of the seed."""
    tokenizer = tokenizer_of(args.tokenizer)
    model = build(args, weights)
    if isinstance(tokenizer, Bytes) and model.config.vocabulary > 256 and args.tokenizer is None and args.weights:
        print("no --tokenizer: tokens are shown as numbers", file=sys.stderr)
    generator = Generator(model, args.device)
    prompt = tokenizer.encode(args.prompt) or [0]
    progress = Progress(args.tokens, args.json)
    tokens: list[int] = []
    times = [time.perf_counter()]
    for token in generator.generate(prompt, args.tokens, args.temperature, args.top_k, args.top_p, args.seed,
                                    [] if tokenizer.eos is None else [tokenizer.eos]):
        tokens.append(token)
        times.append(time.perf_counter())
        progress.step()
    progress.close()
    gaps = np.diff(times)[3:]           # the first ones are compiled
    return {"device": args.device, "prompt": args.prompt, "tokens": tokens,
            "text": tokenizer.decode(tokens) if not isinstance(tokenizer, Bytes) or model.config.vocabulary <= 256
            else " ".join(map(str, tokens)), "recordings": generator.recordings,
            "tokens_per_second": float(1 / np.median(gaps)) if len(gaps) else None,
            "first_token_seconds": float(times[1] - times[0]) if tokens else None}


def options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--size", choices=SIZES, default="tiny", help="of a model with random weights")
    made.add_argument("--weights", help="model.safetensors or pytorch_model.bin of the transformers library")
    made.add_argument("--tokenizer", help="a folder with vocab.json and merges.txt")
    made.add_argument("--prompt", default="A queue is")
    made.add_argument("--tokens", type=int, default=40)
    made.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    made.add_argument("--top-k", type=int, default=40)
    made.add_argument("--top-p", type=float, default=1.0)
    return made


def main(argv: list[str] | None = None) -> int:
    args = options().parse_args(argv)
    if args.small:
        args.size, args.tokens = "tiny", min(args.tokens, 8)
    result = run(args)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{args.prompt}{result['text']}")
        rate = result["tokens_per_second"]
        print(f"-- {result['device']}: {len(result['tokens'])} tokens, "
              + (f"{rate:.1f} a second, " if rate else "")
              + f"the first after {result['first_token_seconds']:.2f} s, {result['recordings']} recordings")
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
