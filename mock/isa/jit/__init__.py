"""Kernels as native functions: LLVM makes one function of a whole kernel, workgroups run on all cores.

- :mod:`values`     the words of the semantics table, in LLVM IR
- :mod:`registers`  SGPRs, VGPRs, EXEC and SCC as slots that LLVM promotes
- :mod:`alu`        operands, modifiers and DPP around an entry of the table
- :mod:`memory`     memory instructions over a software TLB
- :mod:`transfers`  loads and stores written out where lanes lie together
- :mod:`segments`   runs of instructions whose NaNs are looked at once
- :mod:`schedule`   the order of instructions within a block of optimised code
- :mod:`translate`  control flow: blocks, resume points, barriers
- :mod:`context`    what compiled code shares with Python; the scheduler of a workgroup's waves
- :mod:`compiler`   LLVM, and object files on disk
- :mod:`library`    entries of the table that are long, as functions that kernels share
- :mod:`kernels`    which kernels are compiled, when, and how well
- :mod:`executor`   dispatches
"""

from mock.isa.jit.executor import HungWave, execute, execute_auto
from mock.isa.jit.kernels import wait_for_compiler

__all__ = ["HungWave", "execute", "execute_auto", "wait_for_compiler"]
