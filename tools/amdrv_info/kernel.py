"""A card that the kernel's amdgpu drives, as far as sysfs and debugfs tell.

Every file is optional: kernels differ, debugfs is root's, and what is not there is null. Sources: Linux 6.1
Documentation/gpu/amdgpu/{driver-misc,thermal}.rst, Documentation/ABI/testing/sysfs-bus-pci (AER, NUMA),
drivers/gpu/drm/amd/include/kgd_pp_interface.h (gpu_metrics_v1_3), amdgpu_smu.h (SMU_THROTTLER_*), amdgpu_ring.c,
amdgpu_debugfs_ring_read, amdgpu_kms.c, amdgpu_debugfs_firmware_info_show. Registers and memory by debugfs:
:mod:`amdrv.hal.debugfs`.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amdrv.hal.debugfs import AmdgpuFiles
from tools.amdrv_info import sensors
from tools.amdrv_info.doctor import Host

__all__ = ["GpuMetrics", "debugfs", "fdinfo", "gpu", "process_name", "rings", "sensors_of", "surroundings",
           "wave_reader"]

HWMON_CLOCKS = {"freq1": "gfx", "freq2": "memory"}
DPM_CLOCKS = {"pp_dpm_sclk": "gfx", "pp_dpm_mclk": "memory", "pp_dpm_socclk": "soc", "pp_dpm_fclk": "fabric",
              "pp_dpm_vclk": "video", "pp_dpm_dclk": "decode"}
THROTTLERS = {
    **{number: f"power limit {number}" for number in range(4)}, 4: "SPL", 5: "fast power limit", 6: "slow power limit",
    7: "slow power limit of the APU", 16: "current of graphics (TDC)", 17: "current of the SoC (TDC)",
    18: "current of memory (TDC)", 19: "current of VDD (TDC)", 20: "current of CVIP (TDC)", 21: "EDC of the CPU",
    22: "EDC of graphics", 23: "APCC", 32: "GPU temperature", 33: "core temperature", 34: "memory temperature",
    35: "edge temperature", 36: "hotspot temperature", 37: "SoC temperature",
    38: "temperature of the graphics regulator", 39: "temperature of the SoC regulator",
    40: "temperature of memory regulator 0", 41: "temperature of memory regulator 1", 42: "liquid temperature 0",
    43: "liquid temperature 1", 44: "VRHOT 0", 45: "VRHOT 1", 46: "PROCHOT of the CPU", 47: "PROCHOT of graphics",
    56: "PPM", 57: "infrastructure limit (FIT)"}
PIECE = 1 << 16         # bytes of a file at a time
ABSENT = 0xFFFF         # what amdgpu fills in for a number that the card does not tell


_METRICS_CLOCKS = ("gfxclk", "socclk", "uclk", "vclk0", "dclk0", "vclk1", "dclk1")
_u16 = ctypes.c_uint16


def _u16s(names: str) -> list[Any]:
    return [(name, _u16) for name in names.split()]


class GpuMetrics(ctypes.Structure):
    """gpu_metrics_v1_3: discrete cards since SMU 11. Later minor versions (1.x) only append."""

    _fields_ = (
        [("structure_size", _u16), ("format_revision", ctypes.c_uint8), ("content_revision", ctypes.c_uint8)]
        + _u16s("temperature_edge temperature_hotspot temperature_mem temperature_vrgfx temperature_vrsoc "
                "temperature_vrmem average_gfx_activity average_umc_activity average_mm_activity average_socket_power")
        + [("energy_accumulator", ctypes.c_uint64), ("system_clock_counter", ctypes.c_uint64)]
        + _u16s(" ".join(f"average_{name}_frequency" for name in _METRICS_CLOCKS))
        + _u16s(" ".join(f"current_{name}" for name in _METRICS_CLOCKS))
        + [("throttle_status", ctypes.c_uint32)]
        + _u16s("current_fan_speed pcie_link_width pcie_link_speed padding")
        + [("gfx_activity_acc", ctypes.c_uint32), ("mem_activity_acc", ctypes.c_uint32),
           ("temperature_hbm", ctypes.c_uint16 * 4), ("firmware_timestamp", ctypes.c_uint64)]
        + _u16s("voltage_soc voltage_gfx voltage_mem padding1") + [("indep_throttle_status", ctypes.c_uint64)])


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except (OSError, ValueError):
        return None


def _number(path: Path, scale: float = 1) -> float | int | None:
    text = _text(path)
    try:
        value = int(text.split()[0], 0) if text else None
    except ValueError:
        return None
    return None if value is None else value if scale == 1 else round(value / scale, 3)


# ---- around the card, whoever drives it

def surroundings(host: Host, address: str) -> dict[str, Any] | None:
    """NUMA node, IOMMU group and its members, AER counters, power state, the slot's best link; None where this machine
    has no such function in sysfs (the mock's cards)."""
    device = host.device(address)
    if not (device / "vendor").exists():
        return None
    numa = _number(device / "numa_node")
    return {"numa_node": None if numa is None or numa < 0 else numa, "iommu": _group(host, device),
            "aer": {kind: found for kind in ("correctable", "nonfatal", "fatal")
                    if (found := _aer(device / f"aer_dev_{kind}")) is not None},
            "power_state": _text(device / "power_state"), "runtime_status": _text(device / "power/runtime_status"),
            "local_cpus": _text(device / "local_cpulist"),
            "reset_methods": (_text(device / "reset_method") or "").split(),
            "slot": _slot(device), "bar_sizes_possible": _resizes(device)}


def _group(host: Host, device: Path) -> dict[str, Any] | None:
    link = device / "iommu_group"
    if not link.exists():
        return None
    number = link.resolve().name
    folder = host.path(f"/sys/kernel/iommu_groups/{number}/devices")
    members = []
    for member in sorted(folder.iterdir()) if folder.is_dir() else []:
        there = host.device(member.name)
        driver = there / "driver"
        members.append({"address": member.name, "class": _number(there / "class"),
                        "driver": driver.resolve().name if driver.exists() else None})
    return {"group": int(number) if number.isdigit() else None, "kind": _text(link.resolve() / "type"),
            "members": members}


def _aer(path: Path) -> dict[str, int] | None:
    """Counters that are not zero, and the total (sysfs-bus-pci-devices-aer_stats)."""
    text = _text(path)
    if text is None:
        return None
    found = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if value.isdigit() and (int(value) or name.startswith("TOTAL")):
            found["total" if name.startswith("TOTAL") else name] = int(value)
    return found


def _slot(device: Path) -> dict[str, Any] | None:
    """The port above: what the slot can do at best."""
    port = device.resolve().parent
    speed, width = _text(port / "max_link_speed"), _number(port / "max_link_width")
    if speed is None:
        return None
    found = re.match(r"[\d.]+", speed)
    return {"address": port.name, "max_speed": float(found[0]) if found else None, "max_width": width}


def _resizes(device: Path) -> dict[str, list[int]]:
    """{BAR: sizes in bytes} that resourceN_resize offers: a mask of MiB powers."""
    found = {}
    for path in sorted(device.glob("resource*_resize")):
        text = _text(path)
        try:
            mask = int(text or "", 16)
        except ValueError:
            continue
        found[re.sub(r"\D", "", path.name)] = [1 << 20 + bit for bit in range(44) if mask >> bit & 1]
    return found


# ---- what amdgpu tells

def debugfs(host: Host, address: str) -> Path | None:
    """amdgpu's folder in debugfs; None where it has not the card, or this process may not look there."""
    device = host.device(address)
    driver = device / "driver"
    if not driver.exists() or driver.resolve().name != "amdgpu":
        return None
    return _debugfs(host, device)


def _debugfs(host: Host, device: Path) -> Path | None:
    root = host.path("/sys/kernel/debug/dri")
    for card in sorted((device / "drm").glob("card*")) if (device / "drm").is_dir() else []:
        folder = root / card.name.removeprefix("card")
        if folder.is_dir():
            return folder
    folder = root / device.name
    return folder if folder.is_dir() else None


def sensors_of(host: Host, address: str) -> dict[str, Any]:
    """hwmon, gpu_metrics, busy percentages and pp_dpm_*, as :mod:`tools.amdrv_info.sensors` shapes them."""
    device = host.device(address)
    said = sensors.empty("sysfs of amdgpu")
    for hwmon in sorted((device / "hwmon").glob("hwmon*")) if (device / "hwmon").is_dir() else []:
        for path in sorted(hwmon.glob("temp*_input")):
            label = _text(path.with_name(path.name.replace("_input", "_label"))) or path.name.removesuffix("_input")
            said["temperatures"]["hotspot" if label == "junction" else label] = _number(path, 1000)
        said["fan"]["rpm"] = _number(hwmon / "fan1_input")
        pwm, full = _number(hwmon / "pwm1"), _number(hwmon / "pwm1_max") or 255
        said["fan"]["percent"] = None if pwm is None else round(100 * pwm / full)
        average = _number(hwmon / "power1_average", 1e6)
        said["power"]["socket_watts"] = average if average is not None else _number(hwmon / "power1_input", 1e6)
        said["power"]["limit_watts"] = _number(hwmon / "power1_cap", 1e6)
        for name, clock in HWMON_CLOCKS.items():
            if (value := _number(hwmon / f"{name}_input", 1e6)) is not None:
                said["clocks_mhz"][clock] = value
        for path in sorted(hwmon.glob("in*_input")):
            label = _text(path.with_name(path.name.replace("_input", "_label"))) or path.name.removesuffix("_input")
            said["voltages_mv"][label] = _number(path)
    for name, clock in DPM_CLOCKS.items():
        if clock not in said["clocks_mhz"] and (level := re.search(r"(\d+)Mhz \*", _text(device / name) or "")):
            said["clocks_mhz"][clock] = int(level[1])
    said["usage_percent"]["gfx"] = _number(device / "gpu_busy_percent")
    said["usage_percent"]["memory"] = _number(device / "mem_busy_percent")
    _metrics(device / "gpu_metrics", said)
    if pm := _pm(_debugfs(host, device)):
        _fill(said, pm)
    return said


def _fill(said: dict[str, Any], pm: dict[str, Any]) -> None:
    """What sysfs did not tell, of amdgpu_pm_info."""
    for name, clock in (("SCLK", "gfx"), ("MCLK", "memory")):
        if name in pm["clocks_mhz"]:
            said["clocks_mhz"].setdefault(clock, pm["clocks_mhz"][name])
    if pm["temperature"] is not None:
        said["temperatures"].setdefault("edge", pm["temperature"])
    for name, value in pm["voltages_mv"].items():
        said["voltages_mv"].setdefault(name.lower(), value)
    if said["power"]["socket_watts"] is None:
        said["power"]["socket_watts"] = pm["watts"]
    for name, unit in (("gpu", "gfx"), ("mem", "memory"), ("vcn", "video")):
        if said["usage_percent"][unit] is None:
            said["usage_percent"][unit] = pm["load_percent"].get(name)


def _metrics(path: Path, said: dict[str, Any]) -> None:
    """Throttling, and what the other files did not tell, of gpu_metrics 1.3 and later 1.x."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    if len(data) < ctypes.sizeof(GpuMetrics) or data[2] != 1 or data[3] < 3:
        return
    table = GpuMetrics.from_buffer_copy(data)
    for name, value in (("edge", table.temperature_edge), ("hotspot", table.temperature_hotspot),
                        ("mem", table.temperature_mem), ("vr_gfx", table.temperature_vrgfx),
                        ("vr_soc", table.temperature_vrsoc)):
        if value not in (0, ABSENT):
            said["temperatures"].setdefault(name, value)
    for name, value in (("gfx", table.current_gfxclk), ("memory", table.current_uclk), ("soc", table.current_socclk)):
        if value != ABSENT:
            said["clocks_mhz"].setdefault(name, value)
    if said["usage_percent"]["video"] is None and table.average_mm_activity != ABSENT:
        said["usage_percent"]["video"] = table.average_mm_activity
    if table.indep_throttle_status != 0xFFFF_FFFF_FFFF_FFFF:
        said["throttling"] = [{"reason": THROTTLERS.get(bit, f"bit {bit}"), "percent": None}
                              for bit in range(64) if table.indep_throttle_status >> bit & 1]


def gpu(host: Host, address: str) -> dict[str, Any] | None:
    """IP blocks, firmware that is loaded, memory: what amdgpu knows of its card; None where it drives none there."""
    device = host.device(address)
    driver = device / "driver"
    if not driver.exists() or driver.resolve().name != "amdgpu":
        return None
    folder = _debugfs(host, device)
    return {
        "product_name": _text(device / "product_name") or None, "vbios_version": _text(device / "vbios_version"),
        "memory": {name: _number(device / f"mem_info_{name}") for name in (
            "vram_total", "vram_used", "vis_vram_total", "vis_vram_used", "gtt_total", "gtt_used")},
        "vram_vendor": _text(device / "mem_info_vram_vendor"), "blocks": _blocks(device / "ip_discovery/die"),
        "firmware_loaded": _loaded(device / "fw_version", folder),
        "pm": _pm(folder),
        "performance_level": _text(device / "power_dpm_force_performance_level"),
        "debugfs": folder is not None}


def _blocks(root: Path) -> list[dict[str, Any]]:
    """The discovery table by name (amdgpu_discovery.c, the ip_discovery directory)."""
    found = []
    for die in sorted(root.iterdir()) if root.is_dir() else []:
        for name in sorted(p for p in die.iterdir() if not p.name.isdigit() and p.name != "num_ips"):
            for instance in sorted(name.iterdir()) if name.is_dir() else []:
                parts = [_number(instance / part) for part in ("major", "minor", "revision")]
                if None in parts:
                    continue
                bases = [int(word, 16) for word in (_text(instance / "base_addr") or "").split()]
                found.append({"name": name.name, "instance": int(instance.name) if instance.name.isdigit() else 0,
                              "version": ".".join(str(part) for part in parts), "bases": bases,
                              "harvested": bool(_number(instance / "harvest")), "registers": None})
    return found


def _loaded(folder: Path, debug: Path | None) -> dict[str, int]:
    """{engine: version} of the firmware that runs: of sysfs, and what debugfs's amdgpu_firmware_info has beyond."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*_fw_version")) if folder.is_dir() else []:
        value = _number(path)
        if value:
            found[path.name.removesuffix("_fw_version")] = int(value)
    text = _text(debug / "amdgpu_firmware_info") if debug is not None else None
    for name, version in re.findall(r"^(.+?) feature version: .*firmware version: 0x([0-9a-f]+)", text or "", re.M):
        engine = name.lower().replace(" ", "_")
        engine = {"sdma0": "sdma", "sdma1": "sdma2"}.get(engine, engine)        # as sysfs has them
        if int(version, 16):
            found.setdefault(engine, int(version, 16))
    return found


def _pm(folder: Path | None) -> dict[str, Any] | None:
    """debugfs's amdgpu_pm_info (amdgpu_pm.c, amdgpu_debugfs_pm_info_pp, amdgpu_parse_cg_state); None: not readable, or
    the graphics core may have no power: amdgpu reads the core's registers for it all the same (gfx_v11_0.c,
    gfx_v11_0_get_clockgating_state), and we shall not make it."""
    if folder is None or AmdgpuFiles.may_sleep(folder):
        return None
    text = _text(folder / "amdgpu_pm_info")
    if not text:
        return None

    def number(pattern: str, scale: Callable[[str], float] = int) -> float | None:
        seen = re.search(pattern, text, re.M)
        return scale(seen[1]) if seen else None

    gating = text.partition("Clock Gating Flags Mask")[2]
    return {
        "clocks_mhz": {name: int(value) for value, name in re.findall(r"^\t(\d+) MHz \((\w+)\)", text, re.M)},
        "voltages_mv": {name: int(value) for value, name in re.findall(r"^\t(\d+) mV \((\w+)\)", text, re.M)},
        "watts": number(r"^\t(\d+\.\d+) W", float), "temperature": number(r"^GPU Temperature: (\d+) C"),
        "load_percent": {name.lower(): int(value) for name, value in re.findall(r"^(\w+) Load: (\d+) %", text, re.M)},
        "smc_features": number(r"^SMC Feature Mask: 0x([0-9a-f]+)", lambda digits: int(digits, 16)),
        "units": dict(re.findall(r"^(UVD|VCE|VCN|JPEG|VPE): (.+)$", text, re.M)),
        "clock_gating": re.findall(r"^\t(.+): On$", gating, re.M)}


def rings(host: Host, address: str) -> tuple[dict[str, tuple[int, int, list[int]]], list[str]] | None:
    """({ring: (read, write, words)} of debugfs's amdgpu_ring_*, what could not be read, in words); None where there is
    no debugfs to be read."""
    folder = _debugfs(host, host.device(address))
    if folder is None:
        return None
    found, missing = {}, []
    for path in sorted(folder.glob("amdgpu_ring_*")):
        try:
            data = _whole(path)
        except OSError as error:
            missing.append(f"{path.name}: {error.strerror or error}")
            continue
        if len(data) < 16 or len(data) % 4:
            missing.append(f"{path.name}: {len(data)} bytes are no ring")
            continue
        read, write, _, *words = struct.unpack(f"<{len(data) // 4}I", data)
        found[path.name.removeprefix("amdgpu_ring_")] = (read, write, words)
    return found, missing


def _whole(path: Path) -> bytes:
    """A file that takes whole words only: amdgpu refuses a read of any other length, as Path.read_bytes makes one."""
    parts = []
    with path.open("rb", buffering=0) as file:
        while part := file.read(PIECE):
            parts.append(part)
    return b"".join(parts)


def wave_reader(host: Host, address: str) -> Callable[[str, int, int], bytes] | None:
    """What reads debugfs's amdgpu_wave and amdgpu_gpr; None where they cannot be read."""
    folder = _debugfs(host, host.device(address))
    if folder is None or not all(os.access(folder / f"amdgpu_{kind}", os.R_OK) for kind in ("wave", "gpr")):
        return None

    def read(kind: str, position: int, nbytes: int) -> bytes:
        try:
            with (folder / f"amdgpu_{kind}").open("rb", buffering=0) as file:
                file.seek(position)
                return file.read(nbytes)
        except OSError:
            return b""              # no such wave, or the graphics core has no power
    return read


# ---- who uses it

def fdinfo(host: Host, address: str) -> list[dict[str, Any]]:
    """Processes with the card open, by their descriptors (Linux Documentation/gpu/drm-usage-stats.rst): engines' busy
    time in nanoseconds since they opened it, and memory in bytes. One descriptor a DRM client."""
    clients: dict[tuple[int, str], dict[str, Any]] = {}
    for path in host.path("/proc").glob("[0-9]*/fdinfo/*"):
        text = _text(path)
        if text is None or f"drm-pdev:\t{address}" not in text:
            continue
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        pid = int(path.parts[-3])
        clients[pid, fields.get("drm-client-id", path.name)] = {
            "pid": pid, "name": process_name(host, pid),
            "engines_ns": {key.removeprefix("drm-engine-"): _leading(value) for key, value in fields.items()
                           if key.startswith("drm-engine-") and not key.startswith("drm-engine-capacity")},
            "memory": {key.removeprefix("drm-memory-"): _bytes(value) for key, value in fields.items()
                       if key.startswith("drm-memory-")}}
    merged: dict[int, dict[str, Any]] = {}
    for client in clients.values():
        into = merged.setdefault(client["pid"], {"pid": client["pid"], "name": client["name"], "engines_ns": {},
                                                 "memory": {}})
        for group in ("engines_ns", "memory"):
            for key, value in client[group].items():
                into[group][key] = into[group].get(key, 0) + value
    return sorted(merged.values(), key=lambda each: int(each["pid"]))


def process_name(host: Host, pid: int) -> str:
    return _text(host.path(f"/proc/{pid}/comm")) or "?"


def _leading(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def _bytes(text: str) -> int:
    unit = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}.get(text.split()[-1] if text else "", 1)
    return _leading(text) * unit
