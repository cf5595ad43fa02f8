"""Inside the guest: the whole driver over vfio-pci, IOMMU and MSI, on a card that the host serves over vfio-user."""

from __future__ import annotations

import gc
import os
import sys
import time

import numpy as np


def main(mode: str) -> None:
    from amdrv.device import Device
    from amdrv.hal import AMD_VENDOR_ID
    from amdrv.hal.vfio import VfioHal
    from amdrv.vfio.bind import bind
    hal = VfioHal(mode)
    card, = hal.functions(AMD_VENDOR_ID)
    bind(card.address)
    start = time.monotonic()
    with Device.open(hal=hal, address=card.address) as device:
        print(f"BOOTED {device.compute_units} CUs over {mode} in {time.monotonic() - start:.1f} s", flush=True)
    del device
    gc.collect()                        # the group stays open as long as anything looks at a BAR
    os.environ["AMDRV_HAL"] = f"vfio:{mode}"
    import hcq
    card = hcq.open("AM")
    values = np.arange(1 << 16, dtype=np.uint32)
    buffer = card.alloc(values.nbytes).copyin(values)
    assert np.array_equal(buffer.copyout(np.empty_like(values)), values)
    print("COPIED", flush=True)
    sys.argv = ["vector_add.py", "-n", "4096"]
    import runpy
    runpy.run_path("examples/vector_add.py", run_name="__main__")
    print("COMPUTED", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
