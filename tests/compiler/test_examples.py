"""The examples in their small form: on the CPU, on the mock card with the same numbers, and beside PyTorch."""

from __future__ import annotations

import gzip
import importlib
import json
import struct
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))       # where examples/ is, when only the packages are installed
EXAMPLES = ("mnist", "resnet", "gpt2", "llama", "whisper", "quantized_linear", "onnx_import")


def example(name: str, capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    if name in ("llama", "onnx_import"):
        pytest.importorskip({"llama": "gguf", "onnx_import": "onnx"}[name])
    capsys.readouterr()
    assert importlib.import_module(f"examples.{name}").main(["--json", *args]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("name", ["quantized_linear", "onnx_import", *[
    pytest.param(n, marks=pytest.mark.slow) for n in ("gpt2", "llama", "mnist", "resnet", "whisper")]])
def test_small_form(name: str, capsys: pytest.CaptureFixture[str], am: str) -> None:
    """The CPU's numbers and the card's."""
    cpu, card = (example(name, capsys, "--small", "--device", d) for d in ("CPU", am))
    assert (cpu["device"], card["device"]) == ("CPU", "AM")
    if "losses" in cpu:
        assert len(cpu["losses"]) == cpu["steps"] >= 4 and all(0 < x < 10 for x in cpu["losses"])
        assert card["losses"] == pytest.approx(cpu["losses"], rel=1e-4)
        assert card["accuracy"] == cpu["accuracy"]
    if "tokens" in cpu:
        assert card["tokens"] == cpu["tokens"] and len(cpu["tokens"]) >= 3
    if "recordings" in cpu:
        assert cpu["recordings"] == card["recordings"] == 2 and card["text"] == cpu["text"]
    if name == "whisper":
        assert cpu["heard"] == [1, 50, 32] and cpu["mel"] == [1, 80, 100]
        assert card["norm"] == pytest.approx(cpu["norm"], rel=1e-4)
    if name == "quantized_linear":
        for kind, share, error in (("int8", 0.3, 0.02), ("Q8_0", 0.27, 0.02), ("Q4_0", 0.15, 0.15)):
            row = cpu["layers"][kind]
            assert row["bytes"] < share * cpu["layers"]["float32"]["bytes"] and 0 < row["error"] < error
            assert card["layers"][kind]["sum"] == pytest.approx(row["sum"], rel=1e-4, abs=1e-3)
    if name == "onnx_import":
        assert cpu["difference"] < 1e-5 and card["difference"] < 1e-5
        assert card["values"] == pytest.approx(cpu["values"], rel=1e-4)


@pytest.mark.parametrize("name", ["digits", *EXAMPLES])
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"examples.{name}").main(["--help"])
    shown = capsys.readouterr().out
    assert "--device" in shown and "--json" in shown and "--small" in shown and len(shown) > 400


def test_as_a_script() -> None:
    """From another folder, with text for people."""
    done = subprocess.run([sys.executable, str(ROOT / "examples" / "gpt2.py"), "--small", "--prompt", "ab"], cwd="/",
                          capture_output=True, check=False)
    assert done.returncode == 0 and b"-- CPU: 8 tokens" in done.stdout and done.stdout.startswith(b"ab"), done.stderr


@pytest.mark.parametrize(("name", "arguments", "said"), [
    ("gpt2", ["--small", "--device", "NOPE"], "gpt2.py: no backend is called 'NOPE'"),
    ("llama", ["{file}"], "llama.py: {file}: no GGUF file"), ("vector_add", ["--device", "X"], "no backend is called"),
    ("onnx_import", ["{file}"], "onnx_import.py: {file}: no ONNX"),
    ("whisper", ["--small", "--weights", "{file}"], "whisper.py: {file}: no PyTorch file"),
    ("whisper", ["--small", "--audio", "{file}"], "{file}: no WAV file"),
    ("mnist", ["--small", "--data", "{file}"], "mnist.py: ")],
    ids=["device", "gguf", "card", "onnx", "pt", "wav", "data"])
def test_what_cannot_be_had_is_one_line(name: str, arguments: list[str], said: str, tmp_path: Path) -> None:
    if name in ("llama", "onnx_import"):
        pytest.importorskip({"llama": "gguf", "onnx_import": "onnx"}[name])
    (tmp_path / "file").write_text("of no kind that anybody knows")
    words = [word.format(file=tmp_path / "file") for word in arguments]
    done = subprocess.run([sys.executable, str(ROOT / "examples" / f"{name}.py"), *words], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert said.format(file=tmp_path / "file") in done.stderr


def test_text_is_continued_the_same_whatever_the_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    """Greedily: a longer prompt that is the shorter one and its continuation continues in the same way."""
    whole = example("gpt2", capsys, "--temperature", "0", "--tokens", "12", "--device", "CPU")
    again = example("gpt2", capsys, "--temperature", "0", "--tokens", "30", "--top-k", "1", "--device", "CPU")
    assert again["tokens"][:12] == whole["tokens"]
    warm = example("gpt2", capsys, "--temperature", "1.5", "--top-k", "0", "--tokens", "12", "--device", "CPU")
    other = example("gpt2", capsys, "--temperature", "1.5", "--top-k", "0", "--tokens", "12", "--seed", "1")
    assert warm["tokens"] != whole["tokens"] != other["tokens"] and warm["recordings"] == 2


# ---- data and weights that people have

def test_mnists_own_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.RandomState(0)
    for part, n in (("train", 64), ("t10k", 32)):
        for kind, array in (("images", rng.randint(0, 256, (n, 8, 8))), ("labels", rng.randint(0, 10, n))):
            data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) \
                + array.astype(np.uint8).tobytes()
            file = tmp_path / f"{part}-{kind}-idx{array.ndim}-ubyte"
            if kind == "images":
                file.write_bytes(data)
            else:
                file.with_name(file.name + ".gz").write_bytes(gzip.compress(data))
    found = example("mnist", capsys, "--small", "--data", str(tmp_path), "--device", "CPU")
    assert found["held_out"] == 32 and len(found["losses"]) == 4
    from examples.mnist import idx, load
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"ubyte: 31 numbers for a shape of \(32,\); it is cut off"):
        idx(tmp_path / "t10k-images-idx3-ubyte")
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="has no t10k-images-idx3-ubyte"):
        load(str(tmp_path), 0)


