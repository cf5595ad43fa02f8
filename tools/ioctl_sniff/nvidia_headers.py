"""NVIDIA's interface, from the headers of its open kernel modules (MIT licence).

The numbers of its ioctls are not whole: ``/dev/nvidiactl`` takes type 'F' with an escape code and whatever size, and
``/dev/nvidia-uvm`` takes bare numbers. What an RM control or allocation carries follows from a command or class number
within the argument, so the tables of those are made here too: ``NV2080_CTRL_CMD_X`` goes with the record
``NV2080_CTRL_X_PARAMS``, and a class with the parameters that ``src/nvidia/generated/g_allclasses.h`` names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tools.ioctl_sniff.generate import GenerateError, Source, generate

__all__ = ["nvidia", "uvm"]

MAGIC = ord("F")            # NV_IOCTL_MAGIC, nv-ioctl.h
PRELUDE = """
#include <stddef.h>
#include <stdint.h>
#define NV_UNIX 1
#define NV_LINUX 1
#define NVCPU_IS_X86_64 1
"""
# Escape code -> its argument's record (src/nvidia/arch/nvalloc/unix/src/escape.c, kernel-open/nvidia/nv.c)
ARGUMENTS = {
    "NV_ESC_RM_ALLOC_MEMORY": "nv_ioctl_nvos02_parameters_with_fd", "NV_ESC_RM_FREE": "NVOS00_PARAMETERS",
    "NV_ESC_RM_CONTROL": "NVOS54_PARAMETERS", "NV_ESC_RM_ALLOC": "NVOS64_PARAMETERS",
    "NV_ESC_RM_DUP_OBJECT": "NVOS55_PARAMETERS", "NV_ESC_RM_SHARE": "NVOS57_PARAMETERS",
    "NV_ESC_RM_IDLE_CHANNELS": "NVOS30_PARAMETERS", "NV_ESC_RM_VID_HEAP_CONTROL": "NVOS32_PARAMETERS",
    "NV_ESC_RM_MAP_MEMORY": "nv_ioctl_nvos33_parameters_with_fd", "NV_ESC_RM_UNMAP_MEMORY": "NVOS34_PARAMETERS",
    "NV_ESC_RM_MAP_MEMORY_DMA": "NVOS46_PARAMETERS", "NV_ESC_RM_UNMAP_MEMORY_DMA": "NVOS47_PARAMETERS",
    "NV_ESC_RM_ALLOC_CONTEXT_DMA2": "NVOS39_PARAMETERS", "NV_ESC_RM_BIND_CONTEXT_DMA": "NVOS49_PARAMETERS",
    "NV_ESC_RM_GET_EVENT_DATA": "NVOS41_PARAMETERS", "NV_ESC_RM_UPDATE_DEVICE_MAPPING_INFO": "NVOS56_PARAMETERS",
    "NV_ESC_CARD_INFO": "nv_ioctl_card_info_t", "NV_ESC_REGISTER_FD": "nv_ioctl_register_fd_t",
    "NV_ESC_ALLOC_OS_EVENT": "nv_ioctl_alloc_os_event_t", "NV_ESC_FREE_OS_EVENT": "nv_ioctl_free_os_event_t",
    "NV_ESC_STATUS_CODE": "nv_ioctl_status_code_t", "NV_ESC_CHECK_VERSION_STR": "nv_ioctl_rm_api_version_t",
    "NV_ESC_IOCTL_XFER_CMD": "nv_ioctl_xfer_t", "NV_ESC_QUERY_DEVICE_INTR": "nv_ioctl_query_device_intr",
    "NV_ESC_SYS_PARAMS": "nv_ioctl_sys_params_t", "NV_ESC_EXPORT_TO_DMABUF_FD": "nv_ioctl_export_to_dma_buf_fd_t",
}
FIELDS = {
    "NVOS54_PARAMETERS.cmd": "enum @control", "NVOS54_PARAMETERS.params": "-> case control(cmd){paramsSize}",
    "NVOS54_PARAMETERS.hClient": "hex", "NVOS54_PARAMETERS.hObject": "hex",
    "NVOS21_PARAMETERS.hClass": "enum @class", "NVOS21_PARAMETERS.pAllocParms": "-> case alloc(hClass)",
    "NVOS64_PARAMETERS.hClass": "enum @class", "NVOS64_PARAMETERS.pAllocParms": "-> case alloc(hClass)",
    "NVOS32_PARAMETERS.function": "enum NVOS32_FUNCTION_",
    "nv_ioctl_rm_api_version_t.versionString": "text", "nv_ioctl_register_fd_t.ctl_fd": "fd",
    "nv_ioctl_xfer_t.ptr": "-> case escape(cmd){size}",
    "NVOS21_PARAMETERS.status": "enum NV_OK|NV_ERR_", "NVOS64_PARAMETERS.status": "enum NV_OK|NV_ERR_",
    "NVOS54_PARAMETERS.status": "enum NV_OK|NV_ERR_", "NVOS00_PARAMETERS.status": "enum NV_OK|NV_ERR_",
    "NVOS33_PARAMETERS.status": "enum NV_OK|NV_ERR_", "NVOS32_PARAMETERS.status": "enum NV_OK|NV_ERR_",
    "NVOS55_PARAMETERS.status": "enum NV_OK|NV_ERR_", "NVOS46_PARAMETERS.status": "enum NV_OK|NV_ERR_",
}


def nvidia(root: Path) -> dict[str, Any]:
    """The decoder of /dev/nvidiactl and /dev/nvidia0.

    :raises GenerateError: the tree is not there or does not compile.
    """
    inc = root / "src/common/sdk/nvidia/inc"
    unix = root / "src/nvidia/arch/nvalloc/unix/include"
    if not inc.is_dir() or not unix.is_dir():
        raise GenerateError(f"{root}: is no source tree of NVIDIA's open kernel modules")
    controls = sorted(str(path.relative_to(inc)) for path in (inc / "ctrl").rglob("*.h"))
    classes = sorted(str(path.relative_to(inc)) for path in (inc / "class").glob("cl*.h"))
    allocation = [str(path.relative_to(inc)) for path in sorted((inc / "alloc").glob("*.h"))]
    headers = ["nvtypes.h", "nvos.h", "nvstatus.h", "nv_escape.h", "nv-ioctl-numbers.h", "nv-ioctl.h",
               "nv-unix-nvos-params-wrappers.h", *controls, *classes, *allocation]
    source = Source("nvidia", headers, include=[inc, unix, root / "src/common/inc", root / "kernel-open/common/inc",
                                                root / "src/common/sdk/nvidia/inc/ctrl"],
                    devices=["/dev/nvidiactl", "/dev/nvidia[0-9]*"], prelude=PRELUDE,
                    keep=r"(/ctrl/.*|/class/cl.*|/alloc/.*|nvos|nvstatus|nvstatuscodes|nv_escape|nv-ioctl"
                         r"|nv-ioctl-numbers|nv-unix-nvos-params-wrappers)\.h$",
                    origin=f"NVIDIA's open kernel modules {version(root)}")
    all_ = generate(source)
    constants, records = all_["constants"], all_["records"]
    constants |= statuses(inc)
    commands = {name: value for name, value in constants.items() if is_command(name, value)}
    control = {name: record for name in commands
               if (record := next((each for each in (name.replace("_CTRL_CMD_", "_CTRL_") + "_PARAMS", f"{name}_PARAMS")
                                   if each in records), None))}
    class_names = class_list(root, constants)
    alloc = {name: record for name, record in resources(root).items() if name in class_names and record in records}
    escapes = {name: constants[name] for name in ARGUMENTS if name in constants}
    arguments = {name: record for name, record in ARGUMENTS.items() if record in records and name in escapes}
    fields = {key: hint for key, hint in FIELDS.items() if key.split(".")[0] in records}
    kept = closure(records, [*arguments.values(), *control.values(), *alloc.values()])
    wanted = {name: value for name, value in constants.items()
              if name.startswith(("NV_OK", "NV_ERR_", "NVOS32_FUNCTION_"))}
    return {"name": "nvidia", "source": source.origin, "devices": source.devices,
            "ioctls": [[name, MAGIC << 8 | number, arguments.get(name, "")] for name, number in escapes.items()],
            "records": kept, "constants": wanted | commands | class_names,
            "hints": {"fields": fields, "groups": {"control": sorted(commands), "class": sorted(class_names)},
                      "cases": {"control": {str(commands[name]): record for name, record in control.items()},
                                "alloc": {str(class_names[name]): record for name, record in alloc.items()},
                                "escape": {str(escapes[name]): record for name, record in arguments.items()}}}}


def uvm(root: Path) -> dict[str, Any]:
    """The decoder of /dev/nvidia-uvm."""
    folder = root / "kernel-open/nvidia-uvm"
    source = Source("nvidia-uvm", ["uvm_linux_ioctl.h"], include=[folder, root / "kernel-open/common/inc"],
                    devices=["/dev/nvidia-uvm"], keep=r"uvm_(linux_)?ioctl\.h$",
                    prelude="#include <stddef.h>\n#include <stdint.h>\n#define NVCPU_IS_X86_64 1\n",
                    origin=f"NVIDIA's open kernel modules {version(root)}")
    all_ = generate(source)
    records, constants = all_["records"], all_["constants"]
    ioctls = [[name, value & 0xFFFFFFFF, f"{name}_PARAMS"] for name, value in constants.items()
              if f"{name}_PARAMS" in records]
    return {"name": "nvidia-uvm", "source": source.origin, "devices": source.devices, "ioctls": ioctls,
            "records": closure(records, [each[2] for each in ioctls]), "constants": {}}


def is_command(name: str, value: int) -> bool:
    """Whether a constant is a control's number: a class above an interface and a message."""
    found = re.fullmatch(r"NV([0-9A-F]{4}|_\w+?)_CTRL_(CMD_)?\w+", name)
    if not found or name.endswith(("_MESSAGE_ID", "_INTERFACE_ID")):
        return False
    if re.fullmatch("[0-9A-F]{4}", found[1]):
        return value >> 16 == int(found[1], 16) and (bool(found[2]) if value >> 16 == 0 else value & 0xFFFF > 0)
    return bool(found[2]) and value >> 16 > 0


