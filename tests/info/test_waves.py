"""wave: waves that stand and waves that run, read through SQ_IND_INDEX from the mock's shader sequencers."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from info_checks import Run, checked

import hcq
import mock
from amdrv.backend import AmBackend
from amdrv.device import Device
from amdrv.errors import HalError
from amdrv.hal.mock import MockHal
from tools.amdrv_info.waves import disassembly, kernels_waves

llvmlite = pytest.importorskip("llvmlite")

STORE = """
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workitem.id.x()
define amdgpu_kernel void @k(ptr addrspace(1) %out, i32 %more) {{
entry:
  %item = call i32 @llvm.amdgcn.workitem.id.x()
  br label %loop
loop:
  %n = phi i32 [%more, %entry], [%m, %loop]
  %p = getelementptr i32, ptr addrspace(1) %out, i32 %item
  store volatile i32 %n, ptr addrspace(1) %p
  %m = add i32 %n, %item
  {end}
done:
  ret void
}}
"""
ENDLESS = STORE.format(end="br label %loop").replace("done:\n  ret void\n", "")
ENDING = STORE.format(end="br label %done").replace("phi i32 [%more, %entry], [%m, %loop]", "phi i32 [%more, %entry]")
S_ENDPGM, NO_INSTRUCTION = bytes.fromhex("0000b0bf"), b"\xff" * 4


def compiled(source: str) -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    return bytes(target.emit_object(binding.parse_assembly(source)))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[MockHal, hcq.Device]]:
    machine = mock.Machine([mock.Gpu("gfx1100", vram="256M")])
    hal = MockHal(machine)
    monkeypatch.setattr(MockHal, "_shared", hal)
    device = Device.open(hal=hal, address=hal.functions()[0].address)
    yield hal, hcq.Device(AmBackend(device, 0))
    device._closed = True               # its queue hangs, or never ends: nobody waits for a clean end
    machine.close()


def until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def test_no_wave_is_halted_on_a_card_that_rests(card: Any, run: Run) -> None:
    status, out, _ = run("wave", "--hal", "mock")
    assert status == 0 and "no wave is halted" in out


def test_an_illegal_instruction_halts_its_waves(card: Any, run: Run) -> None:
    hal, dev = card
    code = compiled(ENDING)
    assert code.count(S_ENDPGM) >= 1
    program = dev.program(code.replace(S_ENDPGM, NO_INSTRUCTION, 1), "k")
    buffer = dev.alloc(4096)
    program(buffer, np.int32(77), grid=2, block=64)
    board = hal.machine.gpus[0]
    until(lambda: any(queue.hung for queue in board.mec.everyone()))
    status, out, _ = run("wave", "--hal", "mock", "--json", "--vgprs", "3")
    waves = checked(out)["waves"]
    assert status == 0 and len(waves) == 4                         # two workgroups of two waves
    hung = next(queue.hung for queue in board.mec.everyone() if queue.hung)
    for wave in waves:
        assert wave["halted"] and wave["why"] == "an illegal instruction" and wave["lanes"] == 32
        assert (wave["vmid"], wave["me"], wave["pipe"], wave["queue"]) == (8, 1, 0, 0)
        assert f"pc {wave['pc']:#x}" in hung                       # the mock's own message names the same place
        assert wave["exec"] == 0xFFFF_FFFF and wave["trapsts"]["ILLEGAL_INST"] == 1
        here = [line for line in wave["code"] if line["address"] == wave["pc"]]
        assert here == [{"address": wave["pc"], "words": "ffffffff", "text": ".long 0xffffffff"}]
        before = [line["text"] for line in wave["code"] if line["address"] < wave["pc"]]
        assert any(text.startswith("global_store_b32") for text in before)
    # a vector register counts the lanes, in steps of 1 or 4 (work-item id, or address): from 0 and from 32
    starts = []
    for wave in waves:
        steps = [np.diff(register) for register in wave["vgprs"]]
        number = next(n for n, step in enumerate(steps) if step[0] in (1, 4) and (step == step[0]).all())
        starts.append(wave["vgprs"][number][0] // steps[number][0])
    assert sorted(starts) == [0, 0, 32, 32]
    places = {(w["se"], w["sa"], w["wgp"], w["simd"], w["slot"]) for w in waves}
    assert len(places) == 4
    status, out, _ = run("wave", "--hal", "mock", "--vgprs", "1")
    assert "halted: an illegal instruction" in out and "->" in out and "4 waves" in out


def test_amdgpus_debugfs_and_the_registers_show_the_same_waves(card: Any, run: Run) -> None:
    """The kernel's files as its source has them, over the mock's registers, against the tool's own reading."""
    hal, dev = card
    program = dev.program(compiled(ENDING).replace(S_ENDPGM, NO_INSTRUCTION, 1), "k")
    program(dev.alloc(4096), np.int32(3), grid=2, block=64)
    board, regs = hal.machine.gpus[0], dev.backend.device.regs
    until(lambda: any(queue.hung for queue in board.mec.everyone()))

    def indirect(slot: int, index: int, count: int, lane: int = 0) -> list[int]:
        regs.SQ_IND_INDEX.write(wave_id=slot, workitem_id=lane, index=index, auto_incr=1)
        return [int(regs.SQ_IND_DATA.read()) for _ in range(count)]

    def read(kind: str, position: int, nbytes: int) -> bytes:
        """amdgpu_debugfs_wave_read and amdgpu_debugfs_gpr_read."""
        def bits(high: int, low: int) -> int:
            return position >> low & (1 << high - low + 1) - 1
        wave = kind == "wave"
        first = 7 if wave else 12
        se, sa, instance = (bits(first + at + 7, first + at) for at in (0, 8, 16))
        regs.GRBM_GFX_INDEX.write(se_index=se, sa_index=sa, instance_index=instance)
        if wave:
            words = [3] + [indirect(bits(36, 31), index, 1)[0] for index in (
                0x102, 0x108, 0x109, 0x27E, 0x27F, 0x117, 0x118, 0x105, 0x106, 0x103, 0x107, 0x11C, 0x10D, 0x27D,
                0x101)]
        else:
            words = indirect(bits(43, 36), (0x200 if bits(61, 60) else 0x400) + bits(11, 0) // 4, nbytes // 4,
                             bits(59, 52))
        regs.GRBM_GFX_INDEX.write(se_broadcast_writes=1, sa_broadcast_writes=1, instance_broadcast_writes=1)
        return struct.pack(f"<{len(words)}I", *words)[:nbytes]

    ours = checked(run("wave", "--hal", "mock", "--json", "--vgprs", "2")[1])["waves"]
    theirs = kernels_waves("0", read, vgprs=2)["waves"]
    assert len(ours) == 4
    for one in (*ours, *theirs):
        one.pop("code")
        one.pop("code_problem")
    assert theirs == ours
    with pytest.raises(HalError, match="amdgpu_wave is of type 2; type 3, of gfx11, is known"):
        kernels_waves("0", lambda kind, at, n: struct.pack("<I", 2).ljust(n, b"\1"))


