"""A process that keeps a card's VFIO descriptors, so that the card outlives those who drive it.

vfio-pci resets a card when it is opened anew, and lets it sleep when its last descriptor is closed: whoever comes next
must boot it cold. A holder (``amdrv hold ADDRESS``) opens the card once and hands the descriptors to one process at a
time over a Unix socket; :class:`amdrv.hal.vfio.VfioHal` asks there first. When a client goes, by whatever end, the
holder stops the card's DMA, switches its interrupts off and unmaps what the client had mapped; the card itself stays
as it was, and the next client finds it warm. When the kernel wants the card back (unbinding, unplugging) the holder
lets it go as soon as no client has it.

Protocol: the holder sends one JSON line, and with it the descriptors: the device's, then the address space's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amdrv.errors import CardBusyError, HalError
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER
from amdrv.vfio.device import VfioDevice
from amdrv.vfio.interrupts import KINDS, Notice
from amdrv.vfio.iommu import Iommu

__all__ = ["HOLDERS", "Handed", "Holder", "ask", "socket_of"]

HOLDERS = Path("/run/amdrv")
MAX_FDS, MAX_LINE = 8, 4096
TIMEOUT = 10.0              # for a holder's answer, seconds
ADDRESS_SPACE = {"iommufd": 1, "type1": 2, "noiommu": 2}
"""Descriptors of each mode's address space: an iommufd; a container and a group."""
PEER_CREDENTIALS = struct.Struct("3i")      # struct ucred, unix(7)


def socket_of(address: str, directory: Path = HOLDERS) -> Path:
    return directory / f"hold-{address}.sock"


class Handed:
    """What a holder gave: ``mode``, the device's descriptor, and those to adopt the address space with. The card is
    ours until ``connection`` is closed."""

    def __init__(self, connection: socket.socket, mode: str, number: int, descriptors: list[int]) -> None:
        self.connection, self.mode, self.number = connection, mode, number
        self.device, self.iommu = descriptors[0], descriptors[1:]


def ask(address: str, directory: Path = HOLDERS) -> Handed | None:
    """The card, if a holder has it; None where there is none.

    :raises CardBusyError: the holder's card is with another process. :raises HalError: no answer that makes sense.
    """
    path = socket_of(address, directory)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None                     # nobody, or a socket that a killed holder left
    except OSError as error:
        connection.close()
        raise HalError(f"cannot ask the holder of {address} on {path}: {error.strerror or error}") from error
    descriptors: list[int] = []
    try:
        line = b""
        while not line.endswith(b"\n") and len(line) < MAX_LINE:
            piece, found, _, _ = socket.recv_fds(connection, MAX_LINE, MAX_FDS)
            descriptors += found
            if not piece:
                break
            line += piece
        said: dict[str, Any] = json.loads(line)
        if "busy" in said:
            raise CardBusyError(f"{address} is held by process {said['busy']}, which has it from its holder; stop it, "
                                "or use another card")
        if len(descriptors) != 1 + ADDRESS_SPACE[said["mode"]]:
            raise ValueError(f"{len(descriptors)} descriptors for mode {said['mode']}")
        return Handed(connection, said["mode"], int(said["number"]), descriptors)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _discard(connection, descriptors)
        raise HalError(f"the holder of {address} on {path} gave no answer that makes sense ({error}); stop it and "
                       f"start it again: amdrv hold {address}") from error
    except CardBusyError:
        _discard(connection, descriptors)
        raise


