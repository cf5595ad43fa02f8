"""The user API of amdkfd, and what is used of amdgpu's, of Linux 6.12. Made by tools/autogen; do not edit.

From linux/kfd_ioctl.h and drm/amdgpu_drm.h. Constants in capitals are ioctl numbers, flags and limits; structures carry
the kernel's names. ``ARGUMENTS`` names the structure that a call's number takes.
"""

import ctypes

u8, u16, u32, u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
i8, i16, i32, i64 = ctypes.c_int8, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64

KFD_IOCTL_MAJOR_VERSION = 1
KFD_IOCTL_MINOR_VERSION = 0x11
KFD_IOC_QUEUE_TYPE_COMPUTE = 0
KFD_IOC_QUEUE_TYPE_SDMA = 1
KFD_IOC_QUEUE_TYPE_COMPUTE_AQL = 2
KFD_IOC_QUEUE_TYPE_SDMA_XGMI = 3
KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID = 4
KFD_MAX_QUEUE_PERCENTAGE = 0x64
KFD_MAX_QUEUE_PRIORITY = 0xf
KFD_MIN_QUEUE_RING_SIZE = 0x400
KFD_IOC_EVENT_SIGNAL = 0
KFD_IOC_EVENT_NODECHANGE = 1
KFD_IOC_EVENT_DEVICESTATECHANGE = 2
KFD_IOC_EVENT_HW_EXCEPTION = 3
KFD_IOC_EVENT_SYSTEM_EVENT = 4
KFD_IOC_EVENT_DEBUG_EVENT = 5
KFD_IOC_EVENT_PROFILE_EVENT = 6
KFD_IOC_EVENT_QUEUE_EVENT = 7
KFD_IOC_EVENT_MEMORY = 8
KFD_IOC_WAIT_RESULT_COMPLETE = 0
KFD_IOC_WAIT_RESULT_TIMEOUT = 1
KFD_IOC_WAIT_RESULT_FAIL = 2
KFD_SIGNAL_EVENT_LIMIT = 0x1000
KFD_HW_EXCEPTION_WHOLE_GPU_RESET = 0
KFD_HW_EXCEPTION_PER_ENGINE_RESET = 1
KFD_HW_EXCEPTION_GPU_HANG = 0
KFD_HW_EXCEPTION_ECC = 1
KFD_MEM_ERR_NO_RAS = 0
KFD_MEM_ERR_SRAM_ECC = 1
KFD_MEM_ERR_POISON_CONSUMED = 2
KFD_MEM_ERR_GPU_HANG = 3
KFD_IOC_ALLOC_MEM_FLAGS_VRAM = 1
KFD_IOC_ALLOC_MEM_FLAGS_GTT = 2
KFD_IOC_ALLOC_MEM_FLAGS_USERPTR = 4
KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL = 8
KFD_IOC_ALLOC_MEM_FLAGS_MMIO_REMAP = 0x10
KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE = 0x80000000
KFD_IOC_ALLOC_MEM_FLAGS_EXECUTABLE = 0x40000000
KFD_IOC_ALLOC_MEM_FLAGS_PUBLIC = 0x20000000
KFD_IOC_ALLOC_MEM_FLAGS_NO_SUBSTITUTE = 0x10000000
KFD_IOC_ALLOC_MEM_FLAGS_AQL_QUEUE_MEM = 0x8000000
KFD_IOC_ALLOC_MEM_FLAGS_COHERENT = 0x4000000
KFD_IOC_ALLOC_MEM_FLAGS_UNCACHED = 0x2000000
KFD_IOC_ALLOC_MEM_FLAGS_EXT_COHERENT = 0x1000000
KFD_IOC_ALLOC_MEM_FLAGS_CONTIGUOUS = 0x800000
DRM_AMDGPU_INFO = 5
AMDGPU_INFO_DEV_INFO = 0x16

