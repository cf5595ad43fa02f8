"""The rules of strict memory: what silicon does not forgive, each one by the name that switches it off.

``AMDRV_MOCK="gfx1100:strict=-hdp,-tlb"`` and ``mock.Gpu(strict="-hdp,-tlb")`` switch rules off. A note in the board's
log names the rule that was broken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["RULES", "Rule", "relaxed"]


class Rule(NamedTuple):
    """What silicon does, where that is documented, and whether the mock holds to it unless told otherwise."""

    text: str
    source: str
    default: bool = True


RULES: Mapping[str, Rule] = MappingProxyType({
    "hdp": Rule(
        "What the CPU stored through BAR 0 reaches video memory at the HDP flush.",
        "Linux 6.1, hdp_v6_0.c, hdp_v6_0_flush_hdp; amdgpu_device.c, amdgpu_device_flush_hdp"),
    "wc": Rule(
        "What the CPU stored through BAR 0 leaves its write-combining buffers at the HAL's fence, in no order: an HDP "
        "flush that does not follow a fence at once finds only the last page of several. Drivers on the board's plain "
        "interface count as x86's, where the register write itself drains.",
        "Intel SDM volume 3, 12.3.1 (write combining: no order, held until a serializing event or an uncached access); "
        "Linux, Documentation/memory-barriers.txt (wmb before MMIO on other machines)"),
    "tlb": Rule(
        "TLBs of both hubs serve what they have until an invalidation engine is asked for the VMID and the range, with "
        "L1 and L2.",
        "Linux 6.1, gmc_v11_0.c, gmc_v11_0_flush_vm_hub; gfxhub_v3_0.c, gfxhub_v3_0_get_invalidate_req"),
    "gl2": Rule(
        "GL2 caches what is not MTYPE UC: the CPU and other cards see an engine's stores to video memory after GL2_WB, "
        "the engines see what the CPU or other cards stored there, or in cached system memory, after GL2_INV.",
        "Linux 6.1, amdgpu_ib.c, amdgpu_ib_schedule (emit_mem_sync), gfx_v11_0.c, gfx_v11_0_emit_mem_sync, "
        "gfx_v11_0_ring_emit_fence; amdgpu_amdkfd_gpuvm.c, get_pte_flags (UC for what must be coherent); Mesa 25.0, "
        "ac_shader_util.h (CP and SDMA are clients of the one GL2 before gfx12)"),
    "glv": Rule(
        "Vector loads go through GL0 and GL1, which keep what they have until GLV_INV and GL1_INV (or buffer_gl0_inv "
        "and buffer_gl1_inv); loads with glc, stores and atomics are GL2's.",
        "LLVM, User Guide for AMDGPU Backend, Memory Model GFX10-GFX11; Mesa 25.0, ac_shader_util.c, "
        "ac_get_hw_cache_flags (GFX11: GLC is device scope)"),
    "glk": Rule(
        "Scalar loads go through the scalar cache and GL1: GLK_INV and GL1_INV (or s_dcache_inv and s_gl1_inv).",
        "LLVM, User Guide for AMDGPU Backend, Memory Model GFX10-GFX11; Linux 6.1, gfx_v11_0.c, "
        "gfx_v11_0_emit_mem_sync"),
    "gli": Rule(
        "Code is fetched through the instruction cache: GLI_INV (or s_icache_inv).",
        "Linux 6.1, gfx_v11_0.c, gfx_v11_0_emit_mem_sync; Mesa 25.0, radv_cs.c, gfx10_cs_emit_cache_flush"),
    "gl1": Rule(
        "Within one launch, each workgroup processor has a GL0, a scalar cache and a GL1 of its own: what a workgroup "
        "loaded it keeps while others store, until buffer_gl0_inv and buffer_gl1_inv (or s_dcache_inv and s_gl1_inv), "
        "or a load with glc. Off unless asked for (`strict=+gl1`): every launch is native code then.",
        "LLVM, User Guide for AMDGPU Backend, Memory Model GFX10-GFX11", default=False),
    "overlap": Rule(
        "Launches of a queue overlap until CS_PARTIAL_FLUSH or an end-of-pipe event waits for them: cache operations "
        "before that do not cover what they load and store.",
        "Mesa 25.0, radv_cs.c, gfx10_cs_emit_cache_flush; Linux 6.1, nvd.h, PACKET3_EVENT_WRITE"),
    "poison": Rule(
        "Video memory that nobody wrote holds poison: odd words that look like page-table entries, and are NaN.",
        "Linux 6.1, amdgpu_object.c (only AMDGPU_GEM_CREATE_VRAM_CLEARED clears)"),
    "gfxoff": Rule(
        "GC's registers have no power while GFXOFF is allowed and nothing runs.",
        "Linux 6.1, amdgpu_gfx.c, amdgpu_gfx_off_ctrl"),
})


def relaxed(text: str) -> frozenset[str]:
    """The rules that are off with ``"-hdp,-tlb"`` (or ``"-hdp-tlb"``); ``"+gl1"`` switches one on that is off by
    itself. :raises ValueError:"""
    if text and not re.fullmatch(r"[-+]\w+(,?[-+]\w+)*", text):
        raise ValueError(f"strict={text!r}: must name rules to switch off, each with a minus (-hdp,-poison), or on, "
                         "with a plus (+gl1)")
    off = {name for name, rule in RULES.items() if not rule.default}
    for sign, name in re.findall(r"([-+])(\w+)", text):
        if name not in RULES:
            raise ValueError(f"strict={text!r}: no rule {name!r}; there are {', '.join(RULES)}")
        (off.add if sign == "-" else off.discard)(name)
    return frozenset(off)