def test_gpt2_of_the_transformers_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint with its names, turned matrices and masks, and a vocabulary of byte pairs."""
    save = pytest.importorskip("safetensors.numpy").save_file
    from compiler.files.tokenizer import _letters
    from compiler.models.gpt2 import GPT2, GPT2Config
    from compiler.models.weights import random_weights
    config = GPT2Config(1, 64, 1, 258, 16)
    weights = random_weights({k: v.shape for k, v in GPT2(config).state_dict().items()}, 3)
    theirs = {f"transformer.{k}": v.T.copy() if k.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else v
              for k, v in weights.items()}
    theirs["transformer.h.0.attn.bias"] = np.ones((1, 1, 16, 16), np.float32)
    theirs["lm_head.weight"] = weights["wte.weight"]
    save(theirs, tmp_path / "model.safetensors")
    letters = _letters()
    (tmp_path / "vocab.json").write_text(json.dumps({letters[b]: b for b in range(256)} | {"ab": 256,
                                                                                           "<|endoftext|>": 257}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    found = example("gpt2", capsys, "--weights", str(tmp_path / "model.safetensors"), "--tokenizer", str(tmp_path),
                    "--prompt", "ab", "--tokens", "5", "--temperature", "0", "--device", "CPU")
    from compiler.models.generate import Generator
    model = GPT2(config)
    model.load_state_dict(weights)
    assert found["tokens"] == list(Generator(model.to("CPU"), "CPU").generate([256], 5))


def test_whisper_reads_waves(tmp_path: Path) -> None:
    from examples.whisper import sound
    for rate in (16000, 8000):
        with wave.open(str(tmp_path / f"{rate}.wav"), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(np.array([0, 16384, -32768], "<i2").tobytes())
    assert sound(str(tmp_path / "16000.wav"), 5).tolist() == [0, 0.5, -1, 0, 0]
    with pytest.raises(SystemExit, match="1 channels of 16 bits at 8000 Hz; one of 16 bits at 16000 Hz is wanted"):
        sound(str(tmp_path / "8000.wav"), 5)
