"""The models beside PyTorch: written there anew, from the papers and with the same weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler import Tensor, Variable, jit, no_grad
from compiler.models.convnet import ConvNet
from compiler.models.generate import Generator, sample
from compiler.models.gpt2 import GPT2
from compiler.models.gpt2 import SIZES as GPT2S
from compiler.models.llama import LLaMA, LLaMAConfig, config_of
from compiler.models.resnet import ResNet, resnet
from compiler.models.weights import fill, random_weights
from compiler.models.whisper import Whisper, WhisperConfig, log_mel, mel_filters

torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed: pip install torch")
F = torch.nn.functional


def state_of(model: Any) -> dict[str, Any]:
    return {k: torch.tensor(v.numpy()) for k, v in model.state_dict().items()}


def caches(model: Any) -> list[tuple[Tensor, Tensor]]:
    return [(Tensor.zeros(*model.cache_shape()).contiguous(), Tensor.zeros(*model.cache_shape()).contiguous())
            for _ in range(model.config.layers)]


def test_convnet_trains_as_torchs_does() -> None:
    """The example's own losses."""
    from examples import mnist
    args = mnist.argparse.Namespace(data=None, seed=0, device="CPU", width=4, batch=16, steps=5, lr=0.01, test=64,
                                    json=True)
    weights = random_weights({k: v.shape for k, v in ConvNet(8, 4, 16).state_dict().items()}, 7)
    ours = mnist.run(args, weights)
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({
        "conv1": torch.nn.Conv2d(1, 4, 3, padding=1), "conv2": torch.nn.Conv2d(4, 8, 3, padding=1),
        "norm": torch.nn.BatchNorm2d(8), "fc1": torch.nn.Linear(128, 16), "fc2": torch.nn.Linear(16, 10)})
    net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})

    def forward(x: Any) -> Any:
        x = net["norm"](net["conv2"](net["conv1"](x).relu())).relu()
        return net["fc2"](net["fc1"](F.max_pool2d(x, 2).flatten(1)).relu())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, 6, cycle_momentum=False)
    images, labels, held, held_labels = mnist.load(None, 0)
    rng = np.random.RandomState(0)
    losses = []
    for _ in range(5):
        at = rng.randint(0, len(images), 16)
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(torch.tensor(images[at])), torch.tensor(labels[at]).long())
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert ours["losses"] == pytest.approx(losses, rel=2e-4)
    net.eval()
    right = (forward(torch.tensor(held[:64])).argmax(1).numpy() == held_labels[:64]).mean()
    assert abs(ours["accuracy"] - right) <= 1 / 64


class Residual(torch.nn.Module):
    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        c = torch.nn.Conv2d
        self.conv1, self.bn1 = c(inner, width, 3, stride, 1, bias=False), torch.nn.BatchNorm2d(width)
        self.conv2, self.bn2 = c(width, width, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(width)
        self.downsample = torch.nn.Sequential(c(inner, width, 1, stride, bias=False), torch.nn.BatchNorm2d(width)) \
            if stride > 1 or inner != width else None

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


def test_resnet_trains_as_torchs_does() -> None:
    from examples import resnet as program
    args = program.argparse.Namespace(seed=0, device="CPU", width=4, stages=2, layers=0, size=8, images=64, batch=8,
                                      steps=4, lr=0.05, weights=None, json=True)
    weights = random_weights({k: v.shape for k, v in program.model_of(args).state_dict().items()}, 7)
    ours = program.run(args, weights)
    net = torch.nn.ModuleDict({
        "conv1": torch.nn.Conv2d(3, 4, 3, 1, 1, bias=False), "bn1": torch.nn.BatchNorm2d(4),
        "layer1": torch.nn.Sequential(Residual(4, 4, 1)), "layer2": torch.nn.Sequential(Residual(4, 8, 2)),
        "fc": torch.nn.Linear(8, 4)})
    net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    images, kinds = program.pictures(64, 8, 0)
    rng = np.random.RandomState(0)
    losses = []
    for _ in range(4):
        at = rng.randint(8, 64, 8)
        optimizer.zero_grad()
        x = net["bn1"](net["conv1"](torch.tensor(images[at]))).relu()
        out = net["fc"](net["layer2"](net["layer1"](x)).mean((2, 3)))
        loss = F.cross_entropy(out, torch.tensor(kinds[at]).long())
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert ours["losses"] == pytest.approx(losses, rel=5e-4)


def test_resnets_names_are_torchvisions() -> None:
    """Counts of parameters are those of its documentation; a few names and shapes."""
    model = resnet(50)
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 25557032
    assert state["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert state["layer4.2.bn3.running_var"].shape == (2048,) and state["fc.weight"].shape == (1000, 2048)
    assert sum(p.numel() for p in resnet(18, 1000).parameters()) == 11689512
    with pytest.raises(ValueError, match=r"ResNet-20 is none of the paper's: 18, 34, 50, 101, 152"):
        resnet(20)
    assert isinstance(model, ResNet)


def gpt2_logits(state: dict[str, Any], heads: int, tokens: list[int]) -> Any:
    """All of the text at once, without a cache."""
    x = state["wte.weight"][tokens] + state["wpe.weight"][:len(tokens)]
    width = x.shape[1]
    mask = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)
    n = 0
    while f"h.{n}.ln_1.weight" in state:
        w = {k.removeprefix(f"h.{n}."): v for k, v in state.items() if k.startswith(f"h.{n}.")}
        y = F.layer_norm(x, (width,), w["ln_1.weight"], w["ln_1.bias"])
        q, k, v = (y @ w["attn.c_attn.weight"].T + w["attn.c_attn.bias"]).split(width, -1)
        q, k, v = (t.view(len(tokens), heads, -1).permute(1, 0, 2) for t in (q, k, v))
        y = torch.softmax(q @ k.mT / math.sqrt(width // heads) + mask, -1) @ v
        x = x + y.permute(1, 0, 2).reshape(len(tokens), width) @ w["attn.c_proj.weight"].T + w["attn.c_proj.bias"]
        y = F.layer_norm(x, (width,), w["ln_2.weight"], w["ln_2.bias"])
        y = y @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y ** 3)))
        x = x + y @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]
        n += 1
    return F.layer_norm(x[-1], (width,), state["ln_f.weight"], state["ln_f.bias"]) @ state["wte.weight"].T


