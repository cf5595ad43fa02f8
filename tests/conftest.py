"""Settings for all tests."""

from __future__ import annotations

import signal
import sys
import zlib

import numpy as np
import pytest
from hypothesis import settings

# No test is about time: on a busy machine an example may take as long as it takes.
settings.register_profile("amdrv", deadline=None)
settings.register_profile("amdrv-ci", settings.get_profile("ci"), deadline=None)
settings.load_profile("amdrv-ci" if settings.get_current_profile_name() == "ci" else "amdrv")

# A shell starts what runs in its background deaf to Ctrl-C, and programs hand that on: those that tests interrupt, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _numbers_of_its_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's ``RNG``, ours and PyTorch's begin anew at each test, by the test's name: its data depend on no other
    test, whichever process runs it and in whichever order."""
    module = getattr(request, "module", None)
    rng = getattr(module, "RNG", None)
    seed = zlib.crc32(request.node.nodeid.encode())
    if isinstance(rng, np.random.RandomState):
        monkeypatch.setattr(module, "RNG", np.random.RandomState(seed))
    elif isinstance(rng, np.random.Generator):
        monkeypatch.setattr(module, "RNG", np.random.default_rng(seed))
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    if "compiler" in sys.modules:
        sys.modules["compiler"].Tensor.manual_seed(seed)