def test_a_snapshot_keeps_waves_that_stand(card: Any, run: Run, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    import mock.snapshot
    hal, dev = card
    program = dev.program(compiled(ENDING).replace(S_ENDPGM, NO_INSTRUCTION, 1), "k")
    program(dev.alloc(4096), np.int32(3), grid=1, block=32)
    until(lambda: any(queue.hung for queue in hal.machine.gpus[0].mec.everyone()))
    before = checked(run("wave", "--hal", "mock", "--json", "--vgprs", "2")[1])
    with mock.snapshot.load(mock.snapshot.save(hal.machine, tmp_path / "s.snapshot")) as machine:
        monkeypatch.setattr(MockHal, "_shared", MockHal(machine))
        after = checked(run("wave", "--hal", "mock", "--json", "--vgprs", "2")[1])
    assert after == before and len(before["waves"]) == 1


def test_selectors_are_put_back(card: Any, run: Run) -> None:
    _, dev = card
    regs = dev.backend.device.regs
    before = int(regs.GRBM_GFX_INDEX.read())
    assert run("wave", "--hal", "mock", "--all")[0] == 0
    assert int(regs.GRBM_GFX_INDEX.read()) == before


def test_a_wave_that_runs_for_ever_is_seen_while_it_runs(card: Any, run: Run) -> None:
    _, dev = card
    program = dev.program(compiled(ENDLESS), "k")
    buffer = dev.alloc(4096)
    program(buffer, np.int32(5), grid=1, block=32)

    def seen() -> list[Any]:
        return list(checked(run("wave", "--hal", "mock", "--json", "--all")[1])["waves"])
    until(lambda: seen() != [])
    (wave,) = seen()
    assert not wave["halted"] and wave["why"] is None and wave["vmid"] == 8
    assert any(line["text"].startswith("global_store_b32") for line in wave["code"])
    assert checked(run("wave", "--hal", "mock", "--json")[1])["waves"] == []        # it is not halted


def test_what_an_earlier_launch_left_is_gone_with_the_next(card: Any, run: Run) -> None:
    hal, dev = card
    program = dev.program(compiled(ENDING).replace(S_ENDPGM, NO_INSTRUCTION, 1), "k")
    program(dev.alloc(4096), np.int32(1), grid=1, block=32)
    board = hal.machine.gpus[0]
    until(lambda: any(queue.hung for queue in board.mec.everyone()))
    assert len(checked(run("wave", "--hal", "mock", "--json")[1])["waves"]) == 1
    board.reset()
    assert board.sq.held == {}


def test_disassembly_begins_where_instructions_meet_the_pc() -> None:
    """Eight bytes of an instruction stand before the PC: a start inside of it must not be taken for one."""
    from mock.isa.decode import decode
    wide = bytes.fromhex("04000bd7" "00020200")                                # any eight-byte instruction
    if decode(wide + bytes(16)).size != 8:
        pytest.skip("another encoding")
    lines = disassembly(wide * 2 + S_ENDPGM, 0x1000, 0x1010, 32)
    assert [line["address"] for line in lines] == [0x1000, 0x1008, 0x1010] and lines[-1]["text"] == "s_endpgm"
    garbage = disassembly(NO_INSTRUCTION * 2 + S_ENDPGM, 0x1000, 0x1008, 32)
    assert [line["text"] for line in garbage][-1] == "s_endpgm" and garbage[0]["text"].startswith(".long")
