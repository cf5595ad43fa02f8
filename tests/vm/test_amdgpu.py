"""Linux's own amdgpu driver, as Debian ships it, on the mock card: it boots, resets, suspends, goes and comes again.

``make test-amdgpu``. What a guest needs is in :mod:`amdgpu_machine`, which also runs a script of yours in one.

The card's own log is held against the driver, too: what a strict card notes about Linux is either explained in
``EXPLAINED`` or a failure.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from amdgpu_machine import AmdgpuMachine, errors
from guest import Guest, Missing, Result, unavailable

from mock.board import Board
from mock.trace import events as trace

pytestmark = [pytest.mark.vm, pytest.mark.amdgpu, pytest.mark.timeout(1800)]

EXPLAINED = (
    ("unnamed-register", r"read of dword 0x7 ", "a BIOS scratch register, before the VBIOS says where they are"),
    ("unnamed-register", r"(read|write) of dword 0x12d1 ", "of which the headers of Linux 6.1 know nothing"),
    ("unnamed-register", r"write of dword 0xa[0-3]", "context registers of graphics, which are storage here"),
    ("gfxoff", r"GRBM_GFX_CNTL|SH_MEM_", "after a reset KFD sets its VMIDs up, and on a slow machine GFXOFF is faster"),
)
"""(rule, what the note says, why)"""
STATE = """
state() {
    echo "STATE $1"; ls /dev/dri /dev/kfd; cat /sys/class/kfd/kfd/topology/nodes/1/properties
    cat $DEBUG/amdgpu_test_ib; echo END
}
"""
LOG = "echo DMESG; dmesg -r\n"
RESET_AND_UNLOAD = STATE + """
amdgpu_load || exit 1
state loaded
cat $DEBUG/amdgpu_firmware_info; cat $DEBUG/amdgpu_vbios | wc -c
echo RECOVER $(cat $DEBUG/amdgpu_gpu_recover)
sleep 2
state recovered
amdgpu_unload; echo UNLOADED $? $(ls -d /dev/kfd /dev/dri/renderD128 2>/dev/null)
""" + LOG
RELOAD_AND_SUSPEND = STATE + """
amdgpu_load || exit 1
amdgpu_unload || exit 2
amdgpu_load || exit 3
state reloaded
cat > /tmp/suspend.sh <<'END OF SCRIPT'
echo devices > /sys/power/pm_test
echo mem > /sys/power/state; echo SUSPENDED $?
echo "STATE resumed"; ls /dev/dri /dev/kfd; cat $DEBUG/amdgpu_test_ib; echo END
""" + LOG + """
echo GUEST RC=0; echo b > /proc/sysrq-trigger
END OF SCRIPT
export PATH=/tmp/box; exec sh /tmp/suspend.sh       # nothing of the host's files, which 9p brings no more after this
"""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    (tmp_path / "initramfs.img").unlink(missing_ok=True)        # a hundred megabytes


@dataclass(frozen=True)
class Run:
    result: Result
    guest: Guest
    packets: Counter[str]           # that the card's engines were given, by name


def run(script: str, directory: Path, monkeypatch: pytest.MonkeyPatch, *, strip: bool = False,
        kiq: bool = False) -> Run:
    """Run a script in a guest; holds the card's log against the driver."""
    recording = directory / "amdgpu.trace"
    monkeypatch.setenv("AMDRV_MOCK_TRACE", str(recording))
    try:
        machine = AmdgpuMachine(strip=strip, kiq=kiq)
    except Missing as missing:
        unavailable(missing)
    with machine:
        result = machine.run(script, directory)
        check_notes(machine.board)
    packets = Counter(event.detail["name"] for event in trace.read(str(recording)).events if event.kind == "packet")
    return Run(result, machine.guest, packets)


def states(output: str) -> dict[str, str]:
    return dict(re.findall(r"^STATE (\w+)\n(.*?)^END$", output, re.M | re.S))


def check_state(text: str) -> None:
    assert "renderD128" in text and "card0" in text and "/dev/kfd" in text, text
    assert "ib ring tests passed." in text, text


def check_log(result: Result) -> str:
    """The kernel's log, which has no error in it."""
    log = result.output.partition("\nDMESG\n")[2].partition("GUEST RC")[0]
    assert result.status == 0 and len(re.findall(r"^<\d+>\[", log, re.M)) > 300, result.output[-6000:]
    assert not errors(log), "\n".join(errors(log))
    return log


def check_notes(board: Board) -> None:
    unexplained = [f"{note.rule}: {note.text}" for note in board.log
                   if not any(note.rule == rule and re.search(text, note.text) for rule, text, _ in EXPLAINED)]
    assert not unexplained, "\n" + "\n".join(unexplained)


KERNEL_RINGS = 9            # graphics and compute


