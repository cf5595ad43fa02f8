"""Decoders, captures and their comparison, on memory made by hand; fuzzed where bytes come from outside."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.ioctl_sniff import abi, capture, decode, diff, program
from tools.ioctl_sniff.__main__ import main
from tools.ioctl_sniff.capture import Capture, CaptureError, Event, Writer

LIBRARY = abi.builtin()


def ioctl(request: int, before: list[tuple[int, bytes]], after: list[tuple[int, bytes]] | None = None, *,
          argument: int = 0x1000, error: int = 0) -> Event:
    return Event("ioctl", 1, 1, 5, 10, 100, error, -1 if error else 0, (request, argument, 0, 0), before,
                 before if after is None else after)


def one(event: Event, device: str) -> decode.Call:
    told = Event("device", event.pid, event.pid, event.fd, 0, 0, 0, 0, (0, 0, 0, 0), text=device)
    (call,) = decode.calls([told, event], LIBRARY)
    return call


def number(name: str) -> int:
    return next(each.number for which in LIBRARY.abis for each in which.ioctls if each.name == name)


def test_nested_pointers_of_a_command_submission() -> None:
    """amdgpu's CS: an address of addresses of chunks, whose content depends on their kind."""
    ib = struct.pack("<IIQIIII", 0, 1, 0x8000_0000, 256, 0, 0, 0)
    chunk = struct.pack("<IIQ", 1, len(ib) // 4, 0x4000)
    head = struct.pack("<IIIIQ", 7, 0, 1, 0, 0x2000)
    memory = [(0x1000, head), (0x2000, struct.pack("<Q", 0x3000)), (0x3000, chunk), (0x4000, ib)]
    call = one(ioctl(number("DRM_IOCTL_AMDGPU_CS"), memory), "/dev/dri/renderD128")
    said: Any = call.json()["before"]["in"]
    assert said["ctx_id"] == 7
    (pointer,) = said["chunks"]["to"]
    chunk_said = pointer["chunk"]["to"]
    assert chunk_said["chunk_id"]["means"] == "AMDGPU_CHUNK_ID_IB"
    assert chunk_said["chunk_data"]["to"]["va_start"] == 0x8000_0000
    assert chunk_said["chunk_data"]["to"]["ib_bytes"] == 256
    peek = dict(memory)
    gathered = program.gather(program.Programs(program.table(LIBRARY)), number("DRM_IOCTL_AMDGPU_CS"), 0x1000,
                              lambda address, length: peek.get(address, b"")[:length])
    assert gathered == memory


def test_kfd_queue_with_what_the_kernel_filled_in() -> None:
    before = struct.pack("<QQQQIIIIIIQQQIIII", 0x10000, 0, 0, 0, 4096, 1, 2, 100, 7, 0, 0, 0, 0, 0, 0, 0, 0)
    before = before.ljust(LIBRARY.abi("kfd").size_of("kfd_ioctl_create_queue_args"), b"\0")
    after = bytearray(before)
    struct.pack_into("<I", after, 52, 9)
    call = one(ioctl(number("AMDKFD_IOC_CREATE_QUEUE"), [(0x1000, before)], [(0x1000, bytes(after))]), "/dev/kfd")
    assert call.after is not None and call.after.fields is not None
    fields = {item.name: item for item in call.after.fields}
    assert fields["queue_type"].text == "KFD_IOC_QUEUE_TYPE_COMPUTE_AQL" and fields["queue_type"].old is None
    assert (fields["queue_id"].old, fields["queue_id"].text) == ("0", "9")


@pytest.mark.parametrize(("value", "text"), [(2, "KFD_IOC_QUEUE_TYPE_COMPUTE_AQL"), (0x77, "0x77")])
def test_an_enum_value_that_no_name_has_is_hexadecimal(value: int, text: str) -> None:
    """As headers write them."""
    content = bytearray(LIBRARY.abi("kfd").size_of("kfd_ioctl_create_queue_args"))
    struct.pack_into("<I", content, 40, value)
    call = one(ioctl(number("AMDKFD_IOC_CREATE_QUEUE"), [(0x1000, bytes(content))]), "/dev/kfd")
    assert call.before is not None and call.before.fields is not None
    assert {item.name: item.text for item in call.before.fields}["queue_type"] == text


def test_one_number_means_what_the_device_says() -> None:
    """VFIO gives 15217 (0x3b71) to two calls: the descriptor's kind decides."""
    mapping = struct.pack("<IIQQQ", 32, 3, 0x7000, 0x10000, 4096)
    onto = one(ioctl(0x3B71, [(0x1000, mapping)]), "/dev/vfio/vfio")
    assert onto.name == "VFIO_IOMMU_MAP_DMA"
    assert onto.json()["before"]["flags"] == {"value": 3, "means": "VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE"}
    reset = one(ioctl(0x3B71, [(0x1000, struct.pack("<IIIi", 16, 0, 1, 8))]), "anon_inode:[vfio-device]")
    assert reset.name == "VFIO_DEVICE_PCI_HOT_RESET" and reset.json()["before"]["group_fds"] == [8]


def test_an_array_behind_a_structure() -> None:
    irqs = struct.pack("<IIIIIii", 28, 0x24, 1, 0, 2, 11, 12)
    call = one(ioctl(number("VFIO_DEVICE_SET_IRQS"), [(0x1000, irqs)]), "anon_inode:[vfio-device]")
    said: Any = call.json()["before"]
    assert said["data"] == [11, 12] and said["index"]["means"] == "VFIO_PCI_MSI_IRQ_INDEX"
    assert said["flags"]["means"] == "VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER"


def test_nvidia_controls_and_classes_by_name() -> None:
    found = LIBRARY.abi("nvidia")
    command = next(value for name, value in found.constants.items() if name == "NV2080_CTRL_CMD_GPU_GET_ENGINES_V2")
    parameters = struct.pack("<I", 2) + struct.pack("<62I", 1, 9, *[0] * 60)
    control = struct.pack("<IIIIQII", 0xC1D00001, 0xCAF1, command, 0, 0x2000, len(parameters), 0)
    call = one(ioctl(0xC020462A, [(0x1000, control), (0x2000, parameters)]), "/dev/nvidiactl")
    said: Any = call.json()["before"]
    assert call.name == "NV_ESC_RM_CONTROL"
    assert said["cmd"]["means"] == "NV2080_CTRL_CMD_GPU_GET_ENGINES_V2"
    assert said["params"]["to"]["engineCount"] == 2 and said["params"]["to"]["engineList"][1] == 9
    assert said["status"]["means"] == "NV_OK"


def test_an_unknown_number_keeps_its_bytes() -> None:
    call = one(ioctl(0xC0085A01, [(0x1000, b"\1\2\3\4\5\6\7\x80")]), "/dev/something")
    assert call.name == "_IOWR('Z', 0x1, 8)" and call.problem.startswith("no decoder")
    assert call.json()["before"] == "0102030405060780"


def test_hints_name_what_there_is() -> None:
    """A hint that names no field, ioctl, constant or record would be a silent no."""
    for which in LIBRARY.abis:
        said = abi.hints().get(which.name, {})
        for key in said.get("fields", {}):
            record, _, field = key.partition(".")
            assert any(each.name == field for each in which.records[record].fields), key
        for name, record in said.get("arguments", {}).items():
            assert any(each.name == name for each in which.ioctls), name
            assert which.size_of(record), record
        for table in said.get("cases", {}).values():
            for constant, record in table.items():
                assert constant in which.constants and which.size_of(record), constant
        for record_ in which.records.values():
            for field_ in record_.fields:
                if field_.hint is not None and field_.hint.kind in ("enum", "flags"):
                    assert which.names(field_.hint.type), (record_.name, field_.name)


@pytest.mark.parametrize("text", ["->", "-> x[", "-> a[b c]", "somewhere", "-> x[1+]"])
def test_bad_hints(text: str) -> None:
    with pytest.raises(abi.AbiError):
        abi.parse_hint(text)


def written(path: Path, events: list[Event]) -> Path:
    capture.create(path, patterns=["/dev/x"], types=None, programs=program.table(LIBRARY), capacity=1 << 20,
                   metadata={"command": ["x"]})
    writer = Writer(path)
    for event in events:
        writer.put(event)
    writer.close()
    capture.finish(path)
    return path


pieces = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=40)), max_size=3)
events = st.lists(st.builds(
    Event, st.sampled_from(["ioctl", "open", "mmap", "device", "fork"]), st.integers(0, 9), st.integers(0, 9),
    st.integers(-1, 9), st.integers(1, 2**60), st.integers(0, 2**31), st.integers(0, 130),
    st.integers(-2**63, 2**63 - 1), st.tuples(*[st.integers(0, 2**64 - 1)] * 4), pieces, pieces,
    st.text(max_size=20)), max_size=8)


