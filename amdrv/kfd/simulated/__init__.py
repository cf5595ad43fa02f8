"""The kernel's side of :mod:`amdrv.kfd`, without a kernel: amdkfd's calls, served on cards that this driver boots.

    AMDRV_HAL=mock KFD=1 python examples/...      # hcq.open("KFD"), on a mock card, on any platform

What a call checks and refuses is what Linux 7.3's amdkfd checks and refuses, errno for errno; memory goes through this
driver's page tables, queues onto the card's hardware slots by their registers (as hqd_load_v11 and hqd_sdma_load_v11 of
amdgpu_amdkfd_gfx_v11.c do), interrupts come to a thread that raises events. It knows nothing of the other side but the
structures of ``kfd_ioctl.h``, and that side nothing of it.

There is one process, one address space, and no scheduler: every queue stays on the hardware.
"""

from amdrv.kfd.simulated.kernel import SimulatedKernel

__all__ = ["SimulatedKernel"]
