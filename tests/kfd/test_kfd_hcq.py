"""hcq's own tests of kernels, queues, graphs and AQL, once more: over the kernel's driver instead of ours.

The functions are those of ``tests/hcq``; only the devices differ. What is left out there is about AM itself: its names,
its boot, its registers.
"""

from __future__ import annotations

import pytest
from test_am_mock import (  # noqa: F401
    code,
    test_a_graph,
    test_a_queue_that_waits_for_nothing_is_named,
    test_a_submission_larger_than_the_ring,
    test_an_object_of_llvmlite,
    test_both_copy_engines,
    test_bytes_go_in_and_come_out,
    test_constants_of_linked_and_relocatable_objects,
    test_engines_wait_for_each_other,
    test_fill_and_unaligned_copies,
    test_hidden_arguments,
    test_local_memory_static_and_dynamic,
    test_many_launches_in_a_row,
    test_scratch_that_grows,
    test_the_dispatch_packet,
    test_the_state_machine,
    test_three_dimensions,
    test_values_of_every_kind,
    test_vector_add_of_every_code_object_version,
    test_waves_of_64,
    test_wrong_launches_leave_everything_as_it_was,
)
from test_aql import (  # noqa: F401  # noqa: F401
    test_any_program_on_three_kinds_of_queues,
    test_launches_signals_and_barriers,
    test_one_of_several_signals_is_enough,
    test_the_ring_runs_full_and_around,
)
from test_queues_am import (  # noqa: F401
    test_long_submissions_go_by_an_indirect_buffer,
    test_rings_run_full_and_around,
    test_signals_of_another_device,
    test_tiled_surfaces,
    test_windows,
    test_windows_larger_than_a_packet,
    test_words_polls_and_atomics,
)
from two_cards import compiled

import hcq


@pytest.fixture(scope="module")
def add(card: hcq.Device) -> hcq.Program:
    return card.program(compiled(), "add")
