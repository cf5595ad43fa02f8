"""Inside the guest: the whole driver over vfio-pci, IOMMU and MSI, on a card that the host serves over vfio-user.

For each way: boot, copy, compute, every register write counted; then a process that is killed while the card copies
for it, and the next one, which finds a card that works.
"""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from line import Line

from amdrv.device import Device
from amdrv.hal import AMD_VENDOR_ID
from amdrv.hal.region import MappedRegion
from amdrv.hal.vfio import VfioHal
from amdrv.vfio.bind import bind, unbind

writes: Counter[str] = Counter()


def count_writes() -> None:
    """What the driver asks for: one for each call, by BAR and width."""
    for width in (4, 8):
        name = f"write{8 * width}"
        setattr(MappedRegion, name, counted(getattr(MappedRegion, name), width))


def counted(write: Callable[[MappedRegion, int, int], None], width: int) -> Callable[[MappedRegion, int, int], None]:
    def count(region: MappedRegion, offset: int, value: int) -> None:
        writes[f"{region.name}:{width}"] += 1
        write(region, offset, value)
    return count


def tell() -> None:
    print("WRITES", *(f"{name}={number}" for name, number in sorted(writes.items())), flush=True)


def work(mode: str, address: str) -> None:
    start = time.monotonic()
    with Device.open(hal=VfioHal(mode), address=address) as device:
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
    try:
        runpy.run_path("examples/vector_add.py", run_name="__main__")
    except SystemExit as end:           # with its status, as a script ends
        assert not end.code, end.code
    print("COMPUTED", flush=True)


def part(name: str, mode: str, address: str) -> subprocess.Popen[str]:
    """A process of its own for each part, so that nothing is left open."""
    return subprocess.Popen([sys.executable, __file__, name, mode, address], stdout=subprocess.PIPE, text=True)


def main(modes: list[str]) -> None:
    address = VfioHal("type1").functions(AMD_VENDOR_ID)[0].address
    bind(address)
    line = Line()
    for mode in modes:
        child = part("work", mode, address)
        output = child.communicate()[0]
        print(output, end="", flush=True)
        assert child.returncode == 0, mode
    line.ask("mark")                    # what the card has seen until now is compared with what was counted
    for mode in modes:
        child = part("copy", mode, address)
        assert child.stdout is not None and child.stdout.readline() == "COPYING\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child = part("work", mode, address)
        output = child.communicate()[0]
        assert child.returncode == 0 and "COMPUTED" in output, output
        print(f"SURVIVED over {mode}", flush=True)
    for mode in modes:
        held(mode, address)


def held(mode: str, address: str) -> None:
    """With a holder, who is killed in mid-copy leaves a card that works, the one after the next boots warm, and the
    kernel gets the card when it asks for it."""
    holder = subprocess.Popen([sys.executable, "-m", "amdrv", "hold", address, "--mode", mode], stdout=subprocess.PIPE,
                              text=True)
    assert holder.stdout is not None and f"held by {mode}" in holder.stdout.readline()
    warm = []
    for name in ("copy", "boot", "boot"):
        child = part(name, mode, address)
        if name == "copy":
            assert child.stdout is not None and child.stdout.readline() == "COPYING\n"
            child.send_signal(signal.SIGKILL)
            child.wait()
        else:
            output = child.communicate()[0]
            assert child.returncode == 0, output
            warm.append(output.split()[-1])
    print(f"HELD over {mode}: {' '.join(warm)}", flush=True)
    unbind(address)                     # the holder is asked, and lets go
    output = holder.communicate(timeout=60)[0]
    assert holder.returncode == 0 and "the kernel wants it back" in output and "let go" in output, output
    bind(address)


def boot(mode: str, address: str) -> None:
    with Device.open(hal=VfioHal(mode), address=address) as device:
        print("BOOTED", "warm" if device.warm else "cold", flush=True)


def copy(mode: str) -> None:
    """Without end, and long enough to be killed in the middle."""
    os.environ["AMDRV_HAL"] = f"vfio:{mode}"
    import hcq
    card = hcq.open("AM")
    values = np.arange(1 << 20, dtype=np.uint32)
    buffer = card.alloc(values.nbytes)
    buffer.copyin(values)
    card.synchronize()
    print("COPYING", flush=True)
    while True:
        buffer.copyin(values).copyout(values)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        count_writes()
        atexit.register(tell)           # before the driver's own: it runs after them
        work(sys.argv[2], sys.argv[3])
    elif sys.argv[1] == "boot":
        boot(sys.argv[2], sys.argv[3])
    elif sys.argv[1] == "copy":
        copy(sys.argv[2])
    else:
        main(sys.argv[1].split(","))
