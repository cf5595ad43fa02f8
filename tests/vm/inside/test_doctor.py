"""Inside the guest: what doctor says of a real kernel with a card, and that its commands mend things."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ways import MODES, TRANSLATED, in_child, only

from amdrv.hal import AMD_VENDOR_ID
from amdrv.hal.sysfs import SysfsHal
from tools.amdrv_info.doctor import Host, examine

TRANSLATING = bool(set(MODES) & set(TRANSLATED))


def doctor(**limits: Any) -> dict[str, dict[str, str]]:
    """{check: finding}, by the command itself."""
    done = subprocess.run([sys.executable, "-m", "tools.amdrv_info", "doctor", "--json"], capture_output=True,
                          text=True, **limits)
    document = json.loads(done.stdout)
    assert done.returncode == (document["worst"] == "bad"), done.stderr
    return {each["check"]: each for each in document["doctor"]}


def mend(finding: dict[str, str]) -> None:
    """Carry out the command exactly as it is printed."""
    tool = Path("/tmp/bin")
    tool.mkdir(exist_ok=True)
    (tool / "amdrv-info").write_text(f"#!/bin/sh\nexec {sys.executable} -m tools.amdrv_info \"$@\"\n")
    (tool / "amdrv-info").chmod(0o755)
    done = subprocess.run(["/bin/sh", "-c", finding["fix"]], capture_output=True, text=True,
                          env={**os.environ, "PATH": f"{tool}:{os.environ['PATH']}", "USER": "root"})
    assert done.returncode == 0, (finding, done.stderr)


@pytest.fixture(scope="module")
def card() -> str:
    return SysfsHal().functions(AMD_VENDOR_ID)[0].address


def test_what_it_sees(card: str) -> None:
    found = doctor()
    assert found["card"]["state"] == "ok" and card in found["card"]["evidence"]
    if TRANSLATING:
        assert found["IOMMU"]["state"] == "ok" and "intel_iommu=on" in found["IOMMU"]["evidence"]
        assert found[f"{card} IOMMU group"]["state"] == "ok" and card in found[f"{card} IOMMU group"]["evidence"]
        assert found["VFIO"]["state"] == "ok"
    else:
        option = "amd_iommu=on" if "AuthenticAMD" in Path("/proc/cpuinfo").read_text() else "intel_iommu=on"
        assert found["IOMMU"]["state"] == "bad" and f"{option} iommu=pt" in found["IOMMU"]["fix"]
    assert found[f"{card} driver"]["evidence"] == "no driver"
    assert "256 MiB" in found[f"{card} VRAM window"]["evidence"] and found[f"{card} VRAM window"]["state"] == "bad"
    assert "GT/s x" in found[f"{card} PCIe link"]["evidence"]
    if TRANSLATING:                                     # behind a root port of QEMU's
        assert found[f"{card} atomics"]["state"] == "note" and "0000:00:" in found[f"{card} atomics"]["evidence"]
    assert found[f"{card} reset"]["state"] == "ok" and "flr" in found[f"{card} reset"]["evidence"]
    assert found["lockdown"]["state"] == "ok" and found["locked memory"]["state"] == "ok"
    for each in found.values():
        assert each["evidence"], each
        assert each["state"] == "ok" or each["cause"], each


def test_huge_pages_are_mended() -> None:
    Path("/proc/sys/vm/nr_hugepages").write_text("0")
    before = doctor()["huge pages"]
    assert before["state"] == "note" and before["evidence"].startswith("0 free")
    mend(before)
    assert doctor()["huge pages"]["state"] == "ok"
    Path("/proc/sys/vm/nr_hugepages").write_text("40")


def test_locked_memory_is_mended() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10, resource.RLIM_INFINITY))
    found = doctor(preexec_fn=limit)["locked memory"]
    assert found["state"] == "bad" and "0.0625 MiB" in found["evidence"]
    done = subprocess.run(["/bin/sh", "-c", f"{found['fix'].partition('#')[0]}; exec {sys.executable} -m "
                           "tools.amdrv_info doctor --json"], capture_output=True, text=True, preexec_fn=limit)
    assert {f["check"]: f for f in json.loads(done.stdout)["doctor"]}["locked memory"]["state"] == "ok"


def test_firmware_is_looked_for(tmp_path: Path) -> None:
    found = doctor(env={**os.environ, "AMDRV_FIRMWARE": str(tmp_path)})["firmware"]
    assert str(tmp_path) in found["evidence"]


@only(*TRANSLATED)
def test_binding_and_permissions_are_mended(card: str) -> None:
    mend(doctor()[f"{card} driver"])
    found = doctor()
    assert found[f"{card} driver"]["evidence"] == "vfio-pci" and found[f"{card} permission"]["state"] == "ok"

    def as_user() -> str:
        found = {f.check: f for f in examine(Host())}[f"{card} permission"]
        return f"{found.state}; {found.evidence}; {found.fix}"
    files = found[f"{card} permission"]["evidence"].split(", ")
    said = in_child(as_user, user=1000)
    assert said.startswith("bad") and f"chown $USER {' '.join(files)}" in said, said
    for each in files:
        os.chown(each, 1000, 1000)                      # what the command does when that user's name is $USER
    assert in_child(as_user, user=1000) == f"ok; {', '.join(files)}; "
    for each in files:
        os.chown(each, 0, 0)
    assert found[f"{card} way"]["evidence"].startswith("vfio:iommufd")
    mend({"fix": f"amdrv-info unbind {card}"})
    assert doctor()[f"{card} driver"]["evidence"] == "no driver"