@given(events)
def test_what_is_written_is_read(events: list[Event]) -> None:
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        taken = Capture.read(written(Path(folder) / "c", events))
        assert list(taken) == sorted(events, key=lambda event: event.time)
        assert taken.metadata == {"command": ["x"]} and taken.broken == 0


@given(events, st.data())
def test_damaged_captures_are_refused_or_read_around(events: list[Event], data: st.DataObject) -> None:
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        content = bytearray(written(Path(folder) / "c", events).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    content = content[:data.draw(st.integers(0, len(content)))]
    try:
        taken = Capture.parse(memoryview(bytes(content)))
        for call in decode.calls(taken, LIBRARY):
            json.dumps(call.json())
    except CaptureError:
        pass


@given(st.sampled_from([each for which in LIBRARY.abis for each in which.ioctls]), st.binary(max_size=300),
       st.binary(max_size=100))
def test_any_argument_is_decoded(found: abi.Ioctl, content: bytes, other: bytes) -> None:
    device = (found.devices or found.abi.devices)[0].replace("*", "0").replace("[0-9]", "1").replace("\\", "")
    call = one(ioctl(found.number, [(0x1000, content), (0x2000, other)], [(0x1000, content[::-1])]), device)
    json.dumps(call.json())


def test_broken_records_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "c", [ioctl(1, [(0x1000, b"abcd")]), ioctl(2, [(0x1000, b"abcd")])])
    content = bytearray(path.read_bytes())
    start = Capture.read(path).start
    struct.pack_into("<I", content, start + 4, struct.unpack_from("<I", content, start + 4)[0] | 1 << 31)
    path.write_bytes(content)
    taken = Capture.read(path)
    assert [event.numbers[0] for event in taken] == [2] and taken.broken == 1