AMDKFD_IOC_GET_VERSION = 0x80084b01
AMDKFD_IOC_CREATE_QUEUE = 0xc0604b02
AMDKFD_IOC_DESTROY_QUEUE = 0xc0084b03
AMDKFD_IOC_GET_CLOCK_COUNTERS = 0xc0284b05
AMDKFD_IOC_UPDATE_QUEUE = 0x40184b07
AMDKFD_IOC_CREATE_EVENT = 0xc0204b08
AMDKFD_IOC_DESTROY_EVENT = 0x40084b09
AMDKFD_IOC_SET_EVENT = 0x40084b0a
AMDKFD_IOC_RESET_EVENT = 0x40084b0b
AMDKFD_IOC_WAIT_EVENTS = 0xc0184b0c
AMDKFD_IOC_SET_SCRATCH_BACKING_VA = 0xc0104b11
AMDKFD_IOC_GET_PROCESS_APERTURES_NEW = 0xc0104b14
AMDKFD_IOC_ACQUIRE_VM = 0x40084b15
AMDKFD_IOC_ALLOC_MEMORY_OF_GPU = 0xc0284b16
AMDKFD_IOC_FREE_MEMORY_OF_GPU = 0x40084b17
AMDKFD_IOC_MAP_MEMORY_TO_GPU = 0xc0184b18
AMDKFD_IOC_UNMAP_MEMORY_FROM_GPU = 0xc0184b19
AMDKFD_IOC_SET_CU_MASK = 0x40104b1a
AMDKFD_IOC_GET_DMABUF_INFO = 0xc0204b1c
AMDKFD_IOC_IMPORT_DMABUF = 0xc0184b1d
AMDKFD_IOC_AVAILABLE_MEMORY = 0xc0104b23
AMDKFD_IOC_EXPORT_DMABUF = 0xc0104b24
DRM_IOCTL_AMDGPU_INFO = 0x40206445

class kfd_ioctl_get_version_args(ctypes.Structure):  # 8 bytes
    _fields_ = [("major_version", u32), ("minor_version", u32)]


class kfd_ioctl_create_queue_args(ctypes.Structure):  # 96 bytes
    _fields_ = [
        ("ring_base_address", u64), ("write_pointer_address", u64), ("read_pointer_address", u64),
        ("doorbell_offset", u64), ("ring_size", u32), ("gpu_id", u32), ("queue_type", u32), ("queue_percentage", u32),
        ("queue_priority", u32), ("queue_id", u32), ("eop_buffer_address", u64), ("eop_buffer_size", u64),
        ("ctx_save_restore_address", u64), ("ctx_save_restore_size", u32), ("ctl_stack_size", u32),
        ("sdma_engine_id", u32), ("pad", u32),
    ]


class kfd_ioctl_destroy_queue_args(ctypes.Structure):  # 8 bytes
    _fields_ = [("queue_id", u32), ("pad", u32)]


class kfd_ioctl_get_clock_counters_args(ctypes.Structure):  # 40 bytes
    _fields_ = [
        ("gpu_clock_counter", u64), ("cpu_clock_counter", u64), ("system_clock_counter", u64),
        ("system_clock_freq", u64), ("gpu_id", u32), ("pad", u32),
    ]


class kfd_ioctl_update_queue_args(ctypes.Structure):  # 24 bytes
    _fields_ = [
        ("ring_base_address", u64), ("queue_id", u32), ("ring_size", u32), ("queue_percentage", u32),
        ("queue_priority", u32),
    ]


class kfd_ioctl_create_event_args(ctypes.Structure):  # 32 bytes
    _fields_ = [
        ("event_page_offset", u64), ("event_trigger_data", u32), ("event_type", u32), ("auto_reset", u32),
        ("node_id", u32), ("event_id", u32), ("event_slot_index", u32),
    ]


class kfd_ioctl_destroy_event_args(ctypes.Structure):  # 8 bytes
    _fields_ = [("event_id", u32), ("pad", u32)]


class kfd_ioctl_set_event_args(ctypes.Structure):  # 8 bytes
    _fields_ = [("event_id", u32), ("pad", u32)]


class kfd_ioctl_reset_event_args(ctypes.Structure):  # 8 bytes
    _fields_ = [("event_id", u32), ("pad", u32)]


