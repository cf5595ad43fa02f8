"""Code that looks at the time: SHADER_CYCLES and the real-time counter, in modelled time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from mock.isa.clock.constants import CLOCK_HZ
from mock.isa.clock.relevance import reads_clock
from mock.isa.decode import Instruction
from mock.isa.dispatch import Dispatch, Memory
from mock.isa.interpreter import Machine
from mock.isa.operands import put
from mock.isa.state import State
from mock.isa.waves import Batch

__all__ = ["ClockedMachine", "clock_step"]

Step = Callable[[State], None]
_REALTIME = CLOCK_HZ // 100_000_000         # cycles of a tick


def clock_step(instruction: Instruction, cycles: Callable[[State], np.ndarray]) -> Step:
    """The step of an instruction that reads the clock; ``cycles`` gives int64[waves]."""
    wide = instruction.mnemonic.endswith("b64")
    store = put(instruction.operands[0], "u64" if wide else "u32")
    simm = instruction.fields.get("simm16", 0)
    low, width = simm >> 6 & 31, (simm >> 11 & 31) + 1

    def step(s: State) -> None:
        value = cycles(s)
        if instruction.mnemonic == "s_getreg_b32":      # 20 bits, of which a field is taken
            value = (value & 0xfffff) >> low & (1 << width) - 1
        else:
            value = value // _REALTIME
        store(s, value.astype(np.uint64) if wide else (value & 0xffffffff).astype(np.uint32), None)
    return step


class ClockedMachine(Machine):
    """An interpreter whose waves find the times that the simulation gave the sampled ones: workgroup k those of sampled
    workgroup k modulo how many there are, look by look.

    :param begin: cycles at which the dispatch began.
    :param stamps: (workgroup, wave of the sample) -> when it looked; waves are numbered through.
    """

    def __init__(self, dispatch: Dispatch, memory: Memory, stamps: dict[tuple[int, int], list[int]], begin: int,
                 check_hazards: bool = True, watchdog: float = 300.0) -> None:
        super().__init__(dispatch, memory, check_hazards=check_hazards, watchdog=watchdog)
        groups: dict[int, list[list[int]]] = {}
        for group, wave in sorted(stamps):
            groups.setdefault(group, []).append(stamps[group, wave])
        self._groups = list(groups.values())
        self._begin, self._batch = begin, 0
        self._looks: Counter[tuple[int, int]] = Counter()

    def _run_batch(self, batch: Batch) -> None:
        self._looks.clear()
        super()._run_batch(batch)
        self._batch += batch.workgroups

    def _step(self, instruction: Instruction, pc: int) -> Step:
        return clock_step(instruction, self._cycles) if reads_clock(instruction) else super()._step(instruction, pc)

    def _cycles(self, s: State) -> np.ndarray:
        result = np.full(s.waves, self._begin, np.int64)
        places = zip(s.per_wave["workgroup"].tolist(), s.per_wave["wave"].tolist(), strict=True)
        for i, (group, wave) in enumerate(places):
            look = self._looks[group, wave]
            self._looks[group, wave] += 1
            if not self._groups:
                continue
            waves = self._groups[(self._batch + group) % len(self._groups)]
            times = waves[wave % len(waves)]
            result[i] += times[min(look, len(times) - 1)] + max(look - len(times) + 1, 0)
        return result
