"""The hardware blocks, one file each, in boot order: discovery nbio hdp gmc ih psp smu gfx sdma.

Every block is a class with ``boot()`` and ``shutdown()``; the file reads top to bottom in the order in which the
hardware wants to be touched, and names the kernel function that does the same.
"""
