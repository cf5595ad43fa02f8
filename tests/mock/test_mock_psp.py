"""PSP: boot loader order, ring, firmware, TMR, autoload; each rule with a driver that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from amdrv.facts import psp
from mock import firmware
from mock.psp import (
    AUTOLOAD_NEEDS,
    BL_ERROR_COMMAND,
    BL_ERROR_IMAGE,
    BL_ERROR_ORDER,
    TEE_ERROR_BAD_PARAMETERS,
    TEE_ERROR_BAD_STATE,
    TEE_ERROR_ITEM_NOT_FOUND,
    TMR_BYTES,
)

READY = 1 << 31


def bl_image(command: int) -> bytes:
    return firmware.image(firmware.BOOTLOADER[command])


def test_the_whole_way_to_autoload(card: Any) -> None:
    card.setup()
    assert card.read("MP0_SMN_C2PMSG_81") == 0
    card.start_sos()
    assert card.create_ring() == READY
    toc = card.load_toc()
    assert toc.status == 0 and toc.tmr_size == TMR_BYTES
    assert card.load("SMU") == 0
    assert card.setup_tmr(TMR_BYTES) == 0
    for kind in AUTOLOAD_NEEDS[1:]:
        assert card.load(kind) == 0, card.board.notes
    assert not card.read("RLC_RLCS_BOOTLOAD_STATUS") & 1 << 31
    assert card.command(psp.GFX_CMD_ID_AUTOLOAD_RLC).status == 0
    card.wait(lambda: card.read("RLC_RLCS_BOOTLOAD_STATUS") & 1 << 31)
    assert card.board.psp.autoload_done and set(AUTOLOAD_NEEDS) <= card.board.psp.loaded
    assert len(card.board.notes) == 0, card.board.notes


@pytest.mark.parametrize("missing", ["RS64_MEC", "SDMA_UCODE_TH1", "IMU_I", "RLC_G", "RS64_MEC_P0_STACK"])
def test_autoload_needs_every_firmware(card: Any, missing: str) -> None:
    card.start_smu()
    assert card.load_toc().status == 0 and card.setup_tmr(TMR_BYTES) == 0
    for kind in AUTOLOAD_NEEDS[1:]:
        if kind != missing:
            assert card.load(kind) == 0
    assert card.command(psp.GFX_CMD_ID_AUTOLOAD_RLC).status == TEE_ERROR_ITEM_NOT_FOUND
    assert card.rule("psp-autoload") == f"AUTOLOAD_RLC without {missing}"
    assert not card.read("RLC_RLCS_BOOTLOAD_STATUS") & 1 << 31


def test_boot_loader_order(card: Any) -> None:
    card.setup()
    sos, sys, kdb = psp.PSP_BL__LOAD_SOSDRV, psp.PSP_BL__LOAD_SYSDRV, psp.PSP_BL__LOAD_KEY_DATABASE
    assert card.boot_loader(sos, bl_image(sos)) == READY | BL_ERROR_ORDER
    assert card.rule("psp-order") == "SOSDRV came before KEY_DATABASE, TOS_SPL_TABLE, SYSDRV"
    assert card.boot_loader(sys, bl_image(sys)) == READY
    assert card.boot_loader(kdb, bl_image(kdb)) == READY | BL_ERROR_ORDER
    assert "KEY_DATABASE came after SYSDRV" in card.rule("psp-order")
    assert card.read("MP0_SMN_C2PMSG_81") == 0


def test_boot_loader_wants_the_right_image(card: Any) -> None:
    card.setup()
    kdb = psp.PSP_BL__LOAD_KEY_DATABASE
    broken = bytearray(bl_image(kdb))
    broken[0x180] ^= 1
    assert card.boot_loader(kdb, bytes(broken)) == READY | BL_ERROR_IMAGE
    assert card.boot_loader(kdb, bl_image(psp.PSP_BL__LOAD_SYSDRV)) == READY | BL_ERROR_IMAGE
    assert card.rule("psp-firmware").startswith("KEY_DATABASE: ")
    assert card.boot_loader(0x70000, bl_image(kdb)) == READY | BL_ERROR_COMMAND
    assert card.boot_loader(kdb, bl_image(kdb)) == READY


def test_boot_loader_reads_what_the_flush_made_visible(card: Any) -> None:
    card.setup()
    image = bl_image(psp.PSP_BL__LOAD_KEY_DATABASE)
    card.memory(card.IMAGE, len(image))[:] = np.frombuffer(image, np.uint8)
    card.write("MP0_SMN_C2PMSG_36", (0x80_0000_0000 + card.IMAGE) >> 20)
    card.write("MP0_SMN_C2PMSG_35", psp.PSP_BL__LOAD_KEY_DATABASE)
    assert card.wait(lambda: card.read("MP0_SMN_C2PMSG_35") & READY and card.read("MP0_SMN_C2PMSG_35")) \
        == READY | BL_ERROR_IMAGE


def test_ring_rules(card: Any) -> None:
    card.setup()
    card.write("MP0_SMN_C2PMSG_64", psp.GFX_CTRL_CMD_ID_INIT_GPCOM_RING)
    assert "before the secure OS is alive" in card.rule("psp-mailbox")
    card.start_sos()
    card.write("MP0_SMN_C2PMSG_67", 16)
    assert "there is no ring" in card.rule("psp-ring")
    assert card.create_ring(0x1001) & 0xFFFF == TEE_ERROR_BAD_PARAMETERS & 0xFFFF
    assert card.create_ring() == READY
    assert card.create_ring() & 0xFFFF == TEE_ERROR_BAD_STATE & 0xFFFF
    assert "must be destroyed first" in card.rule("psp-ring")
    assert card.mailbox(psp.GFX_CTRL_CMD_ID_DESTROY_RINGS) == READY
    assert card.create_ring() == READY
    assert card.mailbox(0xF0000) & 0xFFFF == psp.PSP_ERR_UNKNOWN_COMMAND


def test_a_command_that_was_not_flushed_arrives_late_and_is_told_of(card: Any) -> None:
    card.start_smu()
    assert not card.rule("hdp-late")
    before = card.board.counters["psp_commands"]
    card.command(psp.GFX_CMD_ID_BOOT_CFG, flush=False, boot_cfg__sub_cmd=psp.BOOTCFG_CMD_GET)
    assert card.board.counters["psp_commands"] == before + 1
    assert "were not flushed; the PSP is slow enough, an engine is not" in card.rule("hdp-late")


def test_a_key_database_passes_as_the_spl_table(card: Any) -> None:
    """As drivers send it that have no SPL table (tinygrad 0.14); a system driver does not."""
    card.setup()
    kdb = bl_image(psp.PSP_BL__LOAD_KEY_DATABASE)
    assert card.boot_loader(psp.PSP_BL__LOAD_KEY_DATABASE, kdb) == READY
    assert card.boot_loader(psp.PSP_BL__LOAD_TOS_SPL_TABLE, bl_image(psp.PSP_BL__LOAD_SYSDRV)) == READY | BL_ERROR_IMAGE
    assert card.boot_loader(psp.PSP_BL__LOAD_TOS_SPL_TABLE, kdb) == READY


def test_order_of_toc_tmr_and_firmware(card: Any) -> None:
    card.start_smu()
    assert card.setup_tmr(TMR_BYTES) == TEE_ERROR_BAD_STATE
    assert card.rule("psp-order") == "SETUP_TMR before LOAD_TOC"
    assert card.load("RS64_MEC") == TEE_ERROR_BAD_STATE
    assert card.rule("psp-order") == "LOAD_IP_FW of RS64_MEC before SETUP_TMR"
    assert card.load_toc().status == 0
    assert card.setup_tmr(TMR_BYTES - 4096) == TEE_ERROR_BAD_PARAMETERS
    assert card.setup_tmr(TMR_BYTES) == 0
    assert card.setup_tmr(TMR_BYTES) == TEE_ERROR_BAD_STATE
    assert card.load("RS64_MEC") == 0
    assert card.command(psp.GFX_CMD_ID_DESTROY_TMR).status == 0
    assert card.command(psp.GFX_CMD_ID_DESTROY_TMR).status == TEE_ERROR_BAD_STATE


def test_firmware_lands_in_the_tmr(card: Any) -> None:
    card.start_smu()
    card.load_toc()
    tmr = card.memory(card.TMR, TMR_BYTES)
    card.setup_tmr(TMR_BYTES)
    image = firmware.image("RS64_MEC")
    assert card.load("RS64_MEC", image) == 0
    assert tmr[:len(image)].tobytes() == image


@pytest.mark.parametrize("change", ["bit", "type", "short", "empty"])
def test_firmware_that_is_refused(card: Any, change: str) -> None:
    card.start_smu()
    card.load_toc()
    card.setup_tmr(TMR_BYTES)
    image = firmware.image("RS64_MEC")
    bad = {"bit": image[:0x200] + bytes([image[0x200] ^ 1]) + image[0x201:], "type": firmware.image("RS64_PFP"),
           "short": image[:-256], "empty": b""}[change]
    assert card.load("RS64_MEC", bad) != 0
    assert card.rule("psp-firmware").startswith("RS64_MEC: ") and "RS64_MEC" not in card.board.psp.loaded


def test_applications_and_the_rest(card: Any) -> None:
    card.start_smu()

    def application(number: int, name: str) -> psp.psp_gfx_resp:
        image = firmware.image(name)
        card.memory(card.IMAGE, len(image))[:] = np.frombuffer(image, np.uint8)
        return card.command(number, cmd_load_ta__app_phy_addr_lo=card.IMAGE, cmd_load_ta__app_phy_addr_hi=0x80,
                            cmd_load_ta__app_len=len(image))

    assert application(psp.GFX_CMD_ID_LOAD_TA, "TA").status == TEE_ERROR_BAD_STATE
    assert application(psp.GFX_CMD_ID_LOAD_ASD, "ASD").session_id == 1
    assert application(psp.GFX_CMD_ID_LOAD_TA, "TA").session_id == 2
    assert card.command(psp.GFX_CMD_ID_INVOKE_CMD, cmd_invoke_cmd__session_id=2).status == psp.TEE_ERROR_NOT_SUPPORTED
    assert card.command(psp.GFX_CMD_ID_UNLOAD_TA, cmd_unload_ta__session_id=2).status == 0
    assert card.command(psp.GFX_CMD_ID_UNLOAD_TA, cmd_unload_ta__session_id=2).status == TEE_ERROR_ITEM_NOT_FOUND
    assert card.command(psp.GFX_CMD_ID_SETUP_VMR).status == psp.TEE_ERROR_NOT_SUPPORTED
    assert card.command(0x77).status == psp.PSP_ERR_UNKNOWN_COMMAND
    card.command(psp.GFX_CMD_ID_BOOT_CFG, boot_cfg__sub_cmd=psp.BOOTCFG_CMD_SET, boot_cfg__boot_config=1,
                 boot_cfg__boot_config_valid=1)
    assert card.command(psp.GFX_CMD_ID_BOOT_CFG, boot_cfg__sub_cmd=psp.BOOTCFG_CMD_GET).uresp.boot_cfg.boot_cfg == 1
    assert card.command(psp.GFX_CMD_ID_PROG_REG, cmd_setup_reg_prog__reg_value=0x120).status == 0
    assert card.read("IH_RB_CNTL") == 0x120
    assert card.command(psp.GFX_CMD_ID_GET_FW_ATTESTATION).status == TEE_ERROR_BAD_STATE
    card.load_toc()
    card.setup_tmr(TMR_BYTES)
    where = card.command(psp.GFX_CMD_ID_GET_FW_ATTESTATION).uresp.fwar_db_info.fwar_db_addr_lo
    assert card.memory(where, 8, np.uint32)[1] == 0x143B6A37


def test_faults(card: Any, make_card: Callable[..., Any]) -> None:
    card.start_smu()
    card.load_toc()
    card.setup_tmr(TMR_BYTES)
    card.board.faults.inject("firmware-refused", count=1, firmware="RS64_MEC", status=0xFFFF0001)
    assert card.load("RS64_PFP") == 0 and card.load("RS64_MEC") == 0xFFFF0001 and card.load("RS64_MEC") == 0
    card.board.faults.inject("psp-status", count=1, command=psp.GFX_CMD_ID_BOOT_CFG, status=5)
    assert card.command(psp.GFX_CMD_ID_BOOT_CFG, boot_cfg__sub_cmd=2).status == 5
    card.board.faults.inject("psp-silent")
    card.command(psp.GFX_CMD_ID_BOOT_CFG, wait=False)
    card.wait(lambda: card.board.engine("psp").idle)
    assert card.memory(card.FENCE, 4, np.uint32)[0] == 0


def test_psp_never_ready(card: Any) -> None:
    card.board.faults.inject("psp-never-ready")
    card.board.reset()
    card.board.write_config(4, 2, 6)
    for _ in range(5):
        card.read("MP0_SMN_C2PMSG_33")
    assert card.read("MP0_SMN_C2PMSG_33") == READY and card.read("MP0_SMN_C2PMSG_35") == 0
