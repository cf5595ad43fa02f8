"""Which files a card needs, and the order in which the PSP gets what is in them.

The order is Linux's: amdgpu_psp.c, psp_hw_start (boot loader), psp_load_fw, psp_load_non_psp_fw (by
AMDGPU_UCODE_ID), and the recorded boot of this card agrees: LOAD_TOC, SMU, SETUP_TMR, the images, AUTOLOAD_RLC after
RLC_G, LOAD_ASD, the register list, the trusted applications.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amdrv.errors import FirmwareError
from amdrv.facts import psp
from amdrv.firmware.files import ParsedFile, Section, find, parse, read

__all__ = ["Component", "FirmwareSet", "Image", "load_set"]

# psp_hw_start: each is loaded if the file has it.
BOOTLOADER = (("KDB", psp.PSP_BL__LOAD_KEY_DATABASE), ("SPL", psp.PSP_BL__LOAD_TOS_SPL_TABLE),
              ("SYS_DRV", psp.PSP_BL__LOAD_SYSDRV), ("SOC_DRV", psp.PSP_BL__LOAD_SOCDRV),
              ("INTF_DRV", psp.PSP_BL__LOAD_INTFDRV), ("DBG_DRV", psp.PSP_BL__LOAD_DBGDRV),
              ("RAS_DRV", psp.PSP_BL__LOAD_RASDRV), ("SOS", psp.PSP_BL__LOAD_SOSDRV))

# AMDGPU_UCODE_ID's order for gfx11 with RS64 firmware; RLC_G last, since the autoload follows it.
ORDER = ("SDMA_UCODE_TH0", "SDMA_UCODE_TH1", "RS64_PFP", "RS64_ME", "RS64_MEC", "RS64_PFP_P0_STACK",
         "RS64_PFP_P1_STACK", "RS64_ME_P0_STACK", "RS64_ME_P1_STACK", "RS64_MEC_P0_STACK", "RS64_MEC_P1_STACK",
         "RS64_MEC_P2_STACK", "RS64_MEC_P3_STACK", "CP_MES", "MES_STACK", "CP_MES_KIQ", "MES_KIQ_STACK", "IMU_I",
         "IMU_D", "GLOBAL_TAP_DELAYS", "SE0_TAP_DELAYS", "SE1_TAP_DELAYS", "SE2_TAP_DELAYS", "SE3_TAP_DELAYS",
         "RLC_RESTORE_LIST_SRM_CNTL", "RLC_RESTORE_LIST_GPM_MEM", "RLC_RESTORE_LIST_SRM_MEM", "RLC_IRAM",
         "RLC_DRAM_BOOT", "RLC_P", "RLC_V", "RLC_G")
NEEDED_IPS = ("GC", "MP0", "MP1", "SDMA0")


@dataclass(frozen=True)
class Image:
    """What one LOAD_IP_FW (or LOAD_TOC, LOAD_ASD, LOAD_TA) command is given."""

    name: str                       # of psp_gfx_fw_type, without GFX_FW_TYPE_
    fw_type: int                    # psp_gfx_fw_type; GFX_FW_TYPE_TA for trusted applications
    payload: bytes = field(repr=False)
    version: int
    file: str
    start_address: int | None = None    # of RS64 code, for the CP's *_PRGRM_CNTR_START registers


@dataclass(frozen=True)
class Component:
    """What the PSP's boot loader is given before its OS runs."""

    name: str
    command: int                    # PSP_BL__*
    payload: bytes = field(repr=False)
    version: int
    file: str


@dataclass(frozen=True)
class FirmwareSet:
    """Everything one card's PSP is given, each list in the order in which it is given."""

    arch: str
    bootloader: tuple[Component, ...]       # ends with SOS
    toc: Image
    smu: Image
    images: tuple[Image, ...]               # LOAD_IP_FW after SETUP_TMR; AUTOLOAD_RLC follows the last
    asd: Image
    reg_list: Image | None
    tas: dict[str, Image]                   # "TA_RAS", "TA_HDCP", ...
    pptables: dict[int, bytes] = field(repr=False)      # soft pptables by id
    files: dict[str, ParsedFile] = field(repr=False)    # by kind of content: "mec", "sos", ...

    def component(self, name: str) -> Component:
        """A component of the boot loader's file by name. :raises FirmwareError: there is none of that name."""
        return _named(self.bootloader, name)

    def image(self, name: str) -> Image:
        """An image by name. :raises FirmwareError: there is none of that name."""
        return _named((self.toc, self.smu, *self.images, self.asd), name)

    @property
    def sos(self) -> Component:
        """The PSP's own operating system."""
        return self.component("SOS")

    def __str__(self) -> str:
        return "\n".join(str(file) for file in self.files.values())


