"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# No test is about time: on a busy machine an example may take as long as it takes.
settings.register_profile("amdrv", deadline=None)
settings.register_profile("amdrv-ci", settings.get_profile("ci"), deadline=None)
settings.load_profile("amdrv-ci" if settings.get_current_profile_name() == "ci" else "amdrv")
