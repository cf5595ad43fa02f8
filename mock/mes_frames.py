"""Frames of the scheduler's ring: what the driver says to MES, 64 dwords each.

Layouts: Linux 7.3, mes_v11_api_def.h (packed to 4 bytes); older kernels' are the same but for words at the end of
frames, which they leave 0. Bit fields are plain words here, named by their bits below. With ``map_legacy_kq`` the
driver names the place of a queue of its own.
"""

from __future__ import annotations

import ctypes

__all__ = ["ADD_QUEUE", "FRAME_BYTES", "FRAME_WORDS", "Header", "LAYOUTS", "MISC", "OPCODES", "REMOVE_QUEUE", "RESET",
           "SET_HW_RESOURCES", "SUSPEND"]

FRAME_WORDS = 64
FRAME_BYTES = 4 * FRAME_WORDS
TYPE_SCHEDULER = 1

OPCODES = {"SET_HW_RSRC": 0, "SET_SCHEDULING_CONFIG": 1, "ADD_QUEUE": 2, "REMOVE_QUEUE": 3, "PERFORM_YIELD": 4,
           "SET_GANG_PRIORITY_LEVEL": 5, "SUSPEND": 6, "RESUME": 7, "RESET": 8, "SET_LOG_BUFFER": 9,
           "CHANGE_GANG_PRORITY": 10, "QUERY_SCHEDULER_STATUS": 11, "PROGRAM_GDS": 12, "SET_DEBUG_VMID": 13, "MISC": 14,
           "UPDATE_ROOT_PAGE_TABLE": 15, "AMD_LOG": 16, "SET_HW_RSRC_1": 19}
QUEUE_GFX, QUEUE_COMPUTE, QUEUE_SDMA = range(3)
(MISC_WRITE_REG, MISC_INV_GART, MISC_QUERY_STATUS, MISC_READ_REG, MISC_WAIT_REG_MEM, MISC_SET_SHADER_DEBUGGER,
 MISC_NOTIFY_WORK, MISC_NOTIFY_TO_UNMAP, MISC_CHANGE_CONFIG, MISC_LAUNCH_CLEANER_SHADER) = range(10)
QUERY_ARRAY_SIZES, QUERY_HEALTHY = range(2)
CONFIG_SINGLE_PROCESS, CONFIG_LOGGING, CONFIG_TDR = range(3)
DEBUG_PROGRAM, DEBUG_ALLOCATE, DEBUG_RELEASE = range(3)
WAIT_REG, WRITE_WAIT_REG = range(2)
COMPUTE_PIPES, GFX_PIPES, SDMA_PIPES, PRIORITIES = 8, 2, 2, 5

# bits of the flag words
RSRC_SINGLE_PROCESS = 1 << 17
ADD_GANG_SUSPENDED, ADD_KFD_PROCESS, ADD_TRAP, ADD_AQL, ADD_KEEP_CONTEXT, ADD_LEGACY = (
    1 << n for n in (6, 9, 10, 11, 12, 13))
REMOVE_LEGACY_GFX, REMOVE_PREEMPT_GFX, REMOVE_LEGACY, REMOVE_AFTER_RESET = 1 << 0, 1 << 2, 1 << 3, 1 << 4
DEBUGGER_TRAP_WORD = 8          # MISC's data: context lo, hi, flags, spi_gdbg_per_vmid_cntl, tcp_watch_cntl[4], trap_en
DEBUGGER_FLUSH = 1 << 31
SUSPEND_ALL = RESUME_ALL = 1 << 0
RESET_QUEUE_ONLY, RESET_HUNG, RESET_DETECT_ONLY, RESET_LEGACY_GFX = 1 << 0, 1 << 1, 1 << 2, 1 << 3

u32, u64 = ctypes.c_uint32, ctypes.c_uint64


class Header(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("type", u32, 4), ("opcode", u32, 8), ("dwsize", u32, 8), ("reserved", u32, 12)]


class Status(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("fence_addr", u64), ("fence_value", u64)]


class SET_HW_RESOURCES(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("vmid_mask_mmhub", u32), ("vmid_mask_gfxhub", u32), ("gds_size", u32),
                ("paging_vmid", u32), ("compute_hqd_mask", u32 * COMPUTE_PIPES), ("gfx_hqd_mask", u32 * GFX_PIPES),
                ("sdma_hqd_mask", u32 * SDMA_PIPES), ("aggregated_doorbells", u32 * PRIORITIES), ("sch_ctx", u64),
                ("query_status_fence", u64), ("gc_base", u32 * 8), ("mmhub_base", u32 * 8), ("osssys_base", u32 * 8),
                ("status", Status), ("flags", u32), ("oversubscription_timer", u32), ("doorbell_info", u64),
                ("event_history", u64), ("timestamp", u64), ("os_tdr_timeout", u32)]


class SET_HW_RESOURCES_1(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("status", Status), ("timestamp", u64), ("flags", u32), ("info_address", u64),
                ("info_bytes", u32), ("reserved", u64), ("cleaner_shader_fence", u64)]


class ADD_QUEUE(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("process_id", u32), ("page_table_base_addr", u64), ("process_va_start", u64),
                ("process_va_end", u64), ("process_quantum", u64), ("process_context_addr", u64),
                ("gang_quantum", u64), ("gang_context_addr", u64), ("inprocess_gang_priority", u32),
                ("gang_global_priority_level", u32), ("doorbell_offset", u32), ("mqd_addr", u64), ("wptr_addr", u64),
                ("h_context", u64), ("h_queue", u64), ("queue_type", u32), ("gds_base", u32), ("gds_size", u32),
                ("gws_base", u32), ("gws_size", u32), ("oa_mask", u32), ("trap_handler_addr", u64),
                ("vm_context_cntl", u32), ("flags", u32), ("status", Status), ("tma_addr", u64), ("sch_id", u32),
                ("timestamp", u64), ("process_context_array_index", u32), ("gang_context_array_index", u32),
                ("pipe_id", u32), ("queue_id", u32)]


