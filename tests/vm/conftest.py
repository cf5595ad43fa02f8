"""The VM suite: what runs inside a guest is not collected outside, and a table at the end says what ran on what."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import table

if not os.environ.get("AMDRV_VM_MODE"):
    collect_ignore = ["inside"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [table.Row(**value) for reports in terminalreporter.stats.values() for report in reports
            if getattr(report, "when", "") == "call"
            for name, value in getattr(report, "user_properties", []) if name == table.PROPERTY]
    if rows:
        terminalreporter.section("what ran on which kernel")
        terminalreporter.write_line(table.markdown(rows))
        if os.environ.get("AMDRV_VM_TABLE"):
            table.write(Path(os.environ["AMDRV_VM_TABLE"]), rows)