def test_a_capture_that_is_full(tmp_path: Path) -> None:
    capture.create(tmp_path / "c", patterns=[], types=None, programs=b"", capacity=1 << 16)
    writer = Writer(tmp_path / "c")
    for _ in range(3):
        writer.put(ioctl(1, [(0x1000, bytes(60000))], []))
    writer.close()
    assert writer.lost == 2 and Capture.read(tmp_path / "c").lost == 2


@pytest.mark.parametrize(("patterns", "capacity", "said"), [
    (["x"] * 60, 1 << 20, "48 are the most"), (["x" * 300], 1 << 20, "longer than"), (["x"], 5, "64 KiB")])
def test_captures_that_cannot_be(tmp_path: Path, patterns: list[str], capacity: int, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        capture.create(tmp_path / "c", patterns=patterns, types=None, programs=b"", capacity=capacity)


def test_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(flags: int, address: int) -> list[Event]:
        told = Event("device", 1, 1, 5, 1, 0, 0, 0, (0, 0, 0, 0), text="/dev/vfio/vfio")
        return [told, ioctl(0x3B71, [(0x1000, struct.pack("<IIQQQ", 32, flags, address, 0, 4096))])]
    first, second = tmp_path / "a", tmp_path / "b"
    written(first, run(3, 0x7F00_0000_0000))
    written(second, [*run(1, 0x7E00_0000_0000), ioctl(0x3B64, [], error=errno.EINVAL)])
    assert main(["diff", str(first), str(second)]) == 1
    out = capsys.readouterr().out
    assert "VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE | VFIO_DMA_MAP_FLAG_READ" in out
    assert "vaddr" not in out.split("\n")[1]                # the addresses differ by nature
    assert "+" in out and "VFIO_GET_API_VERSION" in out
    assert main(["diff", str(first), str(first)]) == 0
    assert "1 calls equal, 0 differ" in capsys.readouterr().out
    assert main(["diff", str(first), str(second), "--json"]) == 1
    assert [each["mark"] for each in json.loads(capsys.readouterr().out)["differences"]] == ["!", "+"]


def test_addresses_are_compared_by_order() -> None:
    item = [decode.Item("a", value, hex(value)) for value in (0x7F0000001010, 0x7E0000002010)]
    calls = [decode.Call(ioctl(1, []), "", "x", None, None, decode.Item("", fields=[each])) for each in item]
    assert [each.mark for each in diff.compare(calls[:1], calls[1:])] == [" "]


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"IOSNIFF1" + bytes(5000)])
def test_files_that_are_no_captures(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    assert main(["show", str(tmp_path / "c")]) == 1
    assert capsys.readouterr().err.startswith("ioctl-sniff: ")


def test_generated_numbers_are_the_kernels() -> None:
    """TIOCGWINSZ by Python's own table; structure sizes by the numbers that carry them."""
    import termios
    assert number("TIOCGWINSZ") == termios.TIOCGWINSZ and number("TCGETS") == termios.TCGETS
    assert callable(fcntl.ioctl)
    checked = 0
    for which in LIBRARY.abis:
        for each in which.ioctls:
            carried = each.number >> 16 & 0x3FFF
            if each.number >> 30 and carried and each.record in which.records:
                assert which.records[each.record].size == carried, each.name
                checked += 1
    assert checked > 200


def test_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A header of ours, against ctypeslib2's classes of the same records."""
    pytest.importorskip("clang")
    header = tmp_path / "toy.h"
    header.write_text("""
        #define _IOWR(t, n, s) (3u << 30 | sizeof(s) << 16 | (t) << 8 | (n))
        #define _IO(t, n) ((t) << 8 | (n))
        #define TOY_MAGIC 'y'
        enum toy_kind { TOY_RED = 1, TOY_BLUE = 4 };
        struct toy_bits { unsigned int a : 3, b : 7; };
        struct toy_inner { unsigned char tag; unsigned short many[3]; };
        struct toy_args {
            struct toy_inner inner[2];
            union { unsigned long long address; void *pointer; };
            double weight; struct { signed char deep; } named;
        };
        #define TOY_GO _IOWR(TOY_MAGIC, 1, struct toy_args)
        #define TOY_STOP _IO(TOY_MAGIC, 2)
    """)
    out = tmp_path / "toy.json"
    try:
        status = main(["gen", str(header), "-o", str(out), "-d", "/dev/toy*"])
    except RuntimeError as error:
        pytest.skip(str(error))
    if status:
        pytest.skip(capsys.readouterr().err)
    toy = abi.load(out)
    assert {each.name: (each.number, each.record) for each in toy.ioctls} == {
        "TOY_GO": (3 << 30 | 40 << 16 | ord("y") << 8 | 1, "toy_args"), "TOY_STOP": (ord("y") << 8 | 2, "")}
    assert toy.constants["TOY_BLUE"] == 4 and toy.devices == ("/dev/toy*",)
    fields = {each.name: each for each in toy.records["toy_args"].fields}
    assert (fields["weight"].type, fields["inner"].count) == ("f64", 2)
    assert [each.bits for each in toy.records["toy_bits"].fields] == [(3, 0), (7, 3)]

    import logging

    import ctypeslib
    from ctypeslib.codegen import config
    logging.getLogger("cursorhandler").setLevel(logging.CRITICAL)
    options = config.CodegenConfig()
    options.clang_opts = ["-std=gnu11", "-target", "x86_64-linux-gnu"]
    text = "\n".join(line for line in header.read_text().splitlines() if "#" not in line)
    theirs = ctypeslib.translate(text, cfg=options)
    for name in ("toy_inner", "toy_args"):
        record = theirs[f"struct_{name}"]
        assert ctypes.sizeof(record) == toy.records[name].size
        for each in toy.records[name].fields:
            if each.name and each.bits is None:
                assert getattr(record, each.name).offset == each.offset, each.name


@pytest.mark.parametrize("text", ["#define A 1", "struct {", "int f(void);"])
def test_headers_with_nothing_in_them(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    pytest.importorskip("clang")
    (tmp_path / "h.h").write_text(text)
    assert main(["gen", str(tmp_path / "h.h"), "-o", str(tmp_path / "o")]) == 1
    assert capsys.readouterr().err.startswith("ioctl-sniff: ") and not (tmp_path / "o").exists()


def test_a_decoder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("clang")
    (tmp_path / "h.h").write_text("struct toy { int a; };")
    assert main(["gen", str(tmp_path / "h.h"), "-o", str(tmp_path / "no/such")]) == 1
    assert "cannot be written: No such file" in capsys.readouterr().err


def test_builtin_decoders_are_what_the_headers_say() -> None:
    pytest.importorskip("clang")
    from tools.fetch_sources import locate
    from tools.ioctl_sniff.builtin import main as builtin
    if locate("uapi") is None:
        pytest.skip("needs the uapi headers: python -m tools.fetch_sources")
    assert builtin(["--check"]) == 0


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    names = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert {"amdgpu", "drm", "iommufd", "kfd", "nvidia", "nvidia-uvm", "vfio"} <= set(names)