class kfd_ioctl_wait_events_args(ctypes.Structure):  # 24 bytes
    _fields_ = [("events_ptr", u64), ("num_events", u32), ("wait_for_all", u32), ("timeout", u32), ("wait_result", u32)]


class kfd_ioctl_set_scratch_backing_va_args(ctypes.Structure):  # 16 bytes
    _fields_ = [("va_addr", u64), ("gpu_id", u32), ("pad", u32)]


class kfd_ioctl_get_process_apertures_new_args(ctypes.Structure):  # 16 bytes
    _fields_ = [("kfd_process_device_apertures_ptr", u64), ("num_of_nodes", u32), ("pad", u32)]


class kfd_ioctl_acquire_vm_args(ctypes.Structure):  # 8 bytes
    _fields_ = [("drm_fd", u32), ("gpu_id", u32)]


class kfd_ioctl_alloc_memory_of_gpu_args(ctypes.Structure):  # 40 bytes
    _fields_ = [("va_addr", u64), ("size", u64), ("handle", u64), ("mmap_offset", u64), ("gpu_id", u32), ("flags", u32)]


class kfd_ioctl_free_memory_of_gpu_args(ctypes.Structure):  # 8 bytes
    _fields_ = [("handle", u64)]


class kfd_ioctl_map_memory_to_gpu_args(ctypes.Structure):  # 24 bytes
    _fields_ = [("handle", u64), ("device_ids_array_ptr", u64), ("n_devices", u32), ("n_success", u32)]


class kfd_ioctl_unmap_memory_from_gpu_args(ctypes.Structure):  # 24 bytes
    _fields_ = [("handle", u64), ("device_ids_array_ptr", u64), ("n_devices", u32), ("n_success", u32)]


class kfd_ioctl_set_cu_mask_args(ctypes.Structure):  # 16 bytes
    _fields_ = [("queue_id", u32), ("num_cu_mask", u32), ("cu_mask_ptr", u64)]


class kfd_ioctl_get_dmabuf_info_args(ctypes.Structure):  # 32 bytes
    _fields_ = [
        ("size", u64), ("metadata_ptr", u64), ("metadata_size", u32), ("gpu_id", u32), ("flags", u32),
        ("dmabuf_fd", u32),
    ]


class kfd_ioctl_import_dmabuf_args(ctypes.Structure):  # 24 bytes
    _fields_ = [("va_addr", u64), ("handle", u64), ("gpu_id", u32), ("dmabuf_fd", u32)]


class kfd_ioctl_get_available_memory_args(ctypes.Structure):  # 16 bytes
    _fields_ = [("available", u64), ("gpu_id", u32), ("pad", u32)]


class kfd_ioctl_export_dmabuf_args(ctypes.Structure):  # 16 bytes
    _fields_ = [("handle", u64), ("flags", u32), ("dmabuf_fd", u32)]


class kfd_memory_exception_failure(ctypes.Structure):  # 16 bytes
    _fields_ = [("NotPresent", u32), ("ReadOnly", u32), ("NoExecute", u32), ("imprecise", u32)]


class kfd_hsa_memory_exception_data(ctypes.Structure):  # 32 bytes
    _fields_ = [("failure", kfd_memory_exception_failure), ("va", u64), ("gpu_id", u32), ("ErrorType", u32)]


class kfd_hsa_hw_exception_data(ctypes.Structure):  # 16 bytes
    _fields_ = [("reset_type", u32), ("reset_cause", u32), ("memory_lost", u32), ("gpu_id", u32)]


class kfd_hsa_signal_event_data(ctypes.Structure):  # 8 bytes
    _fields_ = [("last_event_age", u64)]


class kfd_event_data__u0(ctypes.Union):  # 32 bytes
    _fields_ = [
        ("memory_exception_data", kfd_hsa_memory_exception_data), ("hw_exception_data", kfd_hsa_hw_exception_data),
        ("signal_event_data", kfd_hsa_signal_event_data),
    ]


class kfd_event_data(ctypes.Structure):  # 48 bytes
    _anonymous_ = ("u0",)
    _fields_ = [("u0", kfd_event_data__u0), ("kfd_event_data_ext", u64), ("event_id", u32), ("pad", u32)]


