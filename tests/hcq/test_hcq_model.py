"""The state machine of ``buffer_model`` on the device of NumPy and threads, with engines that lag behind."""

from __future__ import annotations

import buffer_model
from fake_backend import FakeBackend
from fake_kernels import CODE, FUNCTIONS
from hypothesis import settings

import hcq


class FakeModel(buffer_model.BufferModel):
    @classmethod
    def open_device(cls) -> hcq.Device:
        backend = FakeBackend(FUNCTIONS, capacity=256 << 20, signal_bits=6)
        backend.delay = 5e-5
        return hcq.Device(backend)

    @classmethod
    def load_add(cls, device: hcq.Device) -> hcq.Program:
        return device.program(CODE, "add")


TestFakeModel = FakeModel.TestCase
TestFakeModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
