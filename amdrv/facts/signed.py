"""The signed images that the PSP takes: what stands in the payloads of AMD's firmware files.

No header of AMD's describes this form. It was read from the gfx11 files of Debian's firmware-amd-graphics, where
every payload that the PSP is given obeys it: 256 bytes of header, a body, 256 bytes of signature. The digest was
computed and found equal in each; what the reserved words mean is not known, and some key databases have no magic. (MP0
13.0.6 and 13.0.14, of other cards, have longer signatures and another digest.)

``TYPES``: the low 16 bits of ``type`` by the name of the image (that of psp_gfx_fw_type without GFX_FW_TYPE_, or the
boot loader's component).
"""

import ctypes

u8, u32 = ctypes.c_uint8, ctypes.c_uint32

MAGIC = b"$PS1"
HEADER_BYTES = 256
SIGNATURE_BYTES = 256
TYPE_MASK = 0xFFFF


class signed_header(ctypes.Structure):  # 256 bytes
    _fields_ = [
        ("nonce", u8 * 16),             # +0x00 of an encrypted body
        ("magic", u8 * 4),              # +0x10 MAGIC, zero in a key database
        ("body_bytes", u32),            # +0x14
        ("reserved0", u8 * 24),
        ("is_signed", u32),             # +0x30
        ("reserved1", u32),
        ("key_id", u8 * 16),            # +0x38
        ("reserved2", u32),
        ("is_encrypted", u32),          # +0x4c
        ("reserved3", u32 * 2),
        ("type", u32),                  # +0x58
        ("reserved4", u32),
        ("version", u32),               # +0x60
        ("load_address", u32),          # +0x64, all ones where the PSP places it
        ("reserved5", u32),
        ("total_bytes", u32),           # +0x6c header, body and signature; the file may pad beyond it
        ("reserved6", u8 * 96),
        ("digest", u8 * 32),            # +0xd0 SHA-256 of the body as it lies in the file
        ("reserved7", u8 * 16),
    ]


TYPES: dict[str, int] = {
    "SOS": 0x0009, "SYS_DRV": 0x000A, "KDB": 0x004F, "SPL": 0x0056, "REG_LIST": 0x0135,
    "SOC_DRV": 0x014A, "DBG_DRV": 0x014B, "INTF_DRV": 0x014C, "RAS_DRV": 0x0152, "TOC": 0x200E,
    "TA": 0x0000, "ASD": 0x0000, "SMU": 0x1001,
    "CP_MES": 0x2007, "MES_STACK": 0x2008, "RLC_G": 0x2009, "RLC_V": 0x200A,
    "RLC_RESTORE_LIST_GPM_MEM": 0x200B, "RLC_RESTORE_LIST_SRM_MEM": 0x200C, "RLC_P": 0x200F,
    "RLC_IRAM": 0x2016, "RLC_DRAM_BOOT": 0x2017, "IMU_I": 0x203B, "IMU_D": 0x203C,
    "SDMA_UCODE_TH0": 0x203E, "SDMA_UCODE_TH1": 0x203F, "CP_MES_KIQ": 0x2042, "MES_KIQ_STACK": 0x2043,
    "RS64_PFP": 0x2044, "RS64_PFP_P0_STACK": 0x2045, "RS64_PFP_P1_STACK": 0x2045,
    "RS64_ME": 0x2046, "RS64_ME_P0_STACK": 0x2047, "RS64_ME_P1_STACK": 0x2047,
    "RS64_MEC": 0x2048, "RS64_MEC_P0_STACK": 0x2049, "RS64_MEC_P1_STACK": 0x2049,
    "RS64_MEC_P2_STACK": 0x2049, "RS64_MEC_P3_STACK": 0x2049,
}
