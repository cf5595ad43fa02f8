"""Kernels as LLVM IR, for the host's processor and for AMD's.

The text is made instruction by instruction from the linear list; loops are phi nodes, so that accumulators are in
registers from the start. Names in the text depend on nothing but the kernel, so equal kernels give equal text,
which is what the disk cache is keyed by.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.expand import summands
from compiler.linearize import Begin, End, Instruction
from compiler.lower import Axis, divides, length
from compiler.render.nodes import absorbed, alignment, apart, no_wrap, of_wave, root, walks_by_ones, width
from compiler.uop import Ops, UOp

__all__ = ["Source", "Target", "render"]


@dataclass(frozen=True)
class Target:
    """What code is made for."""

    triple: str
    cpu: str
    features: str = ""

    @property
    def gpu(self) -> bool:
        return self.triple.startswith("amdgcn")


@dataclass(frozen=True)
class Source:
    """LLVM IR of one kernel, and how to launch it.

    On a GPU: ``grid`` workgroups of ``block`` work-items. On a CPU: the function has two more arguments, the part
    ``[low, high)`` of ``outer`` independent iterations that a call does.
    """

    name: str
    text: str
    params: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    outer: int
    work: int = 0       # instructions over all iterations, roughly
    variables: tuple[tuple[str, int], ...] = ()     # names and bits of numbers that follow the parameters
    varying: UOp | None = None          # what ``outer`` is, where they decide it; then ``outer`` is the most


def _type(dtype: DType) -> str:
    if dtype.is_float and not dtype.coded:
        return {16: "half", 32: "float", 64: "double"}[dtype.bits]
    return "i1" if dtype.kind == "b" else f"i{dtype.bits}"


def _constant(dtype: DType, value: object) -> str:
    if dtype.coded:
        return str(int(dtype.encode(np.array([value], np.float32))[0]))
    if dtype.kind == "b":
        return "true" if value else "false"
    if not dtype.is_float:
        return str(value)
    if dtype.bits == 16:
        return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


_FLOAT_OPS = {Ops.ADD: "fadd", Ops.MUL: "fmul", Ops.FDIV: "fdiv"}
_INT_OPS = {Ops.ADD: "add", Ops.MUL: "mul", Ops.AND: "and", Ops.OR: "or", Ops.XOR: "xor", Ops.SHL: "shl"}
_SIGNED = {Ops.IDIV: ("sdiv", "udiv"), Ops.MOD: ("srem", "urem"), Ops.SHR: ("ashr", "lshr")}
_IDENTITY = {Ops.ADD: lambda t: t.cast(0), Ops.MUL: lambda t: t.cast(1), Ops.MAX: lambda t: t.min}

# functions that the runtime's launch does not provide: without these LLVM reserves registers and kernarg for them
_NO_INPUTS = " ".join(f'"amdgpu-no-{x}"' for x in (
    "dispatch-ptr", "queue-ptr", "implicitarg-ptr", "dispatch-id", "workitem-id-y", "workitem-id-z",
    "hostcall-ptr", "heap-ptr", "multigrid-sync-arg", "default-queue", "completion-action",
    "lds-kernel-id", "flat-scratch-init"))


_LDS = "ptr addrspace(3)"
# a fence for the workgroup's memory alone: nothing is waited for, or invalidated, on behalf of global memory
_LDS_ONLY = '!mmra !2'


class _Writer:
    """:param groups: the GLOBAL ranges that workgroups stand for, the one of x first; without them a work-item is an
    iteration.
    """

    def __init__(self, target: Target, block: int, groups: Sequence[UOp], absorbed: set[UOp]) -> None:
        self.target, self.block = target, block
        self.groups, self.absorbed = groups, absorbed
        self.metadata = ['!{i32 1, !"amdhsa_code_object_version", i32 500}', "!{float 2.5}",
                         '!{!"amdgpu-synchronize-as", !"local"}', f"!{{i32 {block}, i32 1, i32 1}}",
                         '!{!"llvm.loop.unroll.disable"}']
        self.late: dict[UOp, tuple[UOp, ...]] = {}      # stores for the end of a loop
        self.postponed: set[UOp] = set()
        self.bases: set[UOp] = set()                    # addresses that others start from
        self.lines: list[str] = []
        self.names: dict[UOp, str] = {}
        self.current: dict[UOp, str] = {}       # a reduction's accumulator at this point
        self.loops: dict[UOp, int] = {}
        self.label = "entry"
        self.count = 0
        self.declared: set[str] = set()
        self.outermost: UOp | None = None
        self.patches: list[tuple[str, str]] = []
        self.carried: dict[UOp, list[UOp]] = {}
        self.pointer = "ptr addrspace(1)" if target.gpu else "ptr"
        self.contract = "contract "

    def new(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def put(self, text: str) -> str:
        name = self.new()
        self.lines.append(f"  {name} = {text}")
        return name

    def value(self, node: UOp) -> str:
        if node.op is Ops.CONST:
            return _constant(node.dtype, node.arg)
        if node.op is Ops.REDUCE:
            return self.current[node]
        if node.op is Ops.PARAM:
            return f"%p{node.arg}"
        if node.op is Ops.VARIABLE:
            return f"%variable.{node.arg[0]}"
        if node.op is Ops.SHARED:
            return f"@shared{node.arg[0]}"
        if node.op is Ops.AFTER:
            return self.value(node.src[0])
        return self.names[node]

    def call(self, function: str, result: str, *args: tuple[str, str]) -> str:
        self.declared.add(f"declare {result} @{function}({', '.join(t for t, _ in args)})")
        return self.put(f"call {result} @{function}({', '.join(f'{t} {v}' for t, v in args)})")

    # loops

    def begin(self, item: Begin) -> None:
        r = item.range
        number = self.loops[r] = len(self.loops)
        t, bound = _type(r.dtype), self.value(r.src[0])
        if self.target.gpu and (r in self.groups or r.arg[1] is Axis.LOCAL):
            what = "workitem.id.x" if r.arg[1] is Axis.LOCAL else f"workgroup.id.{'xyz'[self.groups.index(r)]}"
            self.declared.add(f"declare i32 @llvm.amdgcn.{what}()")
            name = self.put(f"call range(i32 0, {length(r)}) i32 @llvm.amdgcn.{what}()")
            self.names[r] = name if r.dtype.bits == 32 else self.put(f"zext nneg i32 {name} to i64")
            return
        if self.target.gpu and r.arg[1] is Axis.GLOBAL:
            group = self.call("llvm.amdgcn.workgroup.id.x", "i32")
            item_id = self.call("llvm.amdgcn.workitem.id.x", "i32")
            first = self.put(f"mul nuw nsw i32 {group}, {self.block}")
            position = self.put(f"add nuw nsw i32 {first}, {item_id}")
            if r.dtype is dtypes.int64:
                position = self.put(f"zext i32 {position} to i64")
            self.names[r] = position
            if not divides(self.block, r):
                inside = self.put(f"icmp ult {t} {position}, {bound}")
                self.lines.append(f"  br i1 {inside}, label %body{number}, label %exit{number}")
                self.enter(f"body{number}")
            return
        low = "0"
        if r is self.outermost and not self.target.gpu:
            low, bound = "%low", "%high"
        before = self.label
        self.lines.append(f"  br label %loop{number}")
        self.enter(f"loop{number}")
        i = self.names[r] = f"%i{number}"
        self.lines.append(f"  {i} = phi {t} [ {low}, %{before} ], [ %n{number}, %next{number} ]")
        for k, reduce in enumerate(item.reduces):
            identity = _constant(reduce.dtype, _IDENTITY[reduce.arg](reduce.dtype)) if width(reduce) == 1 \
                else "zeroinitializer"
            start = self.current.get(reduce) or identity
            name = self.current[reduce] = f"%a{number}_{k}"
            self.lines.append(f"  {name} = phi {_wide_type(reduce)} [ {start}, %{before} ], "
                              f"[ @{number}_{k}@, %next{number} ]")
        for k, carry in enumerate(self.carried.get(r, ())):
            name = self.names[carry] = f"%c{number}_{k}"
            self.lines.append(f"  {name} = phi {_wide_type(carry)} [ {self.value(carry.src[0])}, %{before} ], "
                              f"[ @c{number}_{k}@, %next{number} ]")
        more = self.put(f"icmp slt {t} {i}, {bound}")
        self.lines.append(f"  br i1 {more}, label %body{number}, label %exit{number}")
        self.enter(f"body{number}")

    def end(self, item: End) -> None:
        r = item.range
        number = self.loops[r]
        if self.target.gpu and (r in self.groups or r.arg[1] is Axis.LOCAL):
            return
        if self.target.gpu and r.arg[1] is Axis.GLOBAL:
            if not divides(self.block, r):
                self.lines.append(f"  br label %exit{number}")
                self.enter(f"exit{number}")
            return
        late = self.late.pop(r, ())
        mine = [reduce for reduce in item.reduces if reduce.src[-1] is r]
        totals = {reduce: self.current[reduce] for reduce in item.reduces}
        parts = {reduce: self.additions(reduce) for reduce in mine}
        longest = max((len(p) for p in parts.values()), default=0)
        pause = -(-longest // 2) if late else longest
        for reduce in mine:
            # in several partial sums, where that makes vectors
            flags = "reassoc " if not self.target.gpu and walks_by_ones(reduce) else ""
            for part in parts[reduce][:pause]:
                totals[reduce] = self.accumulate(reduce.arg, totals[reduce], part, flags)
        if late:        # in the middle of the accumulations, which need not wait for what is stored
            reads = 2 * sum(n.op is Ops.VECTOR and self.space(n.src[0].src[0]) is _LDS for n in late)
            self.take_turns(len(mine) * pause, reads)
            self.declared.add("declare void @llvm.amdgcn.sched.barrier(i32)")
            self.lines.append("  call void @llvm.amdgcn.sched.barrier(i32 0)")
            for node in late:
                self.emit(node)
        for reduce in mine:
            for part in parts[reduce][pause:]:
                totals[reduce] = self.accumulate(reduce.arg, totals[reduce], part)
        if late:
            self.take_turns(len(mine) * (longest - pause), reads)
        for k, reduce in enumerate(item.reduces):
            self.current[reduce] = f"%a{number}_{k}"
            self.patches.append((f"@{number}_{k}@", totals[reduce]))
        self.patches += [(f"@c{number}_{k}@", self.value(c.src[1])) for k, c in enumerate(self.carried.get(r, ()))]
        self.lines.append(f"  br label %next{number}")
        self.enter(f"next{number}")
        self.lines.append(f"  %n{number} = add nuw nsw {_type(r.dtype)} %i{number}, 1")
        again = f"  br label %loop{number}"
        if self.groups and r.arg[1] is Axis.REDUCE:     # unrolled already as far as it should be
            self.metadata.append(f'distinct !{{!{len(self.metadata)}, !4}}')
            again += f", !llvm.loop !{len(self.metadata) - 1}"
        self.lines.append(again)
        self.enter(f"exit{number}")

    def enter(self, label: str) -> None:
        self.label = label
        self.lines.append(f"{label}:")

    def take_turns(self, products: int, reads: int) -> None:
        """Ask LLVM to spread reads from LDS among matrix products, so that neither unit waits for the other."""
        if not reads or not products:
            return
        self.declared.add("declare void @llvm.amdgcn.sched.group.barrier(i32, i32, i32)")
        each = -(-reads // products)
        for left in range(reads, 0, -each):
            for kind, count in ((0x100, min(each, left)), (0x8, 1)):     # DS read, MFMA/WMMA (LLVM: SchedGroupMask)
                self.lines.append(f"  call void @llvm.amdgcn.sched.group.barrier(i32 {kind}, i32 {count}, i32 0)")

    def additions(self, reduce: UOp) -> list[UOp]:
        """What is added to the accumulator in an iteration, one by one."""
        value = reduce.src[0].src[0] if reduce.src[0].op is Ops.AFTER else reduce.src[0]
        if value.op is Ops.WMMA:
            chain = [value]
            while len(chain[-1].src) > 2:
                chain.append(chain[-1].src[2])
            return chain[::-1]
        return summands(value, reduce.arg) if value in self.absorbed else [value]

    def accumulate(self, op: Ops, total: str, value: UOp, flags: str = "") -> str:
        return self.wmma(value, total) if value.op is Ops.WMMA else \
            self.binary(op, value.dtype, self.value(value), total, flags=flags)

    # values

    def wmma(self, node: UOp, c: str) -> str:
        """One matrix instruction of the wave (RDNA3 ISA, "Wave Matrix Multiply Accumulate")."""
        kind = node.src[0].dtype
        inputs = [self.value(s) for s in node.src[:2]]
        if kind is dtypes.int8 or kind is dtypes.uint8:
            words = [self.put(f"bitcast <16 x i8> {x} to <4 x i32>") for x in inputs]
            name = "llvm.amdgcn.wmma.i32.16x16x16.iu8.v8i32.v4i32"
            signed = "true" if kind is dtypes.int8 else "false"
            return self.call(name, "<8 x i32>", ("i1", signed), ("<4 x i32>", words[0]), ("i1", signed),
                             ("<4 x i32>", words[1]), ("<8 x i32>", c), ("i1", "false"))
        t = _wide_type(node.src[0])
        short = "f16" if kind is dtypes.float16 else "bf16"
        v = "v16f16" if kind is dtypes.float16 else "v16i16"
        if node.dtype is dtypes.float32:
            return self.call(f"llvm.amdgcn.wmma.f32.16x16x16.{short}.v8f32.{v}", "<8 x float>",
                             (t, inputs[0]), (t, inputs[1]), ("<8 x float>", c))
        return self.call(f"llvm.amdgcn.wmma.{short}.16x16x16.{short}.{v}.{v}", t, (t, inputs[0]), (t, inputs[1]),
                         (t, c), ("i1", "false"))

    def vector(self, node: UOp) -> str:
        """Lanes together: one load if they lie side by side in memory, else put in one by one."""
        t = _wide_type(node)
        first = node.src[0]
        if all(s.op is Ops.LOAD and len(s.src) == 1 and s in self.absorbed for s in node.src):
            return self.put(f"load {t}, {self.space(first.src[0])} {self.address(first.src[0])}, "
                            f"align {alignment(first.src[0])}")
        name = "poison"
        for i, s in enumerate(node.src):
            name = self.put(f"insertelement {t} {name}, {_type(s.dtype)} {self.value(s)}, i32 {i}")
        return name

    def barrier(self) -> None:
        self.declared.add("declare void @llvm.amdgcn.s.barrier()")
        self.lines += [f'  fence syncscope("workgroup") release, {_LDS_ONLY}',
                       "  call void @llvm.amdgcn.s.barrier()",
                       f'  fence syncscope("workgroup") acquire, {_LDS_ONLY}']

    def space(self, index: UOp) -> str:
        return _LDS if root(index).op is Ops.SHARED else self.pointer

    def address(self, node: UOp, gate: str | None = None) -> str:
        param, index = node.src
        position = self.value(index)
        if gate is not None:        # element 0 is always there to be read
            position = self.put(f"select i1 {gate}, {_type(index.dtype)} {position}, {_type(index.dtype)} 0")
        element = "i8" if param.dtype.kind == "b" else _type(param.dtype)
        space = self.space(node)
        if self.target.gpu and index.dtype.bits == 32 and index.op is not Ops.CONST:
            base, offset = apart(index) if gate is None else (index, 0)
            if offset and base.vmin >= 0:
                position = self.value(base)
            else:
                offset = 0
            if space is not _LDS:
                position = self.put(f"zext nneg i32 {position} to i64")
            place = self.put(f"getelementptr inbounds {element}, {space} {self.value(param)}, "
                             f"i{32 if space is _LDS else 64} {position}")
            return self.put(f"getelementptr inbounds {element}, {space} {place}, i32 {offset}") if offset else place
        if space is _LDS:
            return self.put(f"getelementptr inbounds {element}, {space} {self.value(param)}, i32 {position}")
        return self.put(f"getelementptr inbounds {element}, {self.pointer} {self.value(param)}, "
                        f"{_type(index.dtype)} {position}")

    def binary(self, op: Ops, dtype: DType, x: str, y: str, *, flags: str = "", signed: bool = True) -> str:
        t = _type(dtype)
        if dtype.is_float:
            if op is Ops.MAX:
                return self.call(f"llvm.maximum.f{dtype.bits}", t, (t, x), (t, y))
            accuracy = ", !fpmath !1" if op is Ops.FDIV and self.target.gpu and dtype.bits == 32 else ""
            return self.put(f"{_FLOAT_OPS[op]} {flags}{self.contract}{t} {x}, {y}{accuracy}")
        if op is Ops.MAX:
            if dtype.kind == "b":
                return self.put(f"or i1 {x}, {y}")
            return self.call(f"llvm.{'s' if dtype.kind == 'i' else 'u'}max.i{dtype.bits}", t, (t, x), (t, y))
        if dtype.kind == "b" and op in (Ops.ADD, Ops.MUL):
            return self.put(f"{'or' if op is Ops.ADD else 'and'} i1 {x}, {y}")
        if op in _SIGNED:
            return self.put(f"{_SIGNED[op][dtype.kind != 'i' or not signed]} {t} {x}, {y}")
        return self.put(f"{_INT_OPS[op]} {flags}{t} {x}, {y}")

    def cast(self, node: UOp) -> str:
        a, b = node.src[0].dtype, node.dtype
        x, s, t = self.value(node.src[0]), _type(a), _type(b)
        if a.is_float and b.is_float:
            return self.put(f"{'fpext' if b.bits > a.bits else 'fptrunc'} {s} {x} to {t}")
        if a.is_float:
            return self.call(f"llvm.fpto{'s' if b.kind == 'i' else 'u'}i.sat.i{b.bits}.f{a.bits}", t, (s, x))
        if b.is_float:
            return self.put(f"{'sitofp' if a.kind == 'i' else 'uitofp'} {s} {x} to {t}")
        bits = 1 if a.kind == "b" else a.bits
        if b.bits == bits:
            return x
        return self.put(f"{'trunc' if b.bits < bits else 'sext' if a.kind == 'i' else 'zext'} {s} {x} to {t}")

    def unary(self, node: UOp) -> str:
        x, t = self.value(node.src[0]), _type(node.dtype)
        if node.op is Ops.NEG:
            return self.put(f"fneg {t} {x}")
        if self.target.gpu and node.dtype is dtypes.float32 and node.op is not Ops.TRUNC:
            name = {Ops.SQRT: "sqrt", Ops.EXP2: "exp2", Ops.LOG2: "log"}[node.op]
            return self.call(f"llvm.amdgcn.{name}.f32", t, (t, x))
        name = {Ops.SQRT: "sqrt", Ops.TRUNC: "trunc"}[node.op]
        return self.call(f"llvm.{name}.f{node.dtype.bits}", t, (t, x))

    def compare(self, node: UOp) -> str:
        a, b = node.src
        x, y, t = self.value(a), self.value(b), _type(a.dtype)
        if a.dtype.is_float:
            return self.put(f"fcmp { {Ops.CMPLT: 'olt', Ops.CMPEQ: 'oeq', Ops.CMPNE: 'une'}[node.op]} {t} {x}, {y}")
        less = "slt" if a.dtype.kind == "i" else "ult"
        return self.put(f"icmp { {Ops.CMPLT: less, Ops.CMPEQ: 'eq', Ops.CMPNE: 'ne'}[node.op]} {t} {x}, {y}")

    def load(self, node: UOp) -> str:
        gate = self.value(node.src[1]) if len(node.src) > 1 else None
        address = self.address(node.src[0], gate)
        memory = "i8" if node.dtype.kind == "b" else _type(node.dtype)
        value = self.put(f"load {memory}, {self.space(node.src[0])} {address}, align {node.dtype.itemsize}")
        if node.dtype.kind == "b":
            value = self.put(f"icmp ne i8 {value}, 0")
        if gate is not None:
            t = _type(node.dtype)
            value = self.put(f"select i1 {gate}, {t} {value}, {t} {_constant(node.dtype, node.dtype.cast(0))}")
        return value

    def store(self, node: UOp) -> None:
        value, dtype = self.value(node.src[1]), node.dtype
        if dtype.kind == "b":
            value = self.put(f"zext i1 {value} to i8")
        memory = "i8" if dtype.kind == "b" else _wide_type(node.src[1])
        align = dtype.itemsize if width(node.src[1]) == 1 else alignment(node.src[0])
        self.lines.append(f"  store {memory} {value}, {self.space(node.src[0])} {self.address(node.src[0])}, "
                          f"align {align}")

    def update(self, node: UOp) -> None:
        """Memory takes in a value, where the gate holds: at once, or as a load and a store in order."""
        address, value, gate = node.src
        (op, atomic), dtype, incoming = node.arg, node.dtype, self.value(value)
        number = self.new()[1:]
        if gate.op is not Ops.CONST:
            self.lines.append(f"  br i1 {self.value(gate)}, label %{number}.do, label %{number}.done")
            self.enter(f"{number}.do")
        place, space, t = self.address(address), self.space(address), _type(dtype)
        if atomic:
            how = "add" if op is Ops.ADD else f"{'' if dtype.kind == 'i' else 'u'}max"
            self.lines.append(f'  {self.new()} = atomicrmw {how} {space} {place}, {t} {incoming} syncscope("agent") '
                              f"monotonic, align {dtype.itemsize}")
        else:
            memory = "i8" if dtype.kind == "b" else t
            old = self.put(f"load {memory}, {space} {place}, align {dtype.itemsize}")
            if dtype.kind == "b":
                old = self.put(f"icmp ne i8 {old}, 0")
            new = self.binary(op, dtype, old, incoming)
            if dtype.kind == "b":
                new = self.put(f"zext i1 {new} to i8")
            self.lines.append(f"  store {memory} {new}, {space} {place}, align {dtype.itemsize}")
        if gate.op is not Ops.CONST:
            self.lines.append(f"  br label %{number}.done")
            self.enter(f"{number}.done")

    def instruction(self, node: UOp) -> None:
        op = node.op
        if op is Ops.INDEX and node in self.bases:
            self.names[node] = self.address(node)
        if op in (Ops.INDEX, Ops.AFTER, Ops.CARRY) or node in self.absorbed or node in self.postponed:
            return
        self.emit(node)

    def emit(self, node: UOp) -> None:
        op = node.op
        if op is Ops.BARRIER:
            self.barrier()
            return
        if op is Ops.STORE:
            self.store(node)
            return
        if op is Ops.UPDATE:
            self.update(node)
            return
        if op is Ops.LOAD:
            name = self.load(node)
        elif op is Ops.VECTOR:
            name = self.vector(node)
        elif op is Ops.ELEMENT:
            name = self.put(f"extractelement {_wide_type(node.src[0])} {self.value(node.src[0])}, "
                            f"i32 {node.src[1].arg}")
        elif op is Ops.WMMA:
            name = self.wmma(node, self.value(node.src[2]) if len(node.src) > 2 else "zeroinitializer")
        elif op is Ops.CAST:
            name = self.cast(node)
        elif op is Ops.BITCAST:
            s, t = _type(node.src[0].dtype), _type(node.dtype)
            name = self.put(f"bitcast {s} {self.value(node.src[0])} to {t}") if s != t else self.value(node.src[0])
        elif op is Ops.WHERE:
            t = _type(node.dtype)
            c, x, y = (self.value(s) for s in node.src)
            name = self.put(f"select i1 {c}, {t} {x}, {t} {y}")
        elif op in (Ops.CMPLT, Ops.CMPEQ, Ops.CMPNE):
            name = self.compare(node)
        elif len(node.src) == 1:
            name = self.unary(node)
        else:
            name = self.binary(op, node.dtype, self.value(node.src[0]), self.value(node.src[1]), flags=no_wrap(node),
                               signed=not all(s.dtype.is_int and s.vmin >= 0 for s in node.src))
            if of_wave(node):      # every lane has it: addresses and loads from it may be scalar
                name = self.call("llvm.amdgcn.readfirstlane.i32", "i32", ("i32", name))
        self.names[node] = name


def _wide_type(node: UOp) -> str:
    n = width(node)
    return f"<{n} x {_type(node.dtype)}>" if n > 1 else _type(node.dtype)


def render(name: str, program: Sequence[Instruction], target: Target) -> Source:
    """LLVM IR for ``program``, the instructions of one kernel in any right order."""
    nodes = [x for x in program if isinstance(x, UOp)]
    outer = [x.range for x in program if isinstance(x, Begin) and x.range.arg[1] is Axis.GLOBAL]
    iterations = length(outer[0]) if outer else 1
    local = [x.range for x in program if isinstance(x, Begin) and x.range.arg[1] is Axis.LOCAL]
    assert len(local) <= 1 and (not local or target.gpu), "work-items of a workgroup have one flat range, on a GPU"
    assert not target.gpu or len(outer) <= (3 if local else 1), "a GPU kernel has one flat range of work-items"
    groups = outer[::-1] if local else []
    block = length(local[0]) if local else min(256, -(-iterations // 32) * 32) if target.gpu else 1
    reduces = [r for x in program if isinstance(x, Begin) for r in x.reduces]
    writer = _Writer(target, block, groups, absorbed([*nodes, *dict.fromkeys(reduces)]))
    writer.bases = {s for n in nodes if n.op is Ops.INDEX for s in n.src if s.op is Ops.INDEX}
    for reduce in dict.fromkeys(reduces):
        if reduce.src[0].op is Ops.AFTER:
            late = tuple(s for s in reduce.src[0].src[1:] if s not in writer.postponed)
            writer.late[reduce.src[-1]] = writer.late.get(reduce.src[-1], ()) + late
            writer.postponed.update(late)
    for node in nodes:
        if node.op is Ops.CARRY:
            writer.carried.setdefault(node.src[2], []).append(node)
    writer.outermost = outer[0] if outer else None
    params = sorted({s for n in nodes for s in n.src if s.op is Ops.PARAM}, key=lambda n: n.arg)
    written = {root(n.src[0]) for n in nodes if n.op in (Ops.STORE, Ops.UPDATE)}
    alone = target.gpu and not outer and not local
    for item in program:
        if isinstance(item, Begin):
            writer.begin(item)
        elif isinstance(item, End):
            writer.end(item)
        else:
            writer.instruction(item)
    if alone:       # one work-item does it all
        first = ["  %id = call i32 @llvm.amdgcn.workitem.id.x()", "  %one = icmp eq i32 %id, 0",
                 "  br i1 %one, label %start, label %done", "start:"]
        writer.declared.add("declare i32 @llvm.amdgcn.workitem.id.x()")
        body = [line.replace("%entry ]", "%start ]") for line in writer.lines]
        writer.lines = [*first, *body, "  br label %done", "done:"]
    after = dict(writer.patches)
    text = re.sub(r"@c?\d+_\d+@", lambda mark: after[mark.group()], "\n".join(writer.lines))
    arguments = [f"{writer.pointer} noalias {'' if p in written else 'readonly '}align 16 %p{p.arg}" for p in params]
    names = sorted({s for n in [*nodes, *(x.range for x in program if isinstance(x, Begin))] for s in n.src
                    if s.op is Ops.VARIABLE}, key=lambda n: n.arg)
    arguments += [f"{_type(v.dtype)} {writer.value(v)}" for v in names]
    given = tuple((str(v.arg[0]), v.dtype.bits) for v in names)
    varying = outer[0].src[0] if outer and outer[0].src[0].op is not Ops.CONST else None
    if target.gpu:
        head = f"define amdgpu_kernel void @{name}({', '.join(arguments)}) #0"
        attributes = (
            f'nounwind "amdgpu-flat-work-group-size"="{block if local else 1},{max(block, 32)}" '
            f'"uniform-work-group-size"="true" {_NO_INPUTS}' + "".join(
                f' "amdgpu-no-workgroup-id-{axis}"' for axis in "xyz"[max(len(groups), 1):])
        )
        if local:
            head = head.replace(" #0", " #0 !reqd_work_group_size !3")
    else:
        t = _type(outer[0].dtype) if outer else "i32"
        head = f"define void @{name}({', '.join([*arguments, f'{t} %low', f'{t} %high'])}) #0"
        attributes = "nounwind"
    tail = ["!llvm.module.flags = !{!0}", *(f"!{n} = {text}" for n, text in enumerate(writer.metadata))] \
        if target.gpu else []
    shared = dict.fromkeys(r for n in nodes for s in n.src if (r := root(s)).op is Ops.SHARED)
    memory = [f"@shared{m.arg[0]} = internal addrspace(3) global [{m.arg[1]} x {_type(m.dtype)}] poison, align 16"
              for m in shared]
    whole = "\n".join([f'target triple = "{target.triple}"', *memory, *sorted(writer.declared), f"{head} {{", "entry:",
                       text, "  ret void", "}", f"attributes #0 = {{ {attributes} }}", *tail, ""])
    if local:
        x, y, z = [*map(length, groups), 1, 1, 1][:3]
        return Source(name, whole, len(params), (x, y, z), (block, 1, 1), iterations, _work(program), given)
    return Source(name, whole, len(params), (-(-iterations // block), 1, 1), (block, 1, 1), iterations, _work(program),
                  given, varying)


def _work(program: Sequence[Instruction]) -> int:
    total, scale, stack = 0, 1, []
    for item in program:
        if isinstance(item, Begin):
            stack.append(scale)
            scale *= length(item.range)
        elif isinstance(item, End):
            scale = stack.pop()
        else:
            total += scale
    return total
