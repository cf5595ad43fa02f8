"""Imports only point down (docs/architecture.md): read from the import statements, not from running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("amdrv", "hcq", "compiler", "mock")
MAY_IMPORT = {
    "compiler": {"compiler", "hcq"},
    "hcq": {"hcq"},
    "amdrv": {"amdrv"},
    "mock": {"mock", "amdrv.facts", "amdrv.regs"},
}
EXCEPTIONS = {
    "amdrv/hal/mock.py": {"mock"},          # the one door to the software machine
    "amdrv/backend.py": {"hcq.backend"},    # the contract that it implements
    "amdrv/kfd/backend.py": {"hcq.backend"},
    "amdrv/queues.py": {"hcq.backend"},
    "amdrv/pm4/encoder.py": {"hcq.backend"},
    "amdrv/aql/encoder.py": {"hcq.backend"},
    "amdrv/moving.py": {"hcq.backend"},
    "amdrv/peer.py": {"hcq.backend"},
    "amdrv/profile.py": {"hcq.backend"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = []
    for path in files:
        allowed = MAY_IMPORT[package] | EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), set())
        for name in imports(path):
            if name.split(".")[0] in PACKAGES and not any(name == a or name.startswith(a + ".") for a in allowed):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_nothing_names_a_platform_above_the_hal() -> None:
    """fcntl, mmap, ioctl and sys.platform belong to hal/ and vfio/ (and to the mock's own anonymous memory)."""
    wrong = []
    for package in ("amdrv", "hcq"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.relative_to(ROOT).parts[1] in ("hal", "vfio"):
                continue
            wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in imports(path)
                      if name.split(".")[0] in ("fcntl", "mmap", "pyudev", "termios")]
            if "sys.platform" in path.read_text(encoding="utf-8"):
                wrong.append(f"{path.relative_to(ROOT)} asks for sys.platform")
    assert not wrong