class REMOVE_QUEUE(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("doorbell_offset", u32), ("gang_context_addr", u64), ("flags", u32),
                ("status", Status), ("pipe_id", u32), ("queue_id", u32), ("tf_addr", u64), ("tf_data", u32),
                ("queue_type", u32), ("timestamp", u64), ("gang_context_array_index", u32)]


class SET_SCHEDULING_CONFIG(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("grace_period_other_levels", u64 * PRIORITIES),
                ("process_quantum_for_level", u64 * PRIORITIES),
                ("process_grace_period_same_level", u64 * PRIORITIES), ("normal_yield_percent", u32),
                ("status", Status)]


class PERFORM_YIELD(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("dummy", u32), ("status", Status)]


class CHANGE_GANG_PRIORITY(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("inprocess_gang_priority", u32), ("gang_global_priority_level", u32),
                ("gang_quantum", u64), ("gang_context_addr", u64), ("status", Status)]


class SUSPEND(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("flags", u32), ("gang_context_addr", u64), ("suspend_fence_addr", u64),
                ("suspend_fence_value", u32), ("status", Status), ("doorbell_offset", u32)]


class RESUME(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("flags", u32), ("gang_context_addr", u64), ("status", Status),
                ("doorbell_offset", u32)]


class RESET(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("flags", u32), ("gang_context_addr", u64), ("doorbell_offset", u32),
                ("doorbell_offset_addr", u64), ("queue_type", u32), ("pipe_id_lp", u32), ("queue_id_lp", u32),
                ("vmid_id_lp", u32), ("mqd_mc_addr_lp", u64), ("doorbell_offset_lp", u32), ("wptr_addr_lp", u64),
                ("pipe_id_hp", u32), ("queue_id_hp", u32), ("vmid_id_hp", u32), ("mqd_mc_addr_hp", u64),
                ("doorbell_offset_hp", u32), ("wptr_addr_hp", u64), ("status", Status)]


class SET_LOG_BUFFER(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("log_type", u32), ("logging_buffer_addr", u64), ("number_of_entries", u32),
                ("interrupt_entry", u32), ("status", Status)]


class QUERY_STATUS(ctypes.LittleEndianStructure):
    """``address``: of process and gang contexts' counts, and of what is enabled; with QUERY_HEALTHY of the health."""

    _pack_ = 4
    _fields_ = [("header", Header), ("subopcode", u32), ("status", Status), ("timestamp", u64), ("address", u64 * 3)]


class PROGRAM_GDS(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("process_context_addr", u64), ("gds_base", u32), ("gds_size", u32),
                ("gws_base", u32), ("gws_size", u32), ("oa_mask", u32), ("status", Status)]


class SET_DEBUG_VMID(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("status", Status), ("flags", u32), ("reserved", u32), ("debug_vmid", u32),
                ("process_context_addr", u64), ("page_table_base_addr", u64), ("process_va_start", u64),
                ("process_va_end", u64), ("gds_base", u32), ("gds_size", u32), ("gws_base", u32), ("gws_size", u32),
                ("oa_mask", u32), ("output_addr", u64)]


class MISC(ctypes.LittleEndianStructure):
    """``data`` is the union: WRITE_REG (offset, value), READ_REG (offset, address lo, hi), INV_GART (start, size),
    QUERY_STATUS (context), WAIT_REG_MEM (operation, reference, mask, offset 1, offset 2), SET_SHADER_DEBUGGER (see
    DEBUGGER_TRAP_WORD), CHANGE_CONFIG (option, its value)."""

    _pack_ = 4
    _fields_ = [("header", Header), ("opcode", u32), ("status", Status), ("data", u32 * 20)]


class UPDATE_ROOT_PAGE_TABLE(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("page_table_base_addr", u64), ("process_context_addr", u64), ("status", Status)]


class AMD_LOG(ctypes.LittleEndianStructure):
    _pack_ = 4
    _fields_ = [("header", Header), ("p_buffer_memory", u64), ("p_buffer_size_used", u64), ("status", Status)]


LAYOUTS: dict[str, type[ctypes.LittleEndianStructure]] = {
    "SET_HW_RSRC": SET_HW_RESOURCES, "SET_HW_RSRC_1": SET_HW_RESOURCES_1,
    "SET_SCHEDULING_CONFIG": SET_SCHEDULING_CONFIG, "ADD_QUEUE": ADD_QUEUE,
    "REMOVE_QUEUE": REMOVE_QUEUE, "PERFORM_YIELD": PERFORM_YIELD, "SET_GANG_PRIORITY_LEVEL": CHANGE_GANG_PRIORITY,
    "SUSPEND": SUSPEND, "RESUME": RESUME, "RESET": RESET, "SET_LOG_BUFFER": SET_LOG_BUFFER,
    "CHANGE_GANG_PRORITY": CHANGE_GANG_PRIORITY, "QUERY_SCHEDULER_STATUS": QUERY_STATUS, "PROGRAM_GDS": PROGRAM_GDS,
    "SET_DEBUG_VMID": SET_DEBUG_VMID, "MISC": MISC, "UPDATE_ROOT_PAGE_TABLE": UPDATE_ROOT_PAGE_TABLE,
    "AMD_LOG": AMD_LOG}