def _discard(connection: socket.socket, descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
    connection.close()


class Holder:
    """Holds one card. :param mode: the VFIO mode that ``iommu`` is of.

    :raises CardBusyError: the card has a holder already.
    """

    def __init__(self, path: Path, mode: str, iommu: Iommu, *, directory: Path = HOLDERS,
                 say: Callable[[str], None] = lambda text: None) -> None:
        self.address, self.mode, self._iommu, self._say = path.name, mode, iommu, say
        self.socket = socket_of(path.name, directory)
        self._listener = _listen(self.socket, path.name)
        self._client: socket.socket | None = None
        try:
            self._device = VfioDevice(iommu.open_device(path), path.name)
        except BaseException:
            self._listener.close()
            self.socket.unlink(missing_ok=True)
            raise
        self._request = self._notice()
        self.wanted = False
        """The kernel asked for the card."""

    def _notice(self) -> Notice | None:
        with contextlib.suppress(HalError):     # a kernel that gives none: then it waits for us without a word
            return Notice(self._device, "request")
        return None

    def serve(self, until: Callable[[], bool] = lambda: False, *, turn: float = 0.5) -> None:
        """Hand the card out until ``until()`` (asked every ``turn`` seconds), or until the kernel wants it back."""
        while not until() and not (self.wanted and self._client is None):
            watched: list[Any] = [self._listener, *filter(None, (self._client, self._request))]
            ready = select.select(watched, [], [], turn)[0]
            if self._client is not None and self._client in ready:
                self._clean()                   # first: whoever waits behind it gets a quiet card
            elif self._listener in ready:
                self._hand_out()
            if self._request in ready and self._request is not None and self._request.wait(0):
                self.wanted = True
                self._say(f"{self.address}: the kernel wants it back"
                          + (f"; waiting for process {self._owner()}" if self._client else ""))

    def _hand_out(self) -> None:
        connection, _ = self._listener.accept()
        with contextlib.suppress(OSError):
            if self._client is not None:
                connection.sendall(json.dumps({"busy": self._owner()}).encode() + b"\n")
                connection.close()
                return
            descriptors, number = self._iommu.handed()
            said = json.dumps({"mode": self.mode, "number": number}).encode() + b"\n"
            self._client = connection               # before it knows: from then on there is something to clean up
            socket.send_fds(connection, [said], [self._device.fd, *descriptors])
            self._say(f"{self.address}: process {self._owner()} has it")
            return
        if self._client is connection:          # it went before it was answered
            self._client = None
        connection.close()

    def _owner(self) -> int:
        """The client's process number."""
        assert self._client is not None
        data = self._client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
        return int(PEER_CREDENTIALS.unpack(data)[0])

    def _clean(self) -> None:
        """The client has gone: no DMA, no interrupts, no maps."""
        assert self._client is not None
        owner = self._owner()
        try:
            with contextlib.suppress(HalError, OSError):        # a card that was pulled out cannot be asked any more
                command = self._device.config_read(COMMAND, 2)
                self._device.config_write(COMMAND, 2, command & ~COMMAND_MASTER)
            for index in KINDS.values():
                if self._device.interrupt_info(index).count:
                    with contextlib.suppress(HalError):         # that kind was not in use
                        self._device.set_interrupts(index, [])
            self._iommu.unmap_all()
            self._request = self._renewed()
        finally:                        # only now may somebody else have the card
            self._client.close()
            self._client = None
        self._say(f"{self.address}: process {owner} has gone; the card is quiet")

    def _renewed(self) -> Notice | None:
        """The client may have asked for the kernel's notice himself, which takes it from us."""
        if self._request is not None:
            with contextlib.suppress(HalError):
                self._request.close()
        return self._notice()

    def close(self) -> None:
        """Let the card go. Idempotent."""
        if self._client is not None:
            self._clean()
        if self._request is not None:
            with contextlib.suppress(HalError):
                self._request.close()
            self._request = None
        self._listener.close()
        self.socket.unlink(missing_ok=True)
        self._device.close()
        self._iommu.close()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _listen(path: Path, address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            try:
                probe.connect(str(path))
                raise CardBusyError(f"{address} has a holder already, on {path}")
            except ConnectionRefusedError:
                path.unlink()                   # a killed holder left it
            except FileNotFoundError:
                pass
        listener.bind(str(path))
        path.chmod(0o600)                       # who holds decides who may have it: chown the socket
        listener.listen(8)
    except OSError as error:
        listener.close()
        if error.errno == errno.EACCES:
            raise HalError(f"cannot make {path}: {error.strerror}; run as root, or give {path.parent} to your "
                           "user") from error
        raise HalError(f"cannot make {path}: {error.strerror or error}") from error
    except CardBusyError:
        listener.close()
        raise
    return listener
