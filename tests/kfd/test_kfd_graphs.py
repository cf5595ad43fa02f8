"""hcq's own tests of graphs and of copies between cards, once more: over the kernel's driver instead of ours."""

from __future__ import annotations

import pytest
from test_graph_am import (  # noqa: F401
    test_many_kernels_go_by_an_indirect_buffer,
    test_other_buffers_that_overlap,
    test_random_graphs_do_what_a_model_does,
    test_threads_record_by_themselves,
)
from test_peer import test_any_order_of_work_is_what_numpy_says, test_both_directions_at_once_over_both_engines  # noqa: F401
from two_cards import compiled

import hcq


@pytest.fixture(scope="module")
def add(pair: list[hcq.Device]) -> dict[hcq.Device, hcq.Program]:
    return {device: device.program(compiled(), "add") for device in pair}