class kfd_process_device_apertures(ctypes.Structure):  # 56 bytes
    _fields_ = [
        ("lds_base", u64), ("lds_limit", u64), ("scratch_base", u64), ("scratch_limit", u64), ("gpuvm_base", u64),
        ("gpuvm_limit", u64), ("gpu_id", u32), ("pad", u32),
    ]


class kfd_context_save_area_header__wave_state(ctypes.Structure):  # 16 bytes
    _fields_ = [
        ("control_stack_offset", u32), ("control_stack_size", u32), ("wave_state_offset", u32),
        ("wave_state_size", u32),
    ]


class kfd_context_save_area_header(ctypes.Structure):  # 40 bytes
    _fields_ = [
        ("wave_state", kfd_context_save_area_header__wave_state), ("debug_offset", u32), ("debug_size", u32),
        ("err_payload_addr", u64), ("err_event_id", u32), ("reserved1", u32),
    ]

class drm_amdgpu_info__u0__mode_crtc(ctypes.Structure):  # 8 bytes
    _fields_ = [("id", u32), ("_pad", u32)]


class drm_amdgpu_info__u0__query_hw_ip(ctypes.Structure):  # 8 bytes
    _fields_ = [("type", u32), ("ip_instance", u32)]


class drm_amdgpu_info__u0__read_mmr_reg(ctypes.Structure):  # 16 bytes
    _fields_ = [("dword_offset", u32), ("count", u32), ("instance", u32), ("flags", u32)]


class drm_amdgpu_query_fw(ctypes.Structure):  # 16 bytes
    _fields_ = [("fw_type", u32), ("ip_instance", u32), ("index", u32), ("_pad", u32)]


class drm_amdgpu_info__u0__vbios_info(ctypes.Structure):  # 8 bytes
    _fields_ = [("type", u32), ("offset", u32)]


class drm_amdgpu_info__u0__sensor_info(ctypes.Structure):  # 4 bytes
    _fields_ = [("type", u32)]


class drm_amdgpu_info__u0__video_cap(ctypes.Structure):  # 4 bytes
    _fields_ = [("type", u32)]


class drm_amdgpu_info__u0(ctypes.Union):  # 16 bytes
    _fields_ = [
        ("mode_crtc", drm_amdgpu_info__u0__mode_crtc), ("query_hw_ip", drm_amdgpu_info__u0__query_hw_ip),
        ("read_mmr_reg", drm_amdgpu_info__u0__read_mmr_reg), ("query_fw", drm_amdgpu_query_fw),
        ("vbios_info", drm_amdgpu_info__u0__vbios_info), ("sensor_info", drm_amdgpu_info__u0__sensor_info),
        ("video_cap", drm_amdgpu_info__u0__video_cap),
    ]


class drm_amdgpu_info(ctypes.Structure):  # 32 bytes
    _anonymous_ = ("u0",)
    _fields_ = [("return_pointer", u64), ("return_size", u32), ("query", u32), ("u0", drm_amdgpu_info__u0)]


