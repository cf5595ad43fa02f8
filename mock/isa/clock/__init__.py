"""The modelled clock: how long a launch would take on a Radeon RX 7900 XTX.

    counts = mock.isa.run(code, ..., clock=True)        # counts.clock is a ClockReport

``constants`` holds what is known of the hardware, each figure cited. A sample of a dispatch's workgroups is recorded
(``record``), a workgroup processor is simulated (``simulate``), and ``model`` makes the dispatch's time of it.
"""

from mock.isa.clock.model import Chip, ClockReport, measure

__all__ = ["Chip", "ClockReport", "measure"]
