"""Our boot beside Linux's: every register write that one makes and the other does not, with its reason.

    python -m tools.boot_diff                    boot the mock, compare, print the table
    python -m tools.boot_diff --check            fail when a difference has no reason, or a reason no difference
    python -m tools.boot_diff record -o FILE     keep a recording of our boot
    python -m tools.boot_diff distill LOG.gz     turn a log of amdgpu on a traced card into data/linux.txt

``data/linux.txt`` is what Linux's amdgpu did to a Navi31 that answered like a card (KIQ mode, without MES): facts
in a form of our own. The values of its reads are the answers of that stand-in, not of silicon.
"""
