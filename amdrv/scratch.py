"""Scratch: the memory behind the waves' private segments, as launches tell the hardware of it.

The slots of all waves share one buffer. It grows when a kernel needs more; older launches keep the one they were given.
"""

from __future__ import annotations

from amdrv.errors import OutOfMemoryError

__all__ = ["SCRATCH_GRANULE", "Scratch", "slots"]

SCRATCH_GRANULE = 256                   # bytes a unit of COMPUTE_TMPRING_SIZE.WAVESIZE on gfx11 (Mesa)
LARGEST_WAVESIZE = (1 << 15) - 1        # units that WAVESIZE can say
WAVES_PER_CU = 32                       # that may hold scratch (Mesa, ac_gpu_info.c: max_scratch_waves)
WAVES_PER_WORKGROUP = 32                # 1024 work-items in waves of 32: what must fit into one SE
SCRATCH_BUDGET = 256 << 20              # bytes; beyond it fewer waves run at a time (our choice)
WAVESIZE_SHIFT = 12                     # of COMPUTE_TMPRING_SIZE, beside WAVES


class Scratch:
    """What a launch with scratch has to say: where the waves' slots are, how many an SE has, how large one is."""

    def __init__(self, address: int = 0, wave_bytes: int = 0, waves_per_se: int = 0) -> None:
        self.address, self.wave_bytes, self.waves_per_se = address, wave_bytes, waves_per_se

    @property
    def tmpring(self) -> int:
        """COMPUTE_TMPRING_SIZE"""
        return self.waves_per_se | self.wave_bytes // SCRATCH_GRANULE << WAVESIZE_SHIFT


def slots(before: Scratch, bytes_per_wave: int, compute_units: int, engines: int) -> tuple[int, int]:
    """Bytes a wave's slot and slots a shader engine, of scratch that is to follow ``before``.

    :raises OutOfMemoryError: more than the hardware can say.
    """
    wanted = -(-bytes_per_wave // SCRATCH_GRANULE) * SCRATCH_GRANULE
    if wanted > LARGEST_WAVESIZE * SCRATCH_GRANULE:
        raise OutOfMemoryError(f"scratch of {bytes_per_wave} bytes a wave; the hardware can say "
                               f"{LARGEST_WAVESIZE * SCRATCH_GRANULE} (COMPUTE_TMPRING_SIZE.WAVESIZE)")
    # Twice what there was, so that growing in steps costs no more than the last buffer again. An odd number of
    # granules spreads the slots over the memory channels (Mesa, ac_get_scratch_tmpring_size).
    wave_bytes = min(max(wanted, 2 * before.wave_bytes) | SCRATCH_GRANULE, LARGEST_WAVESIZE * SCRATCH_GRANULE)
    waves = max(WAVES_PER_CU * compute_units // engines, WAVES_PER_WORKGROUP)
    waves = max(min(waves, SCRATCH_BUDGET // (wave_bytes * engines)), WAVES_PER_WORKGROUP)
    return wave_bytes, waves
