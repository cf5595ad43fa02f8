"""What ``hcq`` asks of a vendor's driver. ``hcq`` itself knows no vendor.

A backend is found by name (``hcq.open("AM:0")``) through the entry-point group ``hcq.backends``, or through
the built-in name table when run from a checkout; either way the target is a callable
``open_backend(index: int) -> Backend``.

Addresses are GPU virtual addresses, the same for every engine of a device. Signals are 64-bit words, 8-byte
aligned, in memory from ``alloc(..., host=True)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

__all__ = ["Backend", "ComputeEncoder", "CopyEncoder", "HardwareQueue", "IndirectBuffer", "Kernel", "Memory",
           "Properties", "QueueKind"]

QueueKind = Literal["compute", "copy", "aql"]


@dataclass(frozen=True)
class Properties:
    """Limits and rates of a device, as the driver read them from the card."""

    arch: str                       # "gfx1100"
    name: str                       # marketing name, for people
    compute_units: int
    wave_sizes: tuple[int, ...]
    max_workgroup: int              # work-items in a workgroup
    lds_bytes: int                  # of a workgroup
    vram_bytes: int
    timestamp_hz: float             # of the counter that ``timestamp`` stores
    signal_bits: int = 64           # largest value that every queue can wait for, in bits
    shared_aperture: int = 0        # flat addresses of LDS and of scratch start here: the 64-bit bases
    private_aperture: int = 0
    simds_per_cu: int = 0           # what a processor holds, for hcq.occupancy; 0: not known
    waves_per_simd: int = 0
    vgprs_per_simd: int = 0         # of 32 lanes
    vgpr_granule: int = 0


@dataclass
class Memory:
    """Memory that every engine of the device reaches at ``address``."""

    address: int
    nbytes: int
    view: np.ndarray | None         # uint8, live; None where the CPU has no window on it
    host: bool                      # system memory (True) or VRAM
    handle: object = field(default=None, repr=False)    # the backend's own


@dataclass(frozen=True, eq=False)
class Kernel:
    """What a launch needs to know of a kernel; from its descriptor and metadata (see ``hcq.metadata``).

    Compared and hashed by identity, so that an encoder may keep what it works out for one.
    """

    name: str
    entry: int                      # GPU address of the first instruction
    rsrc1: int                      # COMPUTE_PGM_RSRC1..3 of the kernel descriptor
    rsrc2: int
    rsrc3: int
    kernel_code_properties: int     # the descriptor's enable_sgpr_* bits and wave32
    kernarg_bytes: int
    group_bytes: int                # static LDS
    private_bytes: int              # scratch bytes a work-item
    wave_size: int
    descriptor: int = 0             # GPU address of the kernel descriptor, which AQL's launches name


@dataclass(eq=False)
class IndirectBuffer:
    """Packets outside of the ring that a submission leads the engine to (see ``_Encoder.indirect``)."""

    words: np.ndarray                                   # uint32, live
    counted: Any = field(default=None, repr=False)      # the backend's own


class HardwareQueue(Protocol):
    """One ring on one engine.

    A backend whose encoders have ``indirect`` also takes ``submit(words, indirect=[IndirectBuffer, ...])``: what the
    words lead to, for its records. Where its encoders have none, ``largest`` is how many words a submission may have so
    that it need not wait for itself.
    """

    name: str                       # "AM:0 compute 0"
    kind: QueueKind

    def submit(self, words: np.ndarray) -> None:
        """Copy uint32 packet words into the ring and ring the doorbell. Waits while the ring is full.

        :raises: the backend's own error when there is no room for too long. Its attribute ``partly`` is true where some
            of the words were taken, which then cannot be taken back: the device has failed until it is recovered.
        """


class _Encoder(Protocol):
    """Each method appends packet words (uint32) to ``words`` and returns nothing.

    A backend may also offer ``describe(words: Sequence[int]) -> list[str]``: lines of text, packets back to names; and
    ``indirect(words, address, count)``: go on with ``count`` words at ``address`` (a multiple of 64), then come back;
    ``write(words, address, data)``, ``poll(words, address, value, mask, compare)``, ``interrupt(words)`` and
    ``atomic(words, address, operation, operand, compare, loop)``; a copy encoder also ``window`` and ``tiled``. See the
    methods of ``hcq.queue`` that have these names.
    """

    def wait(self, words: list[int], address: int, value: int) -> None:
        """Stall the engine until the 64-bit word at ``address`` is >= ``value`` (unsigned)."""
    def signal(self, words: list[int], address: int, value: int, *, interrupt: bool = True) -> None:
        """Store ``value`` (64 bits) after all earlier work is complete and visible; then interrupt."""
    def timestamp(self, words: list[int], address: int) -> None:
        """Store the 64-bit device clock after all earlier work is complete."""


class ComputeEncoder(_Encoder, Protocol):
    """Appends the packets of a compute queue to ``words``; submits nothing."""

    def memory_barrier(self, words: list[int]) -> None:
        """Earlier kernels of this queue are complete, and earlier writes of anyone (code too) are visible to
        later kernels: caches written back and invalidated."""
    def exec(self, words: list[int], kernel: Kernel, kernarg: int, grid: Sequence[int], block: Sequence[int],
             *, dynamic_lds: int = 0, dispatch_packet: int = 0, queue_ptr: int = 0,
             dispatch_id: int | None = None) -> None:
        """Launch ``grid`` workgroups of ``block`` work-items (three of each); does not wait for earlier kernels.

        ``kernarg`` is the segment's GPU address. ``dispatch_packet`` is the address of the launch's HSA kernel
        dispatch packet, and ``queue_ptr`` of an ``amd_queue_t`` block, for kernels that ask for them
        (``hcq.program`` writes both); ``dispatch_id`` is given where the kernel asks for it. Scratch is there already:
        the core has called ``ensure_scratch`` for the kernel's waves.
        """


class CopyEncoder(_Encoder, Protocol):
    """Appends the packets of a copy queue to ``words``; submits nothing."""

    def copy(self, words: list[int], dst: int, src: int, nbytes: int) -> None:
        """Copy bytes between ranges that do not overlap; any size and alignment, split at packet limits."""
    def fill(self, words: list[int], dst: int, value: int, nbytes: int) -> None:
        """Fill with a 32-bit pattern; ``nbytes`` and ``dst`` are multiples of 4."""


class Backend(Protocol):
    """A driver. It may also offer:

    ``register(array: np.ndarray) -> Memory``: the array's own bytes, from the lowest to the highest, within every
    engine's reach until ``free``; ``diagnose() -> str``: what stands still, and at what;
    ``recover(queues: Sequence[HardwareQueue])``: reset what stands still, give up the work of ``queues``, and return
    what was done (``str`` of it is for people, its ``vram_lost`` says whether device memory lost its content);
    ``suspicious() -> bool``: may ``check`` find something? Asked at the end of every wait, so it costs next to nothing;
    ``fileno() -> int | None`` and ``poll()``: a descriptor that is readable when something may have happened, and what
    takes it without sleeping.
    ``add_queue(kind, priority: str) -> HardwareQueue | str``: one more, with an ``encoder`` of its own where it needs
    one, or why there is none; and in ``hcq.peer`` and ``hcq.profile`` what those ask. An ``encoder`` of kind "aql" is a
    :class:`ComputeEncoder` whose ``exec`` also takes ``dims`` and ``completion`` (the address of a signal that is
    counted down by one), with ``barrier(words, addresses, every)``: wait until all signals, or one of them, are 0.
    """

    @property
    def name(self) -> str:
        """As ``hcq.open`` takes it: "AM:0"."""
    @property
    def properties(self) -> Properties:
        """What the device is, as it does not change."""
    @property
    def compute(self) -> ComputeEncoder:
        """The encoder of compute packets."""
    @property
    def copy(self) -> CopyEncoder:
        """The encoder of copy packets."""

    def alloc(self, nbytes: int, *, host: bool = False) -> Memory:
        """VRAM, or system memory with a CPU view. Never zero bytes. Contents are undefined.

        :raises MemoryError: (a subclass) when there is no room; nothing is lost by it.
        """
    def free(self, memory: Memory) -> None:
        """Give memory back; engines are done with it."""
    def upload(self, address: int, data: np.ndarray) -> None:
        """Write bytes to device memory by the CPU or the copy engine; visible to later submissions."""
    def queues(self, kind: QueueKind) -> Sequence[HardwareQueue]:
        """Those that there are from the beginning, of kind "compute" and "copy"."""
    def ensure_scratch(self, bytes_per_wave: int) -> None:
        """Make each wave's scratch at least this large for later launches; idempotent and cheap when it is."""
    def sleep(self, timeout: float) -> None:
        """Return when something may have happened (an interrupt), or after ``timeout`` seconds."""
    def check(self) -> None:
        """Raise the device's pending fault or hang, if any; called by every wait that spins for long."""
    def close(self) -> None:
        """Stop the device and give it back. Idempotent."""
