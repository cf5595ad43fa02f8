"""The files below /sys that describe the simulated kernel's cards (Linux 7.3, kfd_topology.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amdrv.facts import navi31

if TYPE_CHECKING:
    from amdrv.kfd.simulated.gpu import Gpu

__all__ = ["RENDER_MINOR", "files"]

TOPOLOGY = "/sys/class/kfd/kfd/topology"
RENDER_MINOR = 128                  # drm_drv.c: the first render node
HEAP_SYSTEM, HEAP_PUBLIC = 0, 1
LINK_PCIE = 2
# A CU of gfx11 (kfd_crat.c, kfd_topology.c): what the kernel tells of every such card
SIMD_PER_CU, WAVES_PER_SIMD, LDS_KILOBYTES, SCRATCH_SLOTS = 2, 16, 64, 32
VGPR_BYTES, SGPR_BYTES, LDS_BYTES, HWREG_BYTES = 0x60000, 0x4000, 0x10000, 0x1000     # kfd_queue.c, gfx 11.0.0
SAVE_HEADER, STACK_BYTES_PER_WAVE, WAVES_PER_CU, PAGE = 40, 12, 32, 4096
CACHES = ((1, 32, 128, 9), (1, 16, 64, 9), (1, 32, 64, 10), (2, 6144, 128, 9), (3, 98304, 64, 9))


def _lines(values: dict[str, int]) -> str:
    return "".join(f"{name} {value}\n" for name, value in values.items())


def sizes(units: int) -> tuple[int, int]:
    """cwsr_size and ctl_stack_size (kfd_queue_ctx_save_restore_size)."""
    stack = -(-(SAVE_HEADER + units * WAVES_PER_CU * STACK_BYTES_PER_WAVE + 8) // PAGE) * PAGE
    waves = -(-units * (VGPR_BYTES + SGPR_BYTES + LDS_BYTES + HWREG_BYTES) // PAGE) * PAGE
    return -(-(stack + waves) // PAGE) * PAGE, stack


def files(gpus: list[Gpu], memory_bytes: int) -> dict[str, str]:
    """{path: content}"""
    links = [{"type": LINK_PCIE, "version_major": 0, "version_minor": 0, "node_from": 0, "node_to": 1 + number,
              "weight": 20, "min_latency": 0, "max_latency": 0, "min_bandwidth": 0, "max_bandwidth": 0,
              "recommended_transfer_size": 0, "recommended_sdma_engine_id_mask": 0, "flags": 1}
             for number in range(len(gpus))]
    found = {f"{TOPOLOGY}/generation_id": "2\n", f"{TOPOLOGY}/system_properties": "platform_oem 0\nplatform_id 0\n"}
    cpu = {"cpu_cores_count": 1, "simd_count": 0, "mem_banks_count": 1, "caches_count": 0,
           "io_links_count": len(links)}
    _node(found, 0, 0, "", cpu, {"heap_type": HEAP_SYSTEM, "size_in_bytes": memory_bytes, "flags": 0, "width": 64,
                                 "mem_clk_max": 0}, (), links)
    for number, gpu in enumerate(gpus):
        _card(found, 1 + number, gpu, links[number])
    return found


def _card(found: dict[str, str], number: int, gpu: Gpu, link: dict[str, int]) -> None:
    device = gpu.device
    units, engines = device.compute_units, device.discovery.gc
    saved, stack = sizes(units)
    bus, slot, function = (int(part, 16) for part in device.function.address[5:].replace(".", ":").split(":"))
    properties = {
        "cpu_cores_count": 0, "simd_count": units * SIMD_PER_CU, "mem_banks_count": 1, "caches_count": len(CACHES),
        "io_links_count": 1, "p2p_links_count": 0, "cpu_core_id_base": 0, "simd_id_base": 0x8000_1000,
        "max_waves_per_simd": WAVES_PER_SIMD, "lds_size_in_kb": LDS_KILOBYTES, "gds_size_in_kb": 0, "num_gws": 64,
        "wave_front_size": 32, "array_count": engines.shader_engines * engines.arrays_per_engine,
        "simd_arrays_per_engine": engines.arrays_per_engine, "cu_per_simd_array": 2 * engines.wgps_per_array,
        "simd_per_cu": SIMD_PER_CU, "max_slots_scratch_cu": SCRATCH_SLOTS, "gfx_target_version": gpu.target,
        "vendor_id": device.function.vendor, "device_id": device.function.device,
        "location_id": bus << 8 | slot << 3 | function, "domain": int(device.function.address[:4], 16),
        "drm_render_minor": RENDER_MINOR + number - 1, "hive_id": 0, "num_sdma_engines": len(device.sdma_rings),
        "num_sdma_xgmi_engines": 0, "num_sdma_queues_per_engine": gpu.copy_queues, "num_cp_queues": gpu.compute_queues,
        "cwsr_size": saved, "ctl_stack_size": stack, "max_engine_clk_fcompute": 2482, "local_mem_size": 0,
        "fw_version": 550, "capability": 671588992, "debug_prop": 1495, "sdma_fw_version": 21,
        "unique_id": navi31.DEVICE_ID << 32 | number, "num_xcc": 1, "max_engine_clk_ccompute": 4000}
    bank = {"heap_type": HEAP_PUBLIC, "size_in_bytes": device.vram_size, "flags": 0, "width": 384, "mem_clk_max": 1249}
    back = link | {"node_from": number, "node_to": 0}
    _node(found, number, gpu.gpu_id, "ip discovery", properties, bank, CACHES, [back])


def _node(found: dict[str, str], number: int, gpu_id: int, name: str, properties: dict[str, int],
          bank: dict[str, int], caches: tuple[tuple[int, int, int, int], ...], links: list[dict[str, int]]) -> None:
    folder = f"{TOPOLOGY}/nodes/{number}"
    found |= {f"{folder}/gpu_id": f"{gpu_id}\n", f"{folder}/name": f"{name}\n",
              f"{folder}/properties": _lines(properties), f"{folder}/mem_banks/0/properties": _lines(bank)}
    for index, (level, kilobytes, line, kind) in enumerate(caches):
        found[f"{folder}/caches/{index}/properties"] = _lines(
            {"processor_id_low": 0x8000_1000, "level": level, "size": kilobytes, "cache_line_size": line,
             "cache_lines_per_tag": 1, "association": 16, "latency": 0, "type": kind}) + "sibling_map 1,0,0,0\n"
    for index, link in enumerate(links):
        found[f"{folder}/io_links/{index}/properties"] = _lines(link)