def check_rings(packets: Counter[str], *, times: int, kiq: bool) -> None:
    """Who mapped the kernel's rings, each of ``times`` times; the scheduler's own is the KIQ's in any case."""
    if kiq:
        assert packets["MAP_QUEUES"] == times * (1 + KERNEL_RINGS) and not packets["MES_ADD_QUEUE"], packets
    else:
        assert packets["MES_ADD_QUEUE"] == times * KERNEL_RINGS and packets["MAP_QUEUES"] == times, packets


def test_boots_and_recovers(directory: Path, monkeypatch: pytest.MonkeyPatch,
                            record_property: Callable[[str, object], None]) -> None:
    """Unmodified. The rings are MES's (ADD_QUEUE)."""
    done = run(RESET_AND_UNLOAD, directory, monkeypatch)
    result = done.result
    log = check_log(result)
    check_rings(done.packets, times=2, kiq=False)
    done.guest.record(record_property, result, "Linux's amdgpu: boot, GPU reset, unload", "none", "vfio-user",
                         "initialized, no error")
    assert "[drm] Initialized amdgpu 3.64.0 for 0000:01:00.0" in log
    assert "MODE1 reset" in log and "GPU reset(1) succeeded!" in log and "RECOVER 0" in result.output
    found = states(result.output)
    assert found.keys() == {"loaded", "recovered"}
    for text in found.values():
        check_state(text)
        assert "gfx_target_version 110000" in text and "simd_count 192" in text
    assert "ASD feature version" in result.output
    assert "SMC feature version: 0, program: 0, firmware version: 0x004e7e00 (78.126.0)" in result.output
    assert re.search(r"^UNLOADED 0$", result.output, re.M), result.output[-3000:]


@pytest.mark.parametrize("scheduler", ["mes", "kiq"])
def test_reloads_and_resumes(scheduler: str, directory: Path, monkeypatch: pytest.MonkeyPatch,
                             record_property: Callable[[str, object], None]) -> None:
    """Without amdgpu's symbols, which it has not got time to load twice. ``kiq``: graphics and compute rings are mapped
    by the KIQ, as with mes=0 in older kernels: Linux 7.3 has no such option, and does so when the scheduler's firmware
    is older than 0x47 (mes_v11_0.c, mes_v11_0_kiq_hw_init)."""
    done = run(RELOAD_AND_SUSPEND, directory, monkeypatch, strip=True, kiq=scheduler == "kiq")
    result = done.result
    log = check_log(result)
    check_rings(done.packets, times=3, kiq=scheduler == "kiq")
    done.guest.record(record_property, result, f"Linux's amdgpu: reload, resume; rings by {scheduler.upper()}",
                         "none", "vfio-user", "resumed, no error")
    assert log.count("[drm] Initialized amdgpu") == 2
    assert "PSP is resuming" in log and "SMU is resumed successfully!" in log and "SUSPENDED 0" in result.output
    found = states(result.output)
    assert found.keys() == {"reloaded", "resumed"}
    for text in found.values():
        check_state(text)


LOOKS = """
amdgpu_load || exit 1
PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 $PYTHON tests/vm/inside/look_at_card.py || exit 2
"""


def test_amdrv_info_beside_amdgpu(directory: Path, monkeypatch: pytest.MonkeyPatch,
                                  record_property: Callable[[str, object], None]) -> None:
    """Our tool on a card that the kernel's driver has: by sysfs, debugfs and BARs; the card's log has no complaint, and
    amdgpu goes on."""
    done = run(LOOKS, directory, monkeypatch, strip=True)
    said = dict(re.findall(r"^LOOKED (.+?): (.*)$", done.result.output, re.M))
    done.guest.record(record_property, done.result, "amdrv-info on a card that amdgpu drives", "none", "sysfs, debugfs",
                      f"{len(said)} commands" if done.result.status == 0 else "FAILED")
    assert done.result.status == 0, done.result.output[-6000:]
    assert said["list"] == "amdgpu"
    assert re.fullmatch(r"the kernel's amdgpu, gfx1100, 256 MiB, mes 0x\w+, ta_dtm 0x\w+, edge 40.0", said["show"])
    assert said["reg asleep"] == said["vm asleep"] == "HalError, GFXOFF"
    assert re.fullmatch(r"enabled 1, depth \d", said["reg"]) and re.fullmatch(r"[1-9]\d* ranges, \[\]", said["vm map"])
    assert said["vm"] == "valid" and said["ih"].startswith("ring at 0x")
    assert said["ring"] == "comp_1.0.0 comp_1.0.1 comp_1.1.0 comp_1.1.1 comp_1.2.0 comp_1.2.1 comp_1.3.0 comp_1.3.1 " \
                           "gfx_0.0.0 sdma0 sdma1; []"
    assert said["queue"] == " ".join([*(f"compute 1.{pipe}.{queue}" for pipe in range(4) for queue in range(2)),
                                      "MES 3.0.0 MES 3.1.0 SDMA 0.0 SDMA 1.0; []"])
    assert said["wave"] == "0 waves" and said["top"] == "graphics core" and said["after"] == "ib ring tests passed."
    assert said["report"] == "registers_and_memory True, missing []"