def _named(items: Sequence[Component] | Sequence[Image], name: str):  # type: ignore[no-untyped-def]
    for item in items:
        if item.name == name:
            return item
    raise FirmwareError(f"the firmware set has no {name}; it has {', '.join(item.name for item in items)}")


def _version(ips: Mapping[str, Sequence[int]], ip: str) -> str:
    if ip not in ips:
        raise FirmwareError(f"firmware is named by IP versions, and {ip} is not among {', '.join(ips) or 'none'}; "
                            f"needed are {', '.join(NEEDED_IPS)}")
    return "_".join(str(number) for number in ips[ip][:3])


def load_set(arch: str, ip_versions: Mapping[str, Sequence[int]], directories: Sequence[Path | str]) -> FirmwareSet:
    """Find, read and check every file that a gfx11 card's boot needs.

    :param arch: ``gfx1100`` and its like: gfx11 cards with firmware of their own.
    :param ip_versions: {"GC": (11, 0, 0), "MP0": ..., "MP1": ..., "SDMA0": ...} as in the discovery table.
    :param directories: looked through in order, see :func:`amdrv.firmware.find`.
    :raises FirmwareError: a file is missing or damaged, or the card is of another generation.
    """
    if not arch.startswith("gfx11"):
        raise FirmwareError(f"which firmware {arch} needs is not known; known is gfx11")
    gc = f"gc_{_version(ip_versions, 'GC')}"
    mp0 = f"psp_{_version(ip_versions, 'MP0')}"
    names = {"sos": f"{mp0}_sos", "ta": f"{mp0}_ta", "smu": f"smu_{_version(ip_versions, 'MP1')}",
             "sdma": f"sdma_{_version(ip_versions, 'SDMA0')}", "pfp": f"{gc}_pfp", "me": f"{gc}_me", "mec": f"{gc}_mec",
             "mes": f"{gc}_mes_2", "mes1": f"{gc}_mes1", "imu": f"{gc}_imu", "rlc": f"{gc}_rlc"}
    files: dict[str, ParsedFile] = {}
    for kind, stem in names.items():
        if kind == "mes":
            stem = _newest_mes(stem, directories)
        path = find(f"{stem}.bin", directories)
        files[kind] = parse(f"{stem}.bin", read(path))
    sos = files["sos"]
    bootloader = tuple(Component(name, command, sos[name].payload, sos[name].version, sos.name)
                       for name, command in BOOTLOADER if name in sos)
    sos["SOS"]      # a set without one is useless; the error names the file
    loaded = {section.name: _image(file, section) for kind, file in files.items() if kind not in ("sos", "ta", "smu")
              for section in file.sections}
    tas = {section.name: _image(files["ta"], section, psp.GFX_FW_TYPE_TA) for section in files["ta"].sections
           if section.name != "ASD"}
    return FirmwareSet(
        arch, bootloader, toc=_image(sos, sos["TOC"]), smu=_image(files["smu"], files["smu"]["SMU"]),
        images=tuple(loaded[name] for name in ORDER if name in loaded),
        asd=_image(files["ta"], files["ta"]["ASD"], psp.GFX_FW_TYPE_TA),
        reg_list=_image(sos, sos["REG_LIST"]) if "REG_LIST" in sos else None, tas=tas,
        pptables={section.version: section.payload for section in files["smu"].sections if section.name != "SMU"},
        files=files)


def _newest_mes(stem: str, directories: Sequence[Path | str]) -> str:
    """gc_*_mes_2 where there is one, else gc_*_mes: so newer kernels choose (amdgpu_mes.c)."""
    try:
        find(f"{stem}.bin", directories)
    except FirmwareError:
        older = stem.removesuffix("_2")
        try:
            find(f"{older}.bin", directories)
        except FirmwareError:
            return stem
        return older
    return stem


def _image(file: ParsedFile, section: Section, fw_type: int | None = None) -> Image:
    if fw_type is None:
        fw_type = psp.ENUMS["psp_gfx_fw_type"][f"GFX_FW_TYPE_{section.name}"]
    return Image(section.name, fw_type, section.payload, section.version, file.name, section.start_address)
