"""Generates ``amdrv/facts/kfd.py``: the calls of /dev/kfd and of a render node, from the kernel's uapi headers.

The headers are those of Linux 6.12 (``--uapi DIR`` names the folder that holds ``linux/kfd_ioctl.h``).
"""

from __future__ import annotations

import ctypes
import re

from tools.autogen import Sources
from tools.autogen.clang import STRUCT_IMPORTS, Declarations, constants_source, macros

__all__ = ["generate"]

DOC = '''"""The user API of amdkfd, and what is used of amdgpu's, of Linux 6.12. Made by tools/autogen; do not edit.

From linux/kfd_ioctl.h and drm/amdgpu_drm.h. Constants in capitals are ioctl numbers, flags and limits; structures carry
the kernel's names. ``ARGUMENTS`` names the structure that a call's number takes.
"""
'''

TYPES = """
typedef unsigned char __u8; typedef unsigned short __u16; typedef unsigned int __u32; typedef int __s32;
typedef unsigned long long __u64; typedef long long __s64; typedef unsigned char uint8_t;
"""

KFD_CALLS = ("GET_VERSION", "CREATE_QUEUE", "DESTROY_QUEUE", "UPDATE_QUEUE", "GET_CLOCK_COUNTERS",
             "GET_PROCESS_APERTURES_NEW", "CREATE_EVENT", "DESTROY_EVENT", "SET_EVENT", "RESET_EVENT", "WAIT_EVENTS",
             "SET_SCRATCH_BACKING_VA", "ACQUIRE_VM", "ALLOC_MEMORY_OF_GPU", "FREE_MEMORY_OF_GPU", "MAP_MEMORY_TO_GPU",
             "UNMAP_MEMORY_FROM_GPU", "GET_DMABUF_INFO", "IMPORT_DMABUF", "EXPORT_DMABUF", "AVAILABLE_MEMORY",
             "SET_CU_MASK")
KFD_RECORDS = ("kfd_event_data", "kfd_process_device_apertures", "kfd_context_save_area_header")
DRM_RECORDS = ("drm_amdgpu_info_device",)
NAMES = (r"KFD_(IOCTL_(MAJOR|MINOR)_VERSION|(MAX|MIN)_QUEUE_\w+|IOC_(QUEUE_TYPE|EVENT|WAIT_RESULT|ALLOC_MEM_FLAGS)_\w+"
         r"|SIGNAL_EVENT_LIMIT|HW_EXCEPTION_\w+|MEM_ERR_\w+)")
MMAP_NAMES = r"KFD_MMAP_\w+"
DRM_NAMES = r"AMDGPU_INFO_DEV_INFO|DRM_AMDGPU_INFO"
READ, WRITE = 2, 1              # _IOC_READ and _IOC_WRITE of asm-generic/ioctl.h
DIRECTIONS = {"IOR": READ, "IOW": WRITE, "IOWR": READ | WRITE}
DRM_TYPE, DRM_COMMAND_BASE = ord("d"), 0x40     # drm/drm.h


def _number(direction: int, kind: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | kind << 8 | number


def _plain(text: str) -> str:
    """The header without its includes; what C++ and the kernel's own build need of it is left out."""
    text = re.sub(r"^#include.*$", "", text, flags=re.M)
    text = re.sub(r"^#if defined\(__cplusplus\)\n.*?^#endif", "", text, flags=re.M | re.S)
    return re.sub(r"\\\n", " ", text)


def _union(text: str) -> str:
    """drm_amdgpu_info alone: the structure that the call takes, from a header of which little else is wanted."""
    found = [re.search(rf"^struct {name} {{.*?^}};", text, re.M | re.S)
             for name in ("drm_amdgpu_query_fw", "drm_amdgpu_info", "drm_amdgpu_info_device")]
    return "\n".join(each[0] for each in found if each is not None)


def generate(sources: Sources) -> dict[str, bytes]:
    kfd = _plain(sources.uapi_file("linux/kfd_ioctl.h").read_text())
    drm = _plain(sources.uapi_file("drm/amdgpu_drm.h").read_text())
    first, second = Declarations(TYPES + kfd), Declarations(TYPES + _union(drm))
    base = re.search(r"#define AMDKFD_IOCTL_BASE '(.)'", kfd)
    assert base is not None
    calls: dict[str, tuple[int, str]] = {}
    for name, macro, number, record in re.findall(
            r"#define AMDKFD_IOC_(\w+)\s+AMDKFD_(IOW?R?)\((\w+),\s*struct (\w+)\)", kfd):
        if name in KFD_CALLS:
            calls[f"AMDKFD_IOC_{name}"] = (
                _number(DIRECTIONS[macro], ord(base[1]), int(number, 0), first.size(record)), record)
    info = macros(drm, DRM_NAMES)["DRM_AMDGPU_INFO"]
    calls["DRM_IOCTL_AMDGPU_INFO"] = (
        _number(WRITE, DRM_TYPE, DRM_COMMAND_BASE + info, second.size("drm_amdgpu_info")), "drm_amdgpu_info")
    missing = {f"AMDKFD_IOC_{name}" for name in KFD_CALLS} - set(calls)
    if missing:
        raise ValueError(f"kfd_ioctl.h has no {', '.join(sorted(missing))}")
    records = [record for _, record in calls.values() if record != "drm_amdgpu_info"]
    constants = macros(kfd.replace("(1 << 31)", str(1 << 31)), NAMES) | macros(drm, DRM_NAMES)
    table = ["ARGUMENTS: dict[int, type[ctypes.Structure]] = {",
             *(f"    {name}: {record}," for name, (_, record) in calls.items()), "}"]
    parts = [DOC, STRUCT_IMPORTS, constants_source(constants),
             constants_source({name: number for name, (number, _) in calls.items()}),
             first.source(dict.fromkeys([*records, *KFD_RECORDS])),
             second.source(("drm_amdgpu_info", *DRM_RECORDS)), "\n\n" + "\n".join(table)]
    text = "\n".join(part.strip("\n") + "\n" for part in parts)
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    return {"amdrv/facts/kfd.py": re.sub(r"\n{4,}", "\n\n\n", re.sub(r"\n(ARGUMENTS)", r"\n\n\1", text)).encode()}
