"""Watching a machine: every register access, packet, walk, fault and interrupt, with names, in a file.

    AMDRV_MOCK_TRACE=boot.trace python program.py
    python -m mock.trace show boot.trace --register 'CP_HQD_*'
    python -m mock.trace summary boot.trace
    python -m mock.trace diff good.trace bad.trace
    python -m mock.trace timeline boot.trace boot.json      # for ui.perfetto.dev or chrome://tracing

Loads and stores through ``bar_memory`` are the CPU's own and are not seen one by one; the HDP flush after them is.

:mod:`mock.trace.record` writes, :mod:`mock.trace.events` reads, :mod:`mock.trace.views` shows. A machine that is not
watched pays nothing: recording replaces methods of the boards it is attached to.
"""

from __future__ import annotations

__all__: list[str] = []