def test_gpt2() -> None:
    """Every step of a text, from a cache whose length is symbolic, against the whole text at once."""
    config = GPT2S["tiny"]
    model = fill(GPT2(config), 1)
    generator, state = Generator(model, "CPU"), state_of(model)
    rng = np.random.RandomState(0)
    for length in (5, 1, 17):
        generator.reset()
        tokens = [int(t) for t in rng.randint(0, config.vocabulary, length)]
        given = tokens
        for _ in range(6):
            want = gpt2_logits(state, config.heads, tokens).numpy()
            np.testing.assert_allclose(generator.logits(given), want, rtol=1e-3, atol=1e-4)
            given = [int(rng.randint(config.vocabulary))]
            tokens = tokens + given
    assert generator.recordings == 2


def test_a_full_context_is_an_error() -> None:
    model = fill(GPT2(GPT2S["tiny"]), 1)
    generator = Generator(model, "CPU")
    assert len(list(generator.generate([1] * 60, 100))) == 5       # 60 and 4 more have room, and one follows
    with pytest.raises(ValueError, match="1 tokens after 64: the context has room for 1 to 64"):
        generator.logits([1])
    with pytest.raises(ValueError, match="0 tokens after 64"):
        generator.logits([])


def llama_logits(state: dict[str, Any], c: LLaMAConfig, tokens: list[int]) -> Any:
    """All of the text at once; positions by complex numbers."""
    def norm(x: Any, w: Any) -> Any:
        return x / torch.sqrt((x ** 2).mean(-1, keepdim=True) + c.eps) * w
    t, each = len(tokens), c.width // c.heads
    angles = torch.outer(torch.arange(t), c.base ** (-torch.arange(0, each, 2) / each))
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]

    def rotated(x: Any) -> Any:
        return torch.view_as_real(torch.view_as_complex(x.reshape(t, -1, each // 2, 2)) * turns).flatten(2)
    x = state["token_embd.weight"][tokens]
    for n in range(c.layers):
        w = {k.removeprefix(f"blk.{n}.").removesuffix(".weight"): v for k, v in state.items()
             if k.startswith(f"blk.{n}.")}
        y = norm(x, w["attn_norm"])
        q, k = rotated(y @ w["attn_q"].T), rotated(y @ w["attn_k"].T)
        v = (y @ w["attn_v"].T).reshape(t, -1, each)
        k, v = (s.repeat_interleave(c.heads // c.kv_heads, 1) for s in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(each) + torch.full((t, t), -torch.inf).triu(1)
        x = x + torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1) @ w["attn_output"].T
        y = norm(x, w["ffn_norm"])
        gate = y @ w["ffn_gate"].T
        x = x + (gate * torch.sigmoid(gate) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
    return norm(x[-1], state["output_norm.weight"]) @ state.get("output.weight", state["token_embd.weight"]).T


def test_llama_from_a_file(tmp_path: Path) -> None:
    """Written by the gguf package, quantised; unpacked by it for the reference. Kept packed, and unpacked."""
    gguf = pytest.importorskip("gguf")
    from examples import llama as program
    c = LLaMAConfig(2, 64, 4, 2, 96, 288, 32, 5000.0, 2.0 ** -17)
    program.write_tiny(tmp_path / "tiny.gguf", 4, c)
    state = {}
    for t in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors:
        values = gguf.quants.dequantize(t.data, t.tensor_type)
        state[t.name] = torch.tensor(np.array(values, np.float32).reshape([int(n) for n in reversed(t.shape)]))
    packed, metadata = program.load(tmp_path / "tiny.gguf", "CPU")
    unpacked, _ = program.load(tmp_path / "tiny.gguf", "CPU", unpack=True)
    assert config_of(metadata, 288) == c == packed.config
    sizes = [sum(t.nbytes for t in m.state_dict().values()) for m in (packed, unpacked)]
    assert sizes[0] < 0.35 * sizes[1]
    tokens = [3, 200, 17, 9, 100]
    for model in (packed, unpacked):
        generator = Generator(model, "CPU")
        for n in (3, 4, 5):
            got = generator.logits(tokens[:3] if n == 3 else tokens[n - 1:n])
            np.testing.assert_allclose(got, llama_logits(state, c, tokens[:n]).numpy(), rtol=1e-3, atol=1e-4)
        assert generator.recordings == 2


def test_llama_3s_factors_and_tied_weights() -> None:
    """Frequencies divided by factors; logits by the table of tokens."""
    c = LLaMAConfig(1, 32, 2, 1, 48, 40, 16)
    factors = np.array([1, 2, 4, 8, 8, 8, 8, 8], np.float32)
    model = fill(LLaMA(c, True, factors), 2)
    assert "output.weight" not in model.state_dict() and "cosines" not in model.state_dict()
    with no_grad():
        got = model(Tensor([[1, 2, 3]], dtype="int32"), caches(model)).numpy()[0]
    assert np.isfinite(got).all()
    angles = np.outer(np.arange(16), 10000.0 ** (-np.arange(0, 16, 2) / 16) / factors)
    np.testing.assert_allclose(model.cosines.numpy()[:, ::2], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(model.sines.numpy()[:, 1::2], np.sin(angles), atol=1e-6)


def test_what_is_no_llama() -> None:
    with pytest.raises(ValueError, match="architecture is 'gemma'; this is LLaMA"):
        config_of({"general.architecture": "gemma"}, 10)
    with pytest.raises(ValueError, match="8 of 16 features of a head are rotated"):
        config_of({"general.architecture": "llama", "llama.attention.head_count": 2, "llama.embedding_length": 32,
                   "llama.rope.dimension_count": 8}, 10)


def test_whisper() -> None:
    """The spectrogram against torch.stft, encoder and decoder against PyTorch's own attention."""
    c = WhisperConfig(80, 20, 16, 2, 1, 30, 8, 16, 2, 1)
    model = fill(Whisper(c), 5)
    audio = np.random.RandomState(1).uniform(-0.5, 0.5, 2 * 20 * 160).astype(np.float32)
    spectra = torch.stft(torch.tensor(audio), 400, 160, window=torch.hann_window(400), return_complex=True)
    power = torch.tensor(mel_filters()) @ spectra[:, :-1].abs() ** 2
    logs = power.clamp(min=1e-10).log10()
    mel = (torch.maximum(logs, logs.max() - 8) + 4) / 4
    got = log_mel(Tensor(audio))
    np.testing.assert_allclose(got.numpy(), mel.numpy(), rtol=1e-3, atol=1e-3)
    state = state_of(model)

    def attend(prefix: str, x: Any, other: Any, causal: bool) -> Any:
        layer = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        names = [f"{prefix}.{n}" for n in ("query", "key", "value")]
        zeros = torch.zeros(16)
        layer.load_state_dict({"in_proj_weight": torch.cat([state[f"{n}.weight"] for n in names]),
                               "in_proj_bias": torch.cat([state.get(f"{n}.bias", zeros) for n in names]),
                               "out_proj.weight": state[f"{prefix}.out.weight"],
                               "out_proj.bias": state[f"{prefix}.out.bias"]})
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1) if causal else None
        return layer(x, other, other, attn_mask=mask, need_weights=False)[0]

    def norm(name: str, x: Any) -> Any:
        return F.layer_norm(x, (16,), state[f"{name}.weight"], state[f"{name}.bias"])

    def block(p: str, x: Any, heard: Any = None) -> Any:
        y = norm(f"{p}.attn_ln", x)
        x = x + attend(f"{p}.attn", y, y, heard is not None)
        if heard is not None:
            x = x + attend(f"{p}.cross_attn", norm(f"{p}.cross_attn_ln", x), heard, False)
        y = F.gelu(F.linear(norm(f"{p}.mlp_ln", x), state[f"{p}.mlp.0.weight"], state[f"{p}.mlp.0.bias"]))
        return x + F.linear(y, state[f"{p}.mlp.2.weight"], state[f"{p}.mlp.2.bias"])
    x = F.gelu(F.conv1d(mel[None], state["encoder.conv1.weight"], state["encoder.conv1.bias"], padding=1))
    x = F.gelu(F.conv1d(x, state["encoder.conv2.weight"], state["encoder.conv2.bias"], 2, 1)).mT
    heard = norm("encoder.ln_post", block("encoder.blocks.0", x + state["encoder.positional_embedding"]))
    tokens = [3, 1, 4, 1, 5]
    y = state["decoder.token_embedding.weight"][tokens][None] + state["decoder.positional_embedding"][:5]
    want = norm("decoder.ln", block("decoder.blocks.0", y, heard)) @ state["decoder.token_embedding.weight"].T
    with no_grad():
        out = model(Tensor(mel.numpy()[None]), Tensor([tokens], dtype="int32"))
    np.testing.assert_allclose(out.numpy(), want.detach().numpy(), rtol=2e-3, atol=2e-4)
    tiny = Whisper(WhisperConfig())
    assert sum(t.numel() for t in tiny.state_dict().values()) == 37760640       # OpenAI's tiny.pt, its buffer included


def test_whisper_remembers() -> None:
    """Token by token, with keys and values kept, it says what it says of all tokens at once."""
    c = WhisperConfig(80, 20, 16, 2, 1, 30, 8, 16, 2, 2)
    model = fill(Whisper(c), 6)
    tokens = [3, 1, 4, 1, 5, 9]
    heard = Tensor(np.random.RandomState(2).normal(size=(1, 20, 16)).astype(np.float32))
    with no_grad():
        want = model.decoder(Tensor([tokens], dtype="int32"), heard).numpy()[0]
        known = model.decoder.known(heard)
        caches = [tuple(Tensor.zeros(*model.decoder.cache_shape()).contiguous().realize() for _ in range(2))
                  for _ in known]
        start = Variable("start", 1, c.n_text_ctx - 1)
        step = jit(lambda token, at: model.decoder.following(token, caches, known, at))
        got = [model.decoder.following(Tensor([tokens[:2]], dtype="int32"), caches, known).numpy()[0]]
        got += [step(Tensor([[token]], dtype="int32"), start.bind(at)).numpy()[0]
                for at, token in enumerate(tokens) if at >= 2]
    np.testing.assert_allclose(got, want[1:], rtol=1e-4, atol=1e-5)
    assert len(step.captured) == 1


def test_mel_bands() -> None:
    """Peaks lie where the scale has them; each band's area is one (Slaney's normalisation)."""
    bands = mel_filters(80)
    assert bands.shape == (80, 201) and (bands >= 0).all()
    assert (np.diff(bands.argmax(1)) >= 0).all()
    np.testing.assert_allclose(bands[50:].sum(1) * 40, 1, atol=0.05)        # bins of 40 Hz, against wide bands


# ---- sampling

def test_sampling() -> None:
    rng = np.random.default_rng(0)
    logits = np.array([1.0, 3.0, 2.0, -np.inf], np.float32)
    assert sample(logits, rng, 0) == 1
    seen = [sample(logits, rng) for _ in range(2000)]
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(np.bincount(seen, minlength=4) / 2000, shares, atol=0.05)
    assert {sample(logits, rng, 5.0, top_k=2) for _ in range(100)} == {1, 2}
    assert {sample(logits, rng, 1.0, top_p=0.5) for _ in range(100)} == {1}
    assert {sample(logits, rng, 1.0, top_p=0.8) for _ in range(100)} == {1, 2}
    for wrong in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="are not negative, top_p"):
            sample(logits, rng, **wrong)        # type: ignore[arg-type]