def version(root: Path) -> str:
    text = (root / "version.mk").read_text() if (root / "version.mk").is_file() else ""
    found = re.search(r"NVIDIA_VERSION\s*=\s*(\S+)", text)
    return found[1] if found else "of unknown version"


def statuses(inc: Path) -> dict[str, int]:
    """NV_STATUS_CODE(NV_ERR_..., number, text) of nvstatuscodes.h."""
    text = (inc / "nvstatuscodes.h").read_text()
    return {name: int(value, 0) for name, value in re.findall(r"NV_STATUS_CODE\((\w+),\s*(0x[0-9a-fA-F]+)", text)}


def class_list(root: Path, constants: dict[str, int]) -> dict[str, int]:
    """{class: number}: those that can be allocated first, then what the class headers define for their own number."""
    found: dict[str, int] = {name: constants[name] for name in resources(root) if name in constants}
    for path in sorted((root / "src/common/sdk/nvidia/inc/class").glob("cl*.h")):
        for name, value in re.findall(r"^#define\s+([A-Z][A-Z0-9_]+)\s+\(?(0x[0-9a-fA-F]{1,8})U?\)?",
                                      path.read_text(), re.M):
            if path.stem[2:].lower() == f"{int(value, 16):04x}" and name in constants \
                    and not name.endswith("_MESSAGE_ID"):
                found.setdefault(name, int(value, 16))
    generated = root / "src/nvidia/generated/g_allclasses.h"
    if generated.is_file():
        for name, value in re.findall(r"^#define\s+([A-Z][A-Z0-9_]+)\s+\(?(0x[0-9a-fA-F]{4,8})\)?",
                                      generated.read_text(), re.M):
            found.setdefault(name, int(value, 16))
    return found


def resources(root: Path) -> dict[str, str]:
    """{class: record of its allocation's parameters} of the resource list."""
    path = root / "src/nvidia/src/kernel/inc/gpu/../../../../inc/kernel/rmapi/resource_list.h"
    path = next(iter((root / "src/nvidia").rglob("resource_list.h")), path)
    if not path.is_file():
        return {}
    text = path.read_text()
    return {external: record for external, record in re.findall(
        r"External Class\s*\*/\s*(\w+),.*?Alloc Param Info\s*\*/\s*RS_(?:OPTIONAL|REQUIRED)\((\w+)\)", text, re.S)
        if "RS_ENTRY" not in record}


def closure(records: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """The records that are wanted, and what they hold."""
    kept: dict[str, Any] = {}
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name in records and name not in kept:
            kept[name] = records[name]
            todo += [field[2] for field in records[name][1]]
    return dict(sorted(kept.items()))
