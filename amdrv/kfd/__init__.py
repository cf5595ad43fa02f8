"""A card that stays with its kernel driver: amdgpu's compute side, amdkfd, from user space.

    topology     what /sys says about the machine's cards
    process      /dev/kfd: what this process is to the kernel: cards it has, calls, events
    memory       VRAM, host memory, arrays that exist already, buffers of others
    queues       compute and copy queues, and their doorbells
    aql          queues of HSA packets
    device       one card with its memory and queues
    backend      hcq's commands on it: ``hcq.open("KFD")``
    simulated    the kernel's side of these calls, served by this driver on a mock card, for tests without a kernel

Names of structures and flags are those of ``linux/kfd_ioctl.h`` (:mod:`amdrv.facts.kfd`); what a call does was read in
Linux 7.3, ``drivers/gpu/drm/amd/amdkfd`` and ``amdgpu/amdgpu_amdkfd_gpuvm.c``.
"""
