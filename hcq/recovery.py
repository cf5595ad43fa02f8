"""A device that has faulted or hangs is brought back, and the process goes on.

    try:
        dev.synchronize()
    except (hcq.DeviceTimeout, Exception) as error:
        print(dev.recover())

The driver resets as little as it can (its queues; an engine; the whole card). All work that was not complete is given
up, of every queue: what waits for work that failed must not run on what that left behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hcq.errors import DeviceClosedError, HcqError

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["recover"]


def recover(device: Device) -> str:
    """See :meth:`hcq.Device.recover`."""
    take = getattr(device.backend, "recover", None)
    if take is None:
        raise HcqError(f"the driver of {device.name} cannot reset it; close it and open it again")
    with device._lock:
        if device._closed:
            raise DeviceClosedError(f"{device.name} is closed; open it again with hcq.open")
        busy = [timeline for timeline in device._all if timeline.busy]
        given_up = device._pending()
        try:
            done = take([timeline.queue for timeline in busy])
        except Exception as error:
            device._failure = error
            raise
        why = device._with_names(str(done))
        for timeline in busy:
            timeline.fail(why)
        for image in list(device._images.values()):
            image.barriers.clear()
            if done.vram_lost:
                image.upload(device)
        device._failure, device._stuck = None, False
    return f"{why}\nfailed: {given_up}" if given_up else why
