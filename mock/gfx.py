"""GC around the micro engines: status, RLC, shader arrays, memory apertures, soft reset.

Facts: Linux 6.1, gfx_v11_0.c (wait_for_rlc_autoload_complete, get_cu_info, init_compute_vmid, set_safe_mode,
soft_reset); registers and reset values of gc_11_0_0.

Not modelled is the graphics pipe: CP_ME_CNTL, CP_PFP_PRGRM_CNTR_START, CP_ME_PRGRM_CNTR_START, CP_RB_*, CP_MAX_CONTEXT,
CP_DEVICE_ID, DB_RING_CONTROL and the clear-state buffer (RLC_CSIB_*, RLC_SRM_CNTL) are storage. So are TCP_CNTL,
GRBM_CNTL (the read timeout), the clock gates (RLC_CGTT_MGCG_OVERRIDE, RLC_CGCG_CGLS_CTRL and their like), GDS_VMID*
(compute code of LLVM has no use of GDS by itself) and SPI_GDBG_PER_VMID_CNTL (traps need a handler, which nobody
installs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from mock.block import Block, on_read, on_write

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Gfx", "ShaderMemory", "ALIGN_UNALIGNED"]

WGP_BITS = 16               # width of INACTIVE_WGPS
CUS_PER_WGP = 2
RESERVED_CUS = 16           # SPI_RESOURCE_RESERVE_CU_0..15, of a shader array
RESERVE = tuple(f"SPI_RESOURCE_RESERVE_{name}CU_{n}" for name in ("", "EN_") for n in range(RESERVED_CUS))
COMPUTE_TYPE, ALL_WAVES = 3, 7
"""Bit of TYPE_MASK for compute waves and the value of WAVES that keeps them all: ours, no public source says them."""
APERTURE_SHIFT = 48         # SH_MEM_BASES holds address bits 63:48
TRAP_SHIFT = 8              # SQ_SHADER_TBA and TMA hold address bits 47:8
ALIGN_UNALIGNED = 3         # SH_MEM_ALIGNMENT_MODE_UNALIGNED (Linux 6.1, navi10_enum.h)
ADDRESS_32 = 1              # SH_MEM_ADDRESS_MODE_32


class ShaderMemory(NamedTuple):
    """SH_MEM_CONFIG and SH_MEM_BASES of a VMID."""

    alignment: int
    address_mode: int
    private_base: int       # 64-bit addresses
    shared_base: int


class Gfx(Block):
    ip = "GC"
    banked: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({
        "vmid": ("SH_MEM_CONFIG", "SH_MEM_BASES", "SPI_GDBG_PER_VMID_CNTL", "SQ_SHADER_TBA_LO", "SQ_SHADER_TBA_HI",
                 "SQ_SHADER_TMA_LO", "SQ_SHADER_TMA_HI"),
        "sa": ("CC_GC_SHADER_ARRAY_CONFIG", "GC_USER_SHADER_ARRAY_CONFIG",
               *RESERVE)})
    reset_values: ClassVar[Mapping[str, int]] = MappingProxyType({      # gc_11_0_0_default.h
        "SH_MEM_CONFIG": 0x0000C000, "RLC_CNTL": 0x00000001, "RLC_CP_SCHEDULERS": 0x00003038,
        "GB_ADDR_CONFIG": 0x00000545, "CP_ME_CNTL": 0x15000000})

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._captured = 0
        self._usable: dict[tuple[int, int, int], int] = {}
        self.on_cache: list[Callable[[str, int, int], None]] = []
        """Called with (engine, VMID, GCR_CNTL) for every cache operation that a packet asks for."""

    # ---- status

    @property
    def _psp_done(self) -> bool:
        return bool(self.board.psp.autoload_done)

    @on_read("RLC_RLCS_BOOTLOAD_STATUS")
    def bootload_status(self) -> int:
        register = self.board.regs.register("RLC_RLCS_BOOTLOAD_STATUS")
        if not self._psp_done:
            return 0
        return register.pack(GFX_INIT_DONE=1, RLC_GPM_IRAM_LOADED=1, RLC_GPM_IRAM_DONE=1, BOOTLOAD_COMPLETE=1)

    @on_read("CP_STAT")
    def cp_stat(self) -> int:
        return self.board.regs.register("CP_STAT").pack(CP_BUSY=1) if self.board.mec.busy else 0

    @on_read("GRBM_STATUS")
    def grbm_status(self) -> int:
        register = self.board.regs.register("GRBM_STATUS")
        if not self.board.mec.busy:
            return 0
        return register.pack(GUI_ACTIVE=1, CP_BUSY=1, SPI_BUSY=int(self.board.mec.dispatching),
                             ANY_ACTIVE=int(self.board.mec.dispatching))

    @on_read("GRBM_STATUS2")
    def grbm_status2(self) -> int:
        register = self.board.regs.register("GRBM_STATUS2")
        busy = int(self.board.mec.busy)
        return register.pack(CPC_BUSY=busy, CPF_BUSY=busy, SDMA_BUSY=int(self.board.sdma.busy))

    # ---- RLC

    @on_write("RLC_SAFE_MODE")
    def safe_mode(self, value: int) -> None:
        """CMD goes back to 0 when RLC has answered; a stopped RLC never does."""
        register = self.board.regs.register("RLC_SAFE_MODE")
        if register["CMD"].get(value) and self._psp_done and self.board.regs.field("RLC_CNTL", "RLC_ENABLE_F32"):
            self.board.regs["RLC_SAFE_MODE"] = register.replace(value, CMD=0)

    @on_write("RLC_CAPTURE_GPU_CLOCK_COUNT")
    def capture_clock(self, value: int) -> None:
        self._captured = self.board.clock()

    @on_read("RLC_GPU_CLOCK_COUNT_LSB")
    def clock_low(self) -> int:
        return self._captured & 0xFFFFFFFF

    @on_read("RLC_GPU_CLOCK_COUNT_MSB")
    def clock_high(self) -> int:
        return self._captured >> 32

    # ---- shader arrays

    @on_read("CC_GC_SHADER_ARRAY_CONFIG")
    def fused_off(self, name: str, bank: tuple[int, int]) -> int:
        """Fuses: workgroup processors that are broken, and those that this architecture does not have."""
        return self.board.regs.register(name).pack(INACTIVE_WGPS=self._fused(*bank))

    def _fused(self, se: int, sa: int) -> int:
        arch = self.board.arch
        everything = (1 << WGP_BITS) - 1
        if se >= arch.shader_engines or sa >= arch.arrays_per_engine:
            return everything
        there = (1 << arch.wgps_per_array) - 1
        return everything & ~there | self.board.gpu.harvested_wgps(se, sa)

    @on_read("CC_GC_SA_UNIT_DISABLE")
    def arrays_off(self) -> int:
        """An array without a workgroup processor is off as a whole."""
        arch = self.board.arch
        everything = (1 << WGP_BITS) - 1
        mask = 0
        for se in range(arch.shader_engines):
            for sa in range(arch.arrays_per_engine):
                if self._fused(se, sa) == everything:
                    mask |= 1 << se * arch.arrays_per_engine + sa
        return self.board.regs.register("CC_GC_SA_UNIT_DISABLE").pack(SA_DISABLE=mask)

    def enabled_cus(self, se: int, sa: int) -> int:
        """Mask of the compute units that a driver may use: neither fused off nor switched off."""
        user = self.board.regs.field(("GC_USER_SHADER_ARRAY_CONFIG", (se, sa)), "INACTIVE_WGPS")
        wgps = ~(self._fused(se, sa) | user) & (1 << WGP_BITS) - 1
        cus = 0
        for wgp in range(WGP_BITS):
            if wgps >> wgp & 1:
                cus |= (1 << CUS_PER_WGP) - 1 << CUS_PER_WGP * wgp
        return cus

    def usable_cus(self, se: int, sa: int, queue: int) -> int:
        """:meth:`enabled_cus` without those that are reserved for others: SPI_RESOURCE_RESERVE_EN_CU_n is on, takes
        compute waves (TYPE_MASK), leaves this queue out (QUEUE_MASK), and SPI_RESOURCE_RESERVE_CU_n keeps all waves."""
        known = self._usable.get((se, sa, queue))
        if known is None:
            known = self.enabled_cus(se, sa)
            for cu, queues in self._reservations(se, sa):
                if not queues >> queue & 1:
                    known &= ~(1 << cu)
            self._usable[se, sa, queue] = known
        return known

    @on_write("GC_USER_SHADER_ARRAY_CONFIG", *RESERVE)
    def units_changed(self, _value: int) -> None:
        self._usable.clear()

    def _reservations(self, se: int, sa: int) -> list[tuple[int, int]]:
        """[(compute unit, mask of the queues that may still use it)]"""
        regs, found = self.board.regs, []
        enable, kept = regs.register("SPI_RESOURCE_RESERVE_EN_CU_0"), regs.register("SPI_RESOURCE_RESERVE_CU_0")
        for cu in range(RESERVED_CUS):
            value = regs[f"SPI_RESOURCE_RESERVE_EN_CU_{cu}", (se, sa)]
            if value & 1 and enable["TYPE_MASK"].get(value) >> COMPUTE_TYPE & 1 \
                    and kept["WAVES"].get(regs[f"SPI_RESOURCE_RESERVE_CU_{cu}", (se, sa)]) == ALL_WAVES:
                found.append((cu, enable["QUEUE_MASK"].get(value)))
        return found

    # ---- memory of shaders

    def shader_memory(self, vmid: int) -> ShaderMemory:
        regs = self.board.regs
        config, bases = regs.register("SH_MEM_CONFIG"), regs.register("SH_MEM_BASES")
        cv, bv = regs["SH_MEM_CONFIG", vmid], regs["SH_MEM_BASES", vmid]
        return ShaderMemory(config["ALIGNMENT_MODE"].get(cv), config["ADDRESS_MODE"].get(cv),
                            bases["PRIVATE_BASE"].get(bv) << APERTURE_SHIFT,
                            bases["SHARED_BASE"].get(bv) << APERTURE_SHIFT)

    def trap_handler(self, vmid: int) -> tuple[int, int]:
        """(address of the code, address of its memory) of a VMID's trap handler, 0 where there is none (Linux 6.1,
        amdgpu_amdkfd_gfx_v11.c, program_trap_handler_settings_v11)."""
        regs = self.board.regs
        high = regs.register("SQ_SHADER_TBA_HI")
        if not high["TRAP_EN"].get(regs["SQ_SHADER_TBA_HI", vmid]):
            return 0, 0
        tba = regs["SQ_SHADER_TBA_LO", vmid] | high["ADDR_HI"].get(regs["SQ_SHADER_TBA_HI", vmid]) << 32
        tma = regs["SQ_SHADER_TMA_LO", vmid] | high["ADDR_HI"].get(regs["SQ_SHADER_TMA_HI", vmid]) << 32
        return tba << TRAP_SHIFT, tma << TRAP_SHIFT

    def cache_operation(self, engine: str, vmid: int, control: int, base: int = 0, size: int = 0) -> None:
        """A packet asked for caches to be written back or invalidated; ``control`` is GCR_CNTL, ``base`` and ``size``
        (bytes) are of operations that are confined to a range."""
        self.board.counters["cache_operations"] += 1
        self.board.memory.coherence.operate(control, vmid, base, size)
        for function in self.on_cache:
            function(engine, vmid, control)

    # ---- soft reset

    @on_write("GRBM_SOFT_RESET")
    def soft_reset(self, value: int) -> None:
        bits = self.board.regs.register("GRBM_SOFT_RESET").unpack(value)
        if bits["SOFT_RESET_CP"] or bits["SOFT_RESET_CPC"] or bits["SOFT_RESET_GFX"]:
            self.board.mec.soft_reset()
        for engine in (0, 1):
            if bits[f"SOFT_RESET_SDMA{engine}"]:
                self.board.sdma.soft_reset(engine)
        if bits["SOFT_RESET_UTCL2"]:
            self.board.memory.hubs["gc"].reset()

    @on_write("CP_VMID_RESET")
    def vmid_reset(self, value: int) -> None:
        """Waves of the VMIDs die, and with them the graphics queues that are named; the request reads 0 when they
        have (Linux 7.3, mes_v11_0.c, mes_v11_0_reset_queue_mmio)."""
        register = self.board.regs.register("CP_VMID_RESET")
        vmids = register["RESET_REQUEST"].get(value)
        self.board.mec.reset_vmids(vmids)
        self.board.gfxring.reset_queues([register[f"PIPE{pipe}_QUEUES"].get(value) for pipe in (0, 1)])
        self.board.regs["CP_VMID_RESET"] = register.replace(value, RESET_REQUEST=0, PIPE0_QUEUES=0, PIPE1_QUEUES=0)

    def reset(self) -> None:
        self._captured = 0
        self._usable.clear()
