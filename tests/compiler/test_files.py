"""Files that tensors come in: what other libraries wrote is read equal, and what is malformed is one clear error."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler import Tensor, dtypes
from compiler.files import (
    FileFormatError,
    gguf_load,
    safe_load,
    safe_load_metadata,
    safe_save,
    tar_extract,
    torch_load,
    zip_extract,
)
from compiler.files.quants import BLOCKS, dequantize
from compiler.files.safetensors import NAMES, codes_of

RNG = np.random.default_rng(7)


def label(value: Any) -> str | None:
    """Parameters' names: bytes have none, since archives hold the time."""
    return "bytes" if isinstance(value, bytes) else None


def header_of(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


# ---- safetensors

def sample() -> dict[str, Tensor]:
    out = {}
    for i, (name, dtype) in enumerate(NAMES.items()):
        codes = RNG.integers(0, 2 if dtype is dtypes.bool_ else 100, (3, i % 4)).astype(dtype.np)
        tensor = Tensor(codes)
        out[f"layer.{name}"] = tensor if tensor.dtype is dtype else tensor.bitcast(dtype)
    return out | {"scalar": Tensor(np.float32(2.5)).reshape(()), "empty": Tensor(np.zeros((0, 4), np.int8))}


def test_safetensors_and_back(tmp_path: Path) -> None:
    tensors = sample()
    safe_save(tensors, tmp_path / "a.safetensors", {"who": "us"})
    for file in (tmp_path / "a.safetensors", (tmp_path / "a.safetensors").read_bytes(),
                 Tensor((tmp_path / "a.safetensors").read_bytes())):
        found = safe_load(file)
        assert found.keys() == tensors.keys() and safe_load_metadata(file) == {"who": "us"}
        for name, tensor in tensors.items():
            assert found[name].dtype is tensor.dtype and found[name].shape == tensor.shape
            assert np.array_equal(codes_of(found[name]), codes_of(tensor))
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_safetensors_of_their_own_library(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors.numpy")
    arrays = {name: RNG.integers(-100, 100, (4, 5)).astype(name)
              for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
                           "float32", "float64", "bool")}
    theirs.save_file(arrays, tmp_path / "theirs", {"format": "np"})
    found = safe_load(tmp_path / "theirs")
    assert all(np.array_equal(found[name].numpy(), value) for name, value in arrays.items()) and len(found) == 12
    safe_save({name: Tensor(value) for name, value in arrays.items()}, tmp_path / "ours", {"a": "b"})
    back = theirs.load_file(tmp_path / "ours")
    assert all(np.array_equal(back[name], value) and back[name].dtype == value.dtype for name, value in arrays.items())


@pytest.mark.parametrize(("data", "message"), [
    (b"", "it has 0 bytes, the header's length alone takes 8"),
    (struct.pack("<Q", 1 << 40), "beyond the format's limit"),
    (struct.pack("<Q", 10) + b"{}", "10 bytes are wanted at byte 8, and the file has 10; it is damaged or cut off"),
    (header_of(b"[]"), "does not begin with '{'"),
    (header_of(b"{,}"), "the header is no JSON"),
    (header_of(b'{"a":' + b"[" * 100_000), "the header is no JSON"),
    (header_of(b'{"a": 1, "a": 2}'), "the header names 'a' twice"),
    (header_of({"a": 3}), "'a' is no object with dtype, shape and data_offsets"),
    (header_of({"a": {"dtype": "F7", "shape": [], "data_offsets": [0, 0]}}), "'a' has dtype 'F7'; known are BOOL"),
    (header_of({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 0]}}), "is no list of sizes"),
    (header_of({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, b"x"), "is no list of sizes"),
    (header_of({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0]}}), "are no pair of offsets"),
    (header_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
     "takes 8 bytes, and data_offsets"),
    (header_of({"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, b"123"),
     "'a' begins at byte 1 of the data"),
    (header_of({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                "b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, b"123"), "'b' begins at byte 1"),
    (header_of({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, b"123"),
     "the tensors take 2 bytes, and 3"),
    (header_of({"__metadata__": {"a": 1}}), "__metadata__ must be an object of strings"),
    (header_of({"a": {"dtype": "F64", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}}, b"12345678"), "takes"),
], ids=label)
def test_bad_safetensors(data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        safe_load(data)
    assert str(caught.value).startswith("bytes: ") and message in str(caught.value)


def test_what_safetensors_has_no_place_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be called '__metadata__'"):
        safe_save({"__metadata__": Tensor([1])}, tmp_path / "x")
    with pytest.raises(TypeError, match="metadata must be strings"):
        safe_save({}, tmp_path / "x", {"a": 1})     # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"a one-dimensional uint8 tensor, not float32 of shape \(2,\)"):
        safe_load(Tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match="a file is a path, bytes or a uint8 tensor, not int"):
        safe_load(3)        # type: ignore[arg-type]
    with pytest.raises(IsADirectoryError, match="is a folder"):
        safe_load(tmp_path)
    with pytest.raises(FileNotFoundError):
        safe_load(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


# ---- GGUF

def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf(tensors: list[bytes] = [], keys: list[bytes] = [], data: bytes = b"", version: int = 3,      # noqa: B006
         counts: tuple[int, int] | None = None) -> bytes:
    count = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *count) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def info(name: str, sizes: tuple[int, ...], kind: int, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


@pytest.mark.parametrize("device", ["CPU", "AM"])
@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_dequantization_is_theirs(kind: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random blocks, NaNs and infinities among their scales, bit for bit."""
    monkeypatch.setenv("AMDRV_HAL", "mock")
    quants = pytest.importorskip("gguf.quants")
    from gguf import GGMLQuantizationType
    blocks = RNG.integers(0, 256, (29, BLOCKS[kind][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted = quants.dequantize(blocks, GGMLQuantizationType[kind]).reshape(29, BLOCKS[kind][0])
    found = dequantize(Tensor(blocks, device=device), kind).numpy()
    numbers = ~np.isnan(wanted)
    assert np.array_equal(found[numbers].view(np.uint32), wanted[numbers].view(np.uint32))
    assert np.array_equal(np.isnan(found), ~numbers)


def test_gguf_of_their_own_library(tmp_path: Path) -> None:
    theirs = pytest.importorskip("gguf")
    writer = theirs.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint32("a.number", 7)
    writer.add_string("a.text", "größer")
    writer.add_bool("a.flag", True)
    writer.add_array("a.list", [1, 2, 3])
    writer.add_array("a.words", ["x", "yz"])
    arrays = {"f32": RNG.normal(size=(3, 64)).astype(np.float32), "f16": RNG.normal(size=(2, 5)).astype(np.float16),
              "i8": np.arange(-5, 5, dtype=np.int8)}
    for name, value in arrays.items():
        writer.add_tensor(name, value)
    packed = theirs.quants.quantize(arrays["f32"], theirs.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8", packed, raw_dtype=theirs.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for file in (tmp_path / "m.gguf", Tensor((tmp_path / "m.gguf").read_bytes())):
        metadata, tensors = gguf_load(file)
        assert metadata["general.architecture"] == "llama" and metadata["a.number"] == 7 and metadata["a.flag"] is True
        assert metadata["a.text"] == "größer" and list(metadata["a.list"]) == [1, 2, 3]
        assert metadata["a.words"] == ["x", "yz"]
        assert all(np.array_equal(tensors[name].numpy(), value) for name, value in arrays.items())
        assert np.array_equal(tensors["q8"].numpy(), theirs.quants.dequantize(packed, theirs.GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize(("data", "message"), [
    (b"", "does not begin with 'GGUF'"),
    (b"GGML" + bytes(40), "does not begin with 'GGUF'"),
    (gguf(version=1), "GGUF version 1: versions 2 and 3 are known here"),
    (gguf(version=3 << 24), "it is big-endian"),
    (gguf(counts=(1 << 40, 0)), "1099511627776 tensors cannot be in a file of 32 bytes"),
    (gguf(counts=(0, 1 << 60)), "keys cannot be in a file"),
    (gguf(keys=[string("a") + struct.pack("<II", 4, 1)] * 2), "the key 'a' is there twice"),
    (gguf(keys=[string("a") + struct.pack("<I", 99) + bytes(20)]), "the value of 'a' has type 99"),
    (gguf(keys=[string(b"\xff\xfe") + bytes(20)]), "is no UTF-8"),
    (gguf(keys=[struct.pack("<Q", 1 << 50) + bytes(20)]), "a string of 1125899906842624 bytes at byte 32"),
    (gguf(keys=[string("a") + struct.pack("<IIQ", 9, 0, 1 << 50) + bytes(9)]), "the array 'a' has"),
    (gguf(keys=[string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 7]), "arrays in arrays"),
    (gguf(keys=[string("general.alignment") + struct.pack("<II", 4, 24)]), "general.alignment is 24"),
    (gguf([info("t", (1, 1, 1, 1, 1), 0)]), "'t' has 5 axes"),
    (gguf([info("t", (32,), 77)]), "'t' has type 77, which cannot be unpacked here; known are F32"),
    (gguf([info("t", (256,), 16)], data=bytes(100)), "'t' has type IQ2_XXS, which cannot be unpacked here"),
    (gguf([info("t", (1,), 0, 4)], data=bytes(64)), "is at 4, which is no multiple of the alignment 32"),
    (gguf([info("t", (33,), 2)], data=bytes(640)), "Q4_0 is in blocks of 32, and its rows have 33 elements"),
    (gguf([info("t", (32,), 0)], data=bytes(100)), "takes 128 bytes at 64, and the file has 164"),
    (gguf([info("t", (1 << 40, 1 << 40), 0)], data=bytes(100)), "takes 4835703278458516698824704 bytes"),
    (gguf([info("t", (4,), 0), info("t", (4,), 0, 32)], data=bytes(64)), "the tensor 't' is there twice"),
    (gguf([info("t", (16,), 0), info("u", (4,), 0, 32)], data=bytes(64)), "'t' and 'u' overlap"),
], ids=label)
def test_bad_gguf(data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        gguf_load(data)
    assert message in str(caught.value)


def test_bad_blocks() -> None:
    with pytest.raises(ValueError, match="blocks of kind 'IQ1_S' are not known; there are Q4_0"):
        dequantize(Tensor(np.zeros((1, 5), np.uint8)), "IQ1_S")
    with pytest.raises(ValueError, match=r"Q4_0 has blocks of 18 bytes: uint8\[n, 18\], not uint8\[1, 5\]"):
        dequantize(Tensor(np.zeros((1, 5), np.uint8)), "Q4_0")
    assert dequantize(Tensor(np.zeros((0, 18), np.uint8)), "Q4_0").shape == (0, 32)


# ---- PyTorch

@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("in_tensor", [False, True])
def test_files_of_pytorch(tmp_path: Path, stream: bool, in_tensor: bool) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    saved = {"model": model.state_dict(), "epoch": 3, "rate": 0.5, "names": ["a", ("b", None, True)],
             "part": base[1:3, ::2], "turned": base.T, "scalar": torch.tensor(5), "none": torch.zeros(0, 3),
             "parameter": torch.nn.Parameter(torch.ones(2)), "wide": torch.ones(1).expand(3, 2),
             "size": torch.Size([1, 2])}
    kinds = ["float64", "float16", "bfloat16", "int64", "int16", "int8", "uint8", "bool"]
    saved |= {kind: torch.tensor([0, 1, 1]).to(getattr(torch, kind)) for kind in kinds}
    torch.save(saved, tmp_path / "m.pt", _use_new_zipfile_serialization=not stream)
    file: Any = tmp_path / "m.pt"
    found = torch_load(Tensor(file.read_bytes()) if in_tensor else file)
    assert found.keys() == saved.keys()
    assert (found["epoch"], found["rate"], found["names"], found["size"]) == (3, 0.5, ["a", ("b", None, True)], (1, 2))
    for name, value in model.state_dict().items():
        assert np.array_equal(found["model"][name].numpy(), value.numpy())
    for name in ("part", "turned", "scalar", "none", "wide"):
        assert found[name].shape == tuple(saved[name].shape)
        assert np.array_equal(found[name].numpy(), saved[name].numpy())
    for kind in kinds:
        assert found[kind].dtype is dtypes.of(kind) and found[kind].tolist() == [0, 1, 1]
    assert found["parameter"].tolist() == [1, 1]


def test_newer_types_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    saved = {"uint16": torch.tensor([1, 65535]).to(torch.uint16),
             "fp8": torch.tensor([0.5, -448.0]).to(torch.float8_e4m3fn)}
    torch.save(saved, tmp_path / "m.pt")
    found = torch_load(tmp_path / "m.pt")
    assert found["uint16"].tolist() == [1, 65535] and found["uint16"].dtype is dtypes.uint16
    assert found["fp8"].tolist() == [0.5, -448.0] and found["fp8"].dtype is dtypes.float8_e4m3


def archive(content: bytes, **files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("m/data.pkl", content)
        for name, data in files.items():
            made.writestr("m/" + name.replace("__", "/"), data)
    return out.getvalue()


ran: list[str] = []


class Evil:
    def __reduce__(self) -> Any:
        return ran.append, ("this must not run",)


def tensor_pickle(shape: str = "K\x03\x85", strides: str = "K\x01\x85", offset: str = "K\x00", count: str = "K\x03",
                  storage: str = "ctorch\nFloatStorage\n") -> bytes:
    """A tensor of three floats, by hand."""
    text = ("\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage" + storage +
            "X\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + "tQ" + offset + shape + strides + "\x89NtR.")
    return text.encode("latin-1")


def test_a_pickle_by_hand() -> None:
    data = np.array([1, 2, 3], np.float32)
    assert torch_load(archive(tensor_pickle(), data__0=data.tobytes())).tolist() == [1, 2, 3]


def test_nothing_is_executed() -> None:
    """Whatever function a pickle names, by whatever instruction."""
    evil = [pickle.dumps(Evil(), protocol) for protocol in range(6)]
    evil += [b"cos\nsystem\n(X\x04\x00\x00\x00truetR.", b"(X\x04\x00\x00\x00trueios\nsystem\n.",
             b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.", b"(cos\nsystem\nX\x04\x00\x00\x00trueo.",
             b"\x80\x02cos\nsystem\n)\x81}b.", b"\x80\x02\x82\x01."]
    for content in evil:
        with pytest.raises(FileFormatError):
            torch_load(archive(content))
        with pytest.raises(FileFormatError):
            torch_load(content)
    assert not ran
    with pytest.raises(FileFormatError, match=r"the file asks for os.system, which is not needed for tensors"):
        torch_load(archive(evil[6]))


FLOATS = np.zeros(3, np.float32).tobytes()


@pytest.mark.parametrize(("data", "message"), [
    (b"", "neither a zip archive nor a pickle"),
    (b"PK\x03\x04", "no zip archive"),
    (archive(b"")[:40], "no zip archive"),
    (archive(b""), "no PyTorch file, or a damaged one"),
    (archive(b"\x80\x02K\x01"), "no PyTorch file, or a damaged one"),
    (archive(b"\x80\x02."), "takes from an empty stack"),
    (archive(b"\x80\x02h\x05."), "recalls 5, which it has not put by"),
    (archive(b"\x80\x02t."), "looks for a mark that is not there"),
    (archive(b"\x80\x02K\x01K\x02a."), "adds to something that is no list"),
    (archive(b"\x80\x02}(K\x01u."), "a key without a value"),
    (archive(b"\x80\x02}]K\x01s."), "no PyTorch file, or a damaged one"),
    (archive(tensor_pickle()), "'m/data/0' is not in the archive"),
    (archive(tensor_pickle(), data__0=b"12"), "storage 0 has 2 bytes, and 3 elements of float32 are wanted"),
    (archive(tensor_pickle(shape="K\x04\x85"), data__0=FLOATS), "is not within storage 0 of 3 elements"),
    (archive(tensor_pickle(offset="K\x01"), data__0=FLOATS), "is not within storage 0"),
    (archive(tensor_pickle(strides="K\x02\x85"), data__0=FLOATS), "is not within storage 0"),
    (archive(tensor_pickle(strides="J\xff\xff\xff\xff\x85"), data__0=FLOATS), "makes no sense"),
    (archive(tensor_pickle(shape="J\xff\xff\xff\x7f\x85", strides="K\x00\x85"), data__0=FLOATS),
     "repeats the 3 elements"),
    (archive(tensor_pickle(count="J\xff\xff\xff\xff"), data__0=FLOATS), "makes no sense"),
    (archive(tensor_pickle(storage="ctorch\nComplexFloatStorage\n"), data__0=FLOATS),
     "a storage of type torch.Complex"),
    (archive(b"\x80\x02K\x01.", byteorder=b"big"), "its byte order is b'big'"),
    (pickle.dumps(5), "its magic number is missing"),
    (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(7, 2), "version 7 of the format"),
], ids=label)
def test_bad_pytorch_files(data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        torch_load(data)
    assert message in str(caught.value)


# ---- archives

FILES = {"a.txt": b"hello", "folder/b.bin": bytes(range(256)) * 5, "empty": b""}


def tar(mode: str = "w", **options: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as made:       # type: ignore[call-overload]
        made.addfile(tarfile.TarInfo("folder"), None)
        for name, data in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_tar(mode: str, as_tensor: bool) -> None:
    data = tar(mode)
    found = tar_extract(Tensor(data) if as_tensor else data)
    assert {name: bytes(tensor.numpy()) for name, tensor in found.items()} == FILES | {"folder": b""}
    assert all(tensor.dtype is dtypes.uint8 for tensor in found.values())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_zip(method: int, as_tensor: bool) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        made.mkdir("folder")
        for name, data in FILES.items():
            made.writestr(name, data)
    found = zip_extract(Tensor(out.getvalue()) if as_tensor else out.getvalue())
    assert {name: bytes(tensor.numpy()) for name, tensor in found.items()} == FILES


def test_stored_files_stay_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMDRV_HAL", "mock")
    found = tar_extract(Tensor(tar(), device="AM"))
    assert found["a.txt"].device == "AM" and bytes(found["a.txt"].numpy()) == b"hello"


@pytest.mark.parametrize(("load", "data", "message"), [
    (tar_extract, b"x" * 600, "no tar archive, or a damaged one"),
    (tar_extract, tar()[:700], "no tar archive, or a damaged one|bytes are wanted at byte"),
    (tar_extract, tar("w:gz")[:60], "cannot be unpacked"),
    (zip_extract, b"x" * 600, "no zip archive"),
    (zip_extract, b"", "no zip archive"),
], ids=label)
def test_bad_archives(load: Callable[..., Any], data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        load(data)


# ---- fuzzing: whatever is done to a good file, it is read or it is one error

def good(kind: str) -> tuple[Callable[..., Any], bytes]:
    if kind == "safetensors":
        entries = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
                   "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}}
        return safe_load, header_of(entries, bytes(range(22)))
    if kind == "gguf":
        return gguf_load, gguf([info("t", (32, 2), 2), info("u", (4,), 0, 64)],
                               [string("k") + struct.pack("<II", 4, 1),
                                string("l") + struct.pack("<I", 8) + string("v"),
                                string("m") + struct.pack("<IIQ3I", 9, 4, 3, 1, 2, 3)], bytes(range(96)))
    if kind == "torch":
        return torch_load, archive(tensor_pickle(), data__0=FLOATS, byteorder=b"little")
    if kind == "stream":
        keys = pickle.dumps(["0"], 2)
        return torch_load, (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
                            + pickle.dumps({"little_endian": True}, 2)
                            + tensor_pickle() + keys + struct.pack("<q", 3) + FLOATS)
    if kind == "tar":
        return tar_extract, tar()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, data in FILES.items():
            made.writestr(name, data, zipfile.ZIP_DEFLATED if name == "a.txt" else zipfile.ZIP_STORED)
    return zip_extract, out.getvalue()


def numbers(found: Any) -> None:
    """Every tensor can be computed."""
    if isinstance(found, Tensor):
        found.numpy()
    elif isinstance(found, dict | list | tuple):
        for value in found.values() if isinstance(found, dict) else found:
            numbers(value)


@pytest.mark.parametrize("kind", ["safetensors", "gguf", "torch", "stream", "tar", "zip"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files(kind: str, data: st.DataObject) -> None:
    load, whole = good(kind)
    numbers(load(whole))
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1)) if broken else 0
        what = data.draw(st.sampled_from(["byte", "word", "cut", "drop", "insert"]))
        if what == "byte":
            broken[at:at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif what == "word":
            broken[at:at + 8] = struct.pack("<Q", data.draw(st.sampled_from([0, 1, 1 << 31, 1 << 62, (1 << 64) - 1])))
        elif what == "cut":
            del broken[at:]
        elif what == "drop":
            del broken[at:at + data.draw(st.integers(1, 8))]
        else:
            broken[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    try:
        numbers(load(bytes(broken)))
    except FileFormatError as error:
        assert len(str(error)) > 15
    assert not ran


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_packing_is_theirs(kind: str) -> None:
    """Numbers packed here, bit for bit as by the gguf package; rows of a packed table; a layer of it."""
    gguf = pytest.importorskip("gguf")
    from compiler import nn
    from compiler.files import quantize
    array = np.random.RandomState(0).standard_normal((6, 64)).astype(np.float32)
    array[1], array[2, :32] = 0, np.round(array[2, :32])
    packed = quantize(array, kind)
    theirs = gguf.quants.quantize(array, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(packed.blocks.numpy().reshape(-1), theirs.reshape(-1)) and packed.nbytes == theirs.size
    values = gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(packed.dequantize().numpy(), values)
    table = nn.QuantizedEmbedding(packed)
    assert np.array_equal(table(Tensor([[5, 0], [2, 5]])).numpy(), values[[[5, 0], [2, 5]]])
    x = np.random.RandomState(1).standard_normal((3, 64)).astype(np.float32)
    for apart in (True, False):
        layer = nn.QuantizedLinear(packed, Tensor(np.arange(6, dtype=np.float32)), apart)
        assert list(layer.state_dict()) == ["blocks", "bias"]
        np.testing.assert_allclose(layer(Tensor(x)).numpy(), x @ values.T + np.arange(6), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="packed as Q4_0 and Q8_0 here, not as 'Q4_K'"):
        quantize(array, "Q4_K")
    with pytest.raises(ValueError, match="blocks of 32, and rows have 33 elements"):
        quantize(np.zeros((2, 33)), kind)
    with pytest.raises(ValueError, match=r"two axes, not \[64\]"):
        nn.QuantizedLinear(quantize(array[0], kind))


def test_int8_layers() -> None:
    from compiler import nn
    plain = nn.Linear(40, 6)
    layer = nn.Int8Linear.of(plain)
    weight = plain.weight.numpy()
    assert layer.weight.dtype.name == "int8" and abs(layer.weight.numpy().astype(int)).max(1).tolist() == [127] * 6
    rounded = layer.weight.numpy() * layer.scale.numpy()[:, None]
    assert np.abs(rounded - weight).max() <= np.abs(weight).max() / 254 * 1.01
    x = np.random.RandomState(1).standard_normal((3, 40)).astype(np.float32)
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), x @ rounded.T + plain.bias.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"int8\[out, in\] with scales \[out\], not float32\[6, 40\]"):
        nn.Int8Linear(plain.weight, layer.scale)
