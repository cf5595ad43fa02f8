"""The waves on a card, for the report of a hang: where each stands. (All of their registers: ``amdrv-info wave``.)

Read through SQ_IND_INDEX and SQ_IND_DATA behind GRBM_GFX_INDEX (Linux 6.1, gfx_v11_0.c, wave_read_ind and
gfx_v11_0_read_wave_data); nothing but these selectors is written, and they are put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amdrv.regs import table

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["Wave", "waves"]

SIMDS, SLOTS = 4, 16            # SIMDs of a WGP; gc_num_max_waves_per_simd
MOST = 64                       # waves that are looked at more closely; a full card has thousands


@dataclass(frozen=True)
class Wave:
    """One wave. ``place`` is its hardware queue: (ME, pipe, queue)."""

    engine: int
    array: int
    wgp: int
    simd: int
    slot: int
    place: tuple[int, int, int]
    pc: int
    exec: int
    halted: bool

    def __str__(self) -> str:
        return (f"wave {self.slot} of SIMD {self.simd}, WGP {self.wgp}, SA {self.array}, SE {self.engine} "
                f"{'is halted' if self.halted else 'runs'} at PC {self.pc:#x}")


def waves(device: Device) -> Iterator[Wave]:
    """The first of the waves that there are, by place."""
    regs, registers = device.regs, table("gc_11_0_0")

    def read(slot: int, name: str) -> int:
        regs.SQ_IND_INDEX.write(wave_id=slot, index=registers[f"SQ_WAVE_{name}"].offset)
        return int(regs.SQ_IND_DATA.read())

    def unpacked(slot: int, name: str) -> dict[str, int]:
        return registers[f"SQ_WAVE_{name}"].unpack(read(slot, name))
    found = 0
    try:
        for (engine, array), mask in sorted(device.gfx.wgp_masks.items()):
            for instance in range(SIMDS * mask.bit_length()):
                wgp, simd = divmod(instance, SIMDS)
                if not mask >> wgp & 1:
                    continue
                regs.GRBM_GFX_INDEX.write(se_index=engine, sa_index=array, instance_index=instance)
                for slot in range(SLOTS):
                    status = unpacked(slot, "STATUS")
                    if not status["VALID"]:
                        continue
                    hw = unpacked(slot, "HW_ID2")
                    yield Wave(engine, array, wgp, simd, slot, (hw["ME_ID"], hw["PIPE_ID"], hw["QUEUE_ID"]),
                               read(slot, "PC_LO") | read(slot, "PC_HI") << 32,
                               read(slot, "EXEC_LO") | read(slot, "EXEC_HI") << 32, bool(status["HALT"]))
                    found += 1
                    if found == MOST:
                        return
    finally:
        regs.GRBM_GFX_INDEX.write(se_broadcast_writes=1, sa_broadcast_writes=1, instance_broadcast_writes=1)
