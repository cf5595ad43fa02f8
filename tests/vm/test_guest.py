"""The machinery of the VM suite, with a stand-in for QEMU: when a guest is started again, and what is recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import build_kernel
import guest
import table
from build_kernel import BuildError, missing_options, options
from guest import Guest, Kernel, Missing, unavailable
from table import Row

ROW = {"what": "edu", "kernel": "6.1", "iommu": "none", "modes": "sysfs", "qemu": "7.2", "result": "5 passed",
       "starts": 1, "seconds": 3.0}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    """A guest whose QEMU prints the next of the files 1, 2, 3, and a busybox that is none."""
    qemu = tmp_path / "qemu"
    qemu.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 11.1.3' && exit\n"
                    f"n=$(cat {tmp_path}/n 2>/dev/null || echo 0); n=$((n + 1)); echo $n > {tmp_path}/n\n"
                    f"cat {tmp_path}/$n\n")
    qemu.chmod(0o755)
    kernel = tmp_path / "bzImage"
    kernel.write_text("")
    monkeypatch.setattr(guest.shutil, "which", lambda name: "/bin/true" if name == "busybox" else str(qemu))
    return Guest(Kernel(kernel, None), qemu=str(qemu))


def outputs(folder: Path, *texts: str) -> None:
    for number, text in enumerate(texts, 1):
        (folder / str(number)).write_text(text)


def test_a_guest_that_does_not_boot_is_started_twice_more(machine: Guest, tmp_path: Path) -> None:
    outputs(tmp_path, "Kernel panic\n", "NO 9P\nGUEST RC=127\n", "GUEST UP 6.12.1\n5 passed in 2 s\nGUEST RC=0\n")
    result = machine.run("true", tmp_path)
    assert (result.status, result.tries, result.kernel, result.passed) == (0, 3, "6.12.1", 5)
    assert (tmp_path / "console-1.log").read_text() == "Kernel panic\n"


def test_and_not_more_often(machine: Guest, tmp_path: Path) -> None:
    outputs(tmp_path, "a\n", "b\n", "the third\n", "GUEST UP 6.12.1\nGUEST RC=0\n")
    with pytest.raises(RuntimeError, match="did not boot in 3 tries:\nthe third"):
        machine.run("true", tmp_path)


@pytest.mark.parametrize(("said", "status"), [("1 failed, 4 passed in 2 s\nGUEST RC=1\n", 1), ("Kernel panic\n", -1)])
def test_what_fails_in_a_booted_guest_is_a_failure(machine: Guest, tmp_path: Path, said: str, status: int) -> None:
    outputs(tmp_path, f"GUEST UP 6.1\n{said}", "GUEST UP 6.1\nGUEST RC=0\n")
    result = machine.run("true", tmp_path)
    assert (result.status, result.tries) == (status, 1)


def test_rows_of_the_table(machine: Guest, tmp_path: Path) -> None:
    outputs(tmp_path, "GUEST UP 6.1\n12 passed, 3 deselected in 2 s\n7 passed in 1 s\nGUEST RC=0\n")
    kept: list[tuple[str, object]] = []
    result = machine.run("true", tmp_path)
    machine.record(lambda name, value: kept.append((name, value)), result, "edu", "Intel", "type1",
                   f"{result.passed} passed")
    (name, value), = kept
    assert name == table.PROPERTY and isinstance(value, dict)
    assert table.markdown([Row(**value)]).splitlines()[-1] == "| edu | type1 | Intel | 6.1 | 11.1.3 | 19 passed | 1 |"


def test_the_page_keeps_what_is_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\nrows\n{table.END}\nafter\n")
    for _ in range(2):
        table.write(page, [Row(**ROW)])             # type: ignore[arg-type]
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert text.count("| edu |") == 1
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the table"):
        table.write(page, [])


def test_what_is_missing_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMDRV_VM_REQUIRED", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no QEMU"):
        unavailable(Missing("no QEMU"))
    monkeypatch.setenv("AMDRV_VM_REQUIRED", "1")
    with pytest.raises(pytest.fail.Exception, match="no QEMU"):
        unavailable(Missing("no QEMU"))


# ---- the kernel's script

def test_an_option_that_the_kernel_drops_is_named() -> None:
    wanted = options("CONFIG_IOMMUFD=y\nCONFIG_VFIO=y\n# CONFIG_DRM is not set\n")
    assert wanted == {"CONFIG_IOMMUFD": "y", "CONFIG_VFIO": "y", "CONFIG_DRM": "n"}
    assert missing_options(wanted, options("CONFIG_VFIO=m\n")) == [
        "CONFIG_IOMMUFD=y became n", "CONFIG_VFIO=y became m"]
    ours = options(build_kernel.CONFIG.read_text())
    assert {"CONFIG_IOMMUFD", "CONFIG_VFIO_DEVICE_CDEV", "CONFIG_VFIO_NOIOMMU", "CONFIG_VFIO_IOMMU_TYPE1",
            "CONFIG_INTEL_IOMMU", "CONFIG_AMD_IOMMU", "CONFIG_9P_FS"} <= {n for n, v in ours.items() if v == "y"}


def test_the_kernel_is_found_by_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "kernel.config"
    config.write_text("CONFIG_VFIO=y\n")
    monkeypatch.setattr(build_kernel, "CONFIG", config)
    monkeypatch.setattr(build_kernel, "CACHE", tmp_path)
    assert build_kernel.built() is None
    image = tmp_path / f"bzImage-6.12-{build_kernel._stamp()}"
    image.write_text("")
    assert build_kernel.built() == image
    config.write_text("CONFIG_VFIO=y\nCONFIG_IOMMUFD=y\n")
    assert build_kernel.built() is None                 # other options, another kernel


def test_a_build_that_cannot_be_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_kernel, "CACHE", tmp_path)
    monkeypatch.setattr(build_kernel.shutil, "which", lambda name: None if name == "bc" else f"/usr/bin/{name}")
    with pytest.raises(BuildError, match="bc is not here: apt-get install"):
        build_kernel.build()
    monkeypatch.setattr(build_kernel.shutil, "which", lambda name: None if name == "apt-get" else f"/usr/bin/{name}")
    with pytest.raises(BuildError, match="AMDRV_VM_KERNEL"):
        build_kernel.build()
    with pytest.raises(BuildError, match=r"(?s)`sh -c .*` failed \(all of it: .*log\).*no such luck"):
        build_kernel._run(["sh", "-c", "echo no such luck; exit 3"], tmp_path, tmp_path / "log")
    assert "no such luck" in (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the script is for Debian")
def test_the_script_prints_a_ready_kernel(tmp_path: Path) -> None:
    ready = tmp_path / "bz"
    ready.write_text("")
    done = subprocess.run([sys.executable, build_kernel.__file__], capture_output=True, text=True, check=False,
                          env={"AMDRV_VM_KERNEL": str(ready), "PATH": "/usr/bin:/bin"}, cwd=tmp_path)
    assert done.stdout.strip() == str(ready), done.stderr
