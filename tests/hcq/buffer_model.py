"""A state machine over buffers, launches, copies, queues by hand and graphs, beside a model of plain NumPy arrays.

Whatever is done in whatever order, and however late the engines run, every ``copyout`` shows what the model says.
Inherit, and provide ``open_device`` and ``load_add`` (a program of ``add(out, a, k)``: int32 out[i] = a[i] + k).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import hcq

BLOCK = 64
SIZES = st.sampled_from([256, 512, 4096, 8192, 100_352])        # multiples of 256 bytes: a block of int32 each


class BufferModel(RuleBasedStateMachine):
    device: ClassVar[hcq.Device | None] = None
    add: ClassVar[hcq.Program | None] = None
    buffers = Bundle("buffers")

    @classmethod
    def open_device(cls) -> hcq.Device:
        raise NotImplementedError

    @classmethod
    def load_add(cls, device: hcq.Device) -> hcq.Program:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        if type(self).device is None:
            device = type(self).open_device()
            type(self).device, type(self).add = device, type(self).load_add(device)
        assert self.device is not None
        self.dev = self.device

    def launch(self, out: Any, a: Any, k: Any, grid: Any) -> None:
        assert self.add is not None
        self.add(out, a, k, grid=grid, block=BLOCK)

    @rule(target=buffers, nbytes=SIZES, value=st.integers(0, 255), host=st.booleans())
    def allocate(self, nbytes: int, value: int, host: bool) -> tuple[hcq.Buffer, np.ndarray]:
        model = np.full(nbytes, value, np.uint8)
        return self.dev.alloc(nbytes, host=host).copyin(model), model

    @rule(target=buffers, pair=buffers, start=st.integers(0, 3), size=st.integers(1, 4))
    def view(self, pair: tuple[hcq.Buffer, np.ndarray], start: int, size: int) -> tuple[hcq.Buffer, np.ndarray]:
        buffer, model = pair
        begin = min(256 * start, buffer.nbytes - 256)
        end = min(begin + 256 * size, buffer.nbytes)
        return buffer[begin:end], model[begin:end]

    @rule(pair=consumes(buffers))
    def forget(self, pair: tuple[hcq.Buffer, np.ndarray]) -> None:
        """The last reference may go while the engines still work on it."""

    @rule(pair=buffers, seed=st.integers(0, 1 << 30), step=st.sampled_from([1, 2]))
    def copyin(self, pair: tuple[hcq.Buffer, np.ndarray], seed: int, step: int) -> None:
        buffer, model = pair
        data = np.random.default_rng(seed).integers(0, 256, buffer.nbytes * step, np.uint8)[::step]
        buffer.copyin(data)
        model[:] = data

    @rule(pair=buffers)
    def copyout(self, pair: tuple[hcq.Buffer, np.ndarray]) -> None:
        assert np.array_equal(pair[0].copyout(), pair[1])

    @rule(pair=buffers, value=st.integers(0, 0xffffffff))
    def fill(self, pair: tuple[hcq.Buffer, np.ndarray], value: int) -> None:
        pair[0].fill(value)
        pair[1].view(np.uint32)[:] = value

    @staticmethod
    def common(*pairs: tuple[hcq.Buffer, np.ndarray]) -> tuple[int, bool]:
        """The bytes that all have, and whether the first overlaps another there."""
        nbytes = min(buffer.nbytes for buffer, _ in pairs)
        first = pairs[0][0].address
        return nbytes, any(abs(other.address - first) < nbytes for other, _ in pairs[1:])

    @rule(to=buffers, origin=buffers)
    def copy(self, to: tuple[hcq.Buffer, np.ndarray], origin: tuple[hcq.Buffer, np.ndarray]) -> None:
        nbytes, overlap = self.common(to, origin)
        if not overlap:
            to[0][:nbytes].copy_from(origin[0][:nbytes])
            to[1][:nbytes] = origin[1][:nbytes]

    @rule(out=buffers, a=buffers, k=st.integers(-1000, 1000))
    def kernel(self, out: tuple[hcq.Buffer, np.ndarray], a: tuple[hcq.Buffer, np.ndarray], k: int) -> None:
        nbytes, overlap = self.common(out, a)
        if not overlap or out[0].address == a[0].address:
            self.launch(out[0], a[0], np.int32(k), nbytes // 256)
            out[1][:nbytes].view(np.int32)[:] = a[1][:nbytes].view(np.int32) + np.int32(k)

    @rule(out=buffers, a=buffers, k=st.integers(0, 99), late=st.booleans())
    def queues_by_hand(self, out: tuple[hcq.Buffer, np.ndarray], a: tuple[hcq.Buffer, np.ndarray], k: int,
                       late: bool) -> None:
        """Fill by the copy engine, signal, then a kernel; the consumer may be submitted first."""
        nbytes, overlap = self.common(out, a)
        if overlap:
            return
        assert self.add is not None
        self.dev.synchronize()
        filled = self.dev.signal()
        copies = hcq.CopyQueue(self.dev).fill(a[0], k).signal(filled, 1)
        kernels = hcq.ComputeQueue(self.dev).wait(filled, 1).memory_barrier()
        kernels.exec(self.add, (out[0], a[0], np.int32(k)), nbytes // 256, BLOCK)
        for queue in (kernels, copies) if late else (copies, kernels):
            queue.submit()
        self.dev.synchronize()
        a[1].view(np.uint32)[:] = k
        out[1][:nbytes].view(np.int32)[:] = 2 * k

    @rule(out=buffers, a=buffers, other=buffers, times=st.integers(1, 3), k=st.integers(-9, 9))
    def graph(self, out: tuple[hcq.Buffer, np.ndarray], a: tuple[hcq.Buffer, np.ndarray],
              other: tuple[hcq.Buffer, np.ndarray], times: int, k: int) -> None:
        nbytes, overlap = self.common(out, a, other)
        if overlap:
            return
        with self.dev.graph() as g:
            source, amount = g.input("source", a[0]), g.input("amount", np.int32(1))
            self.launch(out[0], source, amount, nbytes // 256)
            self.launch(out[0], out[0], np.int32(5), nbytes // 256)
        for _ in range(times):
            g.replay()
        g.replay(source=other[0], amount=np.int32(k))
        out[1][:nbytes].view(np.int32)[:] = other[1][:nbytes].view(np.int32) + np.int32(5 + k)

    @invariant()
    def order_is_kept(self) -> None:
        for timeline in self.dev._all:
            assert timeline.signal.value <= timeline.submitted
