"""LLVM IR to object files, by llvmlite; kept on disk by what they were made from."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from compiler.cache import DiskCache, directory
from compiler.render.llvm import Target

__all__ = ["assembly", "compile_ir", "disk_cache", "host_target", "target_machine"]


@lru_cache(None)
def _llvm() -> Any:
    import llvmlite.binding as llvm
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm


@lru_cache(None)
def host_target() -> Target:
    """This machine's processor."""
    llvm = _llvm()
    return Target(llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


@lru_cache(None)
def target_machine(target: Target, fast: bool = False) -> Any:
    llvm = _llvm()
    options = {"reloc": "pic"} if target.gpu else {"reloc": "static", "codemodel": "jitdefault", "jit": True}
    features = target.features
    if target.gpu:      # a half in a register of its own: packing two saves registers, which we have, and costs moves
        features = ",".join(filter(None, (features, "-real-true16")))
    return llvm.Target.from_triple(target.triple).create_target_machine(cpu=target.cpu, features=features,
                                                                        opt=1 if fast else 3, **options)


def _optimized(text: str, target: Target, fast: bool) -> tuple[Any, Any]:
    llvm = _llvm()
    machine = target_machine(target, fast)
    module = llvm.parse_assembly(text)
    module.data_layout = str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=1 if fast else 3)
    options.loop_vectorization = options.loop_interleaving = options.slp_vectorization = not target.gpu and not fast
    options.loop_unrolling = not fast
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine, module


@lru_cache(None)
def disk_cache() -> DiskCache:
    return DiskCache(directory())


def compile_ir(text: str, target: Target, cache: DiskCache | None = None, fast: bool = False) -> bytes:
    """The object file (ELF, or the host's format) of an LLVM module; from the disk cache if it is there.

    :param fast: compile fast rather than well: for kernels with so little to do that nobody will notice.
    """
    import llvmlite
    cache = disk_cache() if cache is None else cache
    key = "\0".join(("object 2", llvmlite.__version__, repr(target), str(fast), text)).encode()
    if (found := cache.get(key)) is not None:
        return found
    machine, module = _optimized(text, target, fast)
    result = machine.emit_object(module)
    cache.put(key, result)
    return result


def assembly(text: str, target: Target, fast: bool = False) -> str:
    """What the module becomes, as the target's assembly; for people."""
    machine, module = _optimized(text, target, fast)
    return machine.emit_assembly(module)
