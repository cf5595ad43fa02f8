"""Fixtures of the suites of amdrv-info."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from amdgpu_tree import Tree
from info_checks import Run, Worked

import mock
from amdrv.device import Device
from amdrv.hal import select
from amdrv.hal.mock import MockHal
from tools.amdrv_info import card, looks, top
from tools.amdrv_info.__main__ import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """(arguments) -> (exit status, standard output, standard error); argparse's exits count as statuses."""
    monkeypatch.setenv("COLUMNS", "200")        # screens wrap at the terminal's width, which under xdist is 80

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as left:
            status = int(left.code or 0)
        seen = capsys.readouterr()
        return status, seen.out, seen.err
    return call


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worked]:
    monkeypatch.delenv("AMDRV_HAL", raising=False)
    machine = mock.Machine([mock.Gpu("gfx1100", vram="256M")])
    hal = MockHal(machine)
    monkeypatch.setattr(MockHal, "_shared", hal)
    with Device.open(hal=hal, address=hal.functions()[0].address) as device:
        yield Worked(device, hal)
    machine.close()


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    from amdrv.hal.sysfs import SysfsHal
    made = Tree(tmp_path / "root")
    hal = SysfsHal(lambda: sorted((made.root / "sys/bus/pci/devices").iterdir()), lock_directory=tmp_path)
    for module in ("tools.amdrv_info.__main__", "tools.amdrv_info.looks", "tools.amdrv_info.top"):
        monkeypatch.setattr(f"{module}.looking_hal", lambda name=None: select(name) if name else hal)
    for module in (card, looks, top):
        monkeypatch.setattr(module, "Host", lambda: made.host)
    monkeypatch.setenv("AMDRV_FIRMWARE", str(tmp_path / "nothing"))
    return made
