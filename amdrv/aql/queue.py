"""amd_queue_t and amd_signal_t: what AQL packets, firmware and host agree on, as offsets in bytes.

ROCR-Runtime, amd_hsa_queue.h and amd_hsa_signal.h; amd_aql_queue.cpp for what the firmware tells through
queue_inactive_signal (AqlQueue::DynamicScratchHandler, DynamicQueueEventsHandler).
"""

from __future__ import annotations

QUEUE_BYTES = 256
# hsa_queue_t
FEATURES, BASE_ADDRESS, SIZE = 4, 8, 24
# amd_queue_t
WRITE_ID, GROUP_APERTURE, PRIVATE_APERTURE, MAX_CU_ID, MAX_WAVE_ID = 56, 64, 68, 72, 76
READ_ID, READ_ID_OFFSET, TMPRING_SIZE = 128, 136, 140
SCRATCH_BASE, SCRATCH_BYTES, SCRATCH_LANE_BYTES, PROPERTIES, INACTIVE_SIGNAL = 160, 168, 176, 180, 192
FEATURE_KERNEL_DISPATCH = 1
IS_PTR64, ENABLE_PROFILING = 1 << 1, 1 << 3     # queue_properties
# amd_signal_t
SIGNAL_BYTES, SIGNAL_KIND, SIGNAL_VALUE, SIGNAL_START, SIGNAL_END = 64, 0, 8, 32, 40
KIND_USER = 1

NEEDS_SCRATCH = {0x1: 64, 0x400: 32}            # the bit of each wave size
ERRORS = {
    0x2: "dimensions or sizes of a launch that the hardware does not have",
    0x4: "more group memory than there is", 0x8: "a kernel object that is none",
    0x10: "an argument segment that is none",
    0x20: "a packet of no known type", 0x40: "a workgroup that is too large", 0x80: "more registers than there are",
    0x100: "a vendor's packet that is not valid", 0x2000_0000: "an access to memory that is not there",
    0x4000_0000: "an illegal instruction", 0x8000_0000: "a trap of a shader"}
