"""Write text with LLaMA, or whatever has its architecture, from a GGUF file.

    python examples/llama.py model.gguf --prompt "Once upon a time"
    python examples/llama.py                                    # writes a tiny file with random weights, and reads it
    AMDRV_HAL=mock python examples/llama.py --device AM --small

Quantised weights stay as they are in the file, in the card's memory too: each linear layer unpacks its own when it
needs them. --unpack makes float32 of them once. The tokenizer is the file's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiler import nn
from compiler.files import Quantized, gguf_load
from compiler.files.tokenizer import tokenizer_of
from compiler.models.generate import Generator
from compiler.models.llama import SIZES, LLaMA, LLaMAConfig, config_of
from compiler.models.weights import random_weights
from examples.progress import Progress, parser, script


def load(file: Any, device: str, unpack: bool = False) -> tuple[LLaMA, dict[str, Any]]:
    """A model and its file's metadata. :raises FileFormatError, ValueError: it is no such file."""
    metadata, tensors = gguf_load(file, keep_quantized=not unpack)
    factors = tensors.pop("rope_freqs.weight", None)
    table = tensors["token_embd.weight"]
    model = LLaMA(config_of(metadata, table.shape[0]), "output.weight" not in tensors,
                  None if factors is None else factors.numpy())
    packed = {name.removesuffix(".weight"): t for name, t in tensors.items() if isinstance(t, Quantized)}
    for name, weight in packed.items():
        holder, _, last = name.rpartition(".")
        setattr(model.get_submodule(holder), last,
                nn.QuantizedEmbedding(weight) if name == "token_embd" else nn.QuantizedLinear(weight))
        tensors[name + ".blocks"] = tensors.pop(name + ".weight").blocks
    model.load_state_dict(tensors)
    for p in model.parameters():
        p.requires_grad_(False)
    return model.to(device), metadata


def write_tiny(path: Path, seed: int = 0, config: LLaMAConfig | None = None) -> None:
    """A GGUF file of random weights by the ``gguf`` package: Q8_0, Q4_0, F16 and F32, and a vocabulary of pieces."""
    try:
        import gguf
    except ImportError:
        raise SystemExit("a tiny file is written by the gguf package: pip install gguf; or give a file") from None
    c = config or SIZES["tiny"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.layers)
    writer.add_embedding_length(c.width)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_feed_forward_length(c.hidden)
    writer.add_context_length(c.context)
    writer.add_layer_norm_rms_eps(c.eps)
    writer.add_rope_freq_base(c.base)
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)]]
    words = ["▁", *"etaoinshrdlu", "▁t", "he", "▁the", "in", "▁q", "ue"]
    pieces += (words + [f"[{n}]" for n in range(c.vocabulary)])[:c.vocabulary - len(pieces)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(max(0, n - 258)) for n in range(len(pieces))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    kinds = gguf.GGMLQuantizationType
    shapes = {k: v.shape for k, v in LLaMA(c).state_dict().items()}
    for name, array in random_weights(shapes, seed).items():
        kind = kinds.F32 if array.ndim == 1 else kinds.F16 if "attn_k" in name else \
            kinds.Q4_0 if "ffn" in name else kinds.Q8_0
        if kind is kinds.F16:
            array = array.astype(np.float16)
        if kind in (kinds.Q4_0, kinds.Q8_0):
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.file is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny.gguf"
            write_tiny(path, args.seed)
            model, metadata = load(path, args.device, args.unpack)
    else:
        model, metadata = load(args.file, args.device, args.unpack)
    tokenizer = tokenizer_of(metadata)
    generator = Generator(model, args.device)
    progress = Progress(args.tokens, args.json)
    tokens: list[int] = []
    times = [time.perf_counter()]
    for token in generator.generate(tokenizer.encode(args.prompt), args.tokens, args.temperature, args.top_k,
                                    args.top_p, args.seed, [] if tokenizer.eos is None else [tokenizer.eos]):
        tokens.append(token)
        times.append(time.perf_counter())
        progress.step()
    progress.close()
    gaps = np.diff(times)[3:]           # the first ones are compiled
    return {"device": args.device, "prompt": tokenizer.encode(args.prompt), "tokens": tokens,
            "text": tokenizer.decode(tokens), "recordings": generator.recordings,
            "bytes": sum(t.nbytes for t in model.state_dict().values()),
            "tokens_per_second": float(1 / np.median(gaps)) if len(gaps) else None,
            "first_token_seconds": float(times[1] - times[0]) if tokens else None}


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("file", nargs="?", help="a GGUF file of architecture llama; without: a tiny one is made")
    options.add_argument("--prompt", default="the queue is in the")
    options.add_argument("--tokens", type=int, default=30)
    options.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    options.add_argument("--top-k", type=int, default=40)
    options.add_argument("--top-p", type=float, default=0.95)
    options.add_argument("--unpack", action="store_true", help="make float32 of quantised weights when they are read")
    args = options.parse_args(argv)
    if args.small:
        args.tokens = min(args.tokens, 8)
    result = run(args)
    if args.json:
        print(json.dumps(result))
    else:
        rate = result["tokens_per_second"]
        print(f"{args.prompt}{result['text']}")
        print(f"-- {result['device']}: {len(result['tokens'])} tokens, "
              + (f"{rate:.1f} a second, " if rate else "")
              + f"the first after {result['first_token_seconds']:.2f} s, {result['recordings']} recordings, "
              f"{result['bytes'] / 1e6:.1f} MB of weights")
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