class drm_amdgpu_info_device(ctypes.Structure):  # 440 bytes
    _fields_ = [
        ("device_id", u32), ("chip_rev", u32), ("external_rev", u32), ("pci_rev", u32), ("family", u32),
        ("num_shader_engines", u32), ("num_shader_arrays_per_engine", u32), ("gpu_counter_freq", u32),
        ("max_engine_clock", u64), ("max_memory_clock", u64), ("cu_active_number", u32), ("cu_ao_mask", u32),
        ("cu_bitmap", u32 * 4 * 4), ("enabled_rb_pipes_mask", u32), ("num_rb_pipes", u32), ("num_hw_gfx_contexts", u32),
        ("pcie_gen", u32), ("ids_flags", u64), ("virtual_address_offset", u64), ("virtual_address_max", u64),
        ("virtual_address_alignment", u32), ("pte_fragment_size", u32), ("gart_page_size", u32), ("ce_ram_size", u32),
        ("vram_type", u32), ("vram_bit_width", u32), ("vce_harvest_config", u32), ("gc_double_offchip_lds_buf", u32),
        ("prim_buf_gpu_addr", u64), ("pos_buf_gpu_addr", u64), ("cntl_sb_buf_gpu_addr", u64),
        ("param_buf_gpu_addr", u64), ("prim_buf_size", u32), ("pos_buf_size", u32), ("cntl_sb_buf_size", u32),
        ("param_buf_size", u32), ("wave_front_size", u32), ("num_shader_visible_vgprs", u32), ("num_cu_per_sh", u32),
        ("num_tcc_blocks", u32), ("gs_vgt_table_depth", u32), ("gs_prim_buffer_depth", u32),
        ("max_gs_waves_per_vgt", u32), ("pcie_num_lanes", u32), ("cu_ao_bitmap", u32 * 4 * 4), ("high_va_offset", u64),
        ("high_va_max", u64), ("pa_sc_tile_steering_override", u32), ("tcc_disabled_mask", u64),
        ("min_engine_clock", u64), ("min_memory_clock", u64), ("tcp_cache_size", u32), ("num_sqc_per_wgp", u32),
        ("sqc_data_cache_size", u32), ("sqc_inst_cache_size", u32), ("gl1c_cache_size", u32), ("gl2c_cache_size", u32),
        ("mall_size", u64), ("enabled_rb_pipes_mask_hi", u32), ("shadow_size", u32), ("shadow_alignment", u32),
        ("csa_size", u32), ("csa_alignment", u32),
    ]


ARGUMENTS: dict[int, type[ctypes.Structure]] = {
    AMDKFD_IOC_GET_VERSION: kfd_ioctl_get_version_args,
    AMDKFD_IOC_CREATE_QUEUE: kfd_ioctl_create_queue_args,
    AMDKFD_IOC_DESTROY_QUEUE: kfd_ioctl_destroy_queue_args,
    AMDKFD_IOC_GET_CLOCK_COUNTERS: kfd_ioctl_get_clock_counters_args,
    AMDKFD_IOC_UPDATE_QUEUE: kfd_ioctl_update_queue_args,
    AMDKFD_IOC_CREATE_EVENT: kfd_ioctl_create_event_args,
    AMDKFD_IOC_DESTROY_EVENT: kfd_ioctl_destroy_event_args,
    AMDKFD_IOC_SET_EVENT: kfd_ioctl_set_event_args,
    AMDKFD_IOC_RESET_EVENT: kfd_ioctl_reset_event_args,
    AMDKFD_IOC_WAIT_EVENTS: kfd_ioctl_wait_events_args,
    AMDKFD_IOC_SET_SCRATCH_BACKING_VA: kfd_ioctl_set_scratch_backing_va_args,
    AMDKFD_IOC_GET_PROCESS_APERTURES_NEW: kfd_ioctl_get_process_apertures_new_args,
    AMDKFD_IOC_ACQUIRE_VM: kfd_ioctl_acquire_vm_args,
    AMDKFD_IOC_ALLOC_MEMORY_OF_GPU: kfd_ioctl_alloc_memory_of_gpu_args,
    AMDKFD_IOC_FREE_MEMORY_OF_GPU: kfd_ioctl_free_memory_of_gpu_args,
    AMDKFD_IOC_MAP_MEMORY_TO_GPU: kfd_ioctl_map_memory_to_gpu_args,
    AMDKFD_IOC_UNMAP_MEMORY_FROM_GPU: kfd_ioctl_unmap_memory_from_gpu_args,
    AMDKFD_IOC_SET_CU_MASK: kfd_ioctl_set_cu_mask_args,
    AMDKFD_IOC_GET_DMABUF_INFO: kfd_ioctl_get_dmabuf_info_args,
    AMDKFD_IOC_IMPORT_DMABUF: kfd_ioctl_import_dmabuf_args,
    AMDKFD_IOC_AVAILABLE_MEMORY: kfd_ioctl_get_available_memory_args,
    AMDKFD_IOC_EXPORT_DMABUF: kfd_ioctl_export_dmabuf_args,
    DRM_IOCTL_AMDGPU_INFO: drm_amdgpu_info,
}
