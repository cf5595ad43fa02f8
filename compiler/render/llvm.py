"""Kernels as LLVM IR, for the host's processor and for AMD's.

The text is made instruction by instruction from the linear list; loops are phi nodes, so that accumulators are in
registers from the start. Names in the text depend on nothing but the kernel, so equal kernels give equal text,
which is what the disk cache is keyed by.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from compiler import dtypes
from compiler.dtypes import DType
from compiler.linearize import Begin, End, Instruction
from compiler.lower import Axis
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


def _type(dtype: DType) -> str:
    if dtype.is_float and dtype is not dtypes.bfloat16:
        return {16: "half", 32: "float", 64: "double"}[dtype.bits]
    return "i1" if dtype.kind == "b" else f"i{dtype.bits}"


def _constant(dtype: DType, value: object) -> str:
    if dtype is dtypes.bfloat16:
        return str(struct.unpack("<I", struct.pack("<f", value))[0] >> 16)
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
    "dispatch-ptr", "queue-ptr", "implicitarg-ptr", "dispatch-id", "workgroup-id-y", "workgroup-id-z", "workitem-id-y",
    "workitem-id-z", "hostcall-ptr", "heap-ptr", "multigrid-sync-arg", "default-queue", "completion-action",
    "lds-kernel-id", "flat-scratch-init"))


class _Writer:
    def __init__(self, target: Target, block: int) -> None:
        self.target, self.block = target, block
        self.lines: list[str] = []
        self.names: dict[UOp, str] = {}
        self.current: dict[UOp, str] = {}       # a reduction's accumulator at this point
        self.loops: dict[UOp, int] = {}
        self.label = "entry"
        self.count = 0
        self.declared: set[str] = set()
        self.outermost: UOp | None = None
        self.patches: list[tuple[int, UOp, str, str]] = []
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
        return self.names[node]

    def call(self, function: str, result: str, *args: tuple[str, str]) -> str:
        self.declared.add(f"declare {result} @{function}({', '.join(t for t, _ in args)})")
        return self.put(f"call {result} @{function}({', '.join(f'{t} {v}' for t, v in args)})")

    # loops

    def begin(self, item: Begin) -> None:
        r = item.range
        number = self.loops[r] = len(self.loops)
        t, bound = _type(r.dtype), self.value(r.src[0])
        if self.target.gpu and r.arg[1] is Axis.GLOBAL:
            group = self.call("llvm.amdgcn.workgroup.id.x", "i32")
            item_id = self.call("llvm.amdgcn.workitem.id.x", "i32")
            first = self.put(f"mul nuw nsw i32 {group}, {self.block}")
            position = self.put(f"add nuw nsw i32 {first}, {item_id}")
            if r.dtype is dtypes.int64:
                position = self.put(f"zext i32 {position} to i64")
            self.names[r] = position
            if r.src[0].arg % self.block:
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
            start = self.current.get(reduce) or _constant(reduce.dtype, _IDENTITY[reduce.arg](reduce.dtype))
            name = self.current[reduce] = f"%a{number}_{k}"
            self.lines.append(f"  {name} = phi {_type(reduce.dtype)} [ {start}, %{before} ], "
                              f"[ @{number}_{k}@, %next{number} ]")
        more = self.put(f"icmp slt {t} {i}, {bound}")
        self.lines.append(f"  br i1 {more}, label %body{number}, label %exit{number}")
        self.enter(f"body{number}")

    def end(self, item: End) -> None:
        r = item.range
        number = self.loops[r]
        if self.target.gpu and r.arg[1] is Axis.GLOBAL:
            if r.src[0].arg % self.block:
                self.lines.append(f"  br label %exit{number}")
                self.enter(f"exit{number}")
            return
        for k, reduce in enumerate(item.reduces):
            mine = f"%a{number}_{k}"
            after = self.current[reduce]
            if reduce.src[-1] is r:
                after = self.binary(reduce.arg, reduce.dtype, self.value(reduce.src[0]), after)
            self.current[reduce] = mine
            self.patches.append((number, reduce, f"@{number}_{k}@", after))
        self.lines.append(f"  br label %next{number}")
        self.enter(f"next{number}")
        self.lines.append(f"  %n{number} = add nuw nsw {_type(r.dtype)} %i{number}, 1")
        self.lines.append(f"  br label %loop{number}")
        self.enter(f"exit{number}")

    def enter(self, label: str) -> None:
        self.label = label
        self.lines.append(f"{label}:")

    # values

    def address(self, node: UOp, gate: str | None = None) -> str:
        param, index = node.src
        position = self.value(index)
        if gate is not None:        # element 0 is always there to be read
            position = self.put(f"select i1 {gate}, {_type(index.dtype)} {position}, {_type(index.dtype)} 0")
        element = "i8" if param.dtype.kind == "b" else _type(param.dtype)
        if self.target.gpu and index.dtype.bits == 32 and index.op is not Ops.CONST:
            # an index that is not negative: the base stays in scalar registers
            position = self.put(f"zext nneg i32 {position} to i64")
            return self.put(f"getelementptr inbounds {element}, {self.pointer} {self.value(param)}, i64 {position}")
        return self.put(f"getelementptr inbounds {element}, {self.pointer} {self.value(param)}, "
                        f"{_type(index.dtype)} {position}")

    def binary(self, op: Ops, dtype: DType, x: str, y: str, *, flags: str = "", signed: bool = True) -> str:
        t = _type(dtype)
        if dtype.is_float:
            if op is Ops.MAX:
                return self.call(f"llvm.maximum.f{dtype.bits}", t, (t, x), (t, y))
            accuracy = ", !fpmath !1" if op is Ops.FDIV and self.target.gpu and dtype.bits == 32 else ""
            return self.put(f"{_FLOAT_OPS[op]} {self.contract}{t} {x}, {y}{accuracy}")
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
        value = self.put(f"load {memory}, {self.pointer} {address}, align {node.dtype.itemsize}")
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
        memory = "i8" if dtype.kind == "b" else _type(dtype)
        self.lines.append(
            f"  store {memory} {value}, {self.pointer} {self.address(node.src[0])}, align {dtype.itemsize}"
        )

    def instruction(self, node: UOp) -> None:
        op = node.op
        if op is Ops.INDEX:
            return
        if op is Ops.STORE:
            self.store(node)
            return
        if op is Ops.LOAD:
            name = self.load(node)
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
            name = self.binary(op, node.dtype, self.value(node.src[0]), self.value(node.src[1]), flags=_no_wrap(node),
                               signed=not all(s.dtype.is_int and s.vmin >= 0 for s in node.src))
        self.names[node] = name


def _no_wrap(node: UOp) -> str:
    """LLVM's flags for integer arithmetic that the intervals show not to overflow: it may fold it into addresses."""
    if node.op not in (Ops.ADD, Ops.MUL) or node.dtype.kind != "i":
        return ""
    (a, b), (c, d) = node.src[0].bounds, node.src[1].bounds
    ends = (a + c, b + d) if node.op is Ops.ADD else (a * c, a * d, b * c, b * d)
    if min(ends) < node.dtype.min or max(ends) > node.dtype.max:
        return ""
    return "nuw nsw " if a >= 0 and c >= 0 else "nsw "


def render(name: str, program: Sequence[Instruction], target: Target) -> Source:
    """LLVM IR for ``program``, the instructions of one kernel in any right order."""
    nodes = [x for x in program if isinstance(x, UOp)]
    outer = [x.range for x in program if isinstance(x, Begin) and x.range.arg[1] is Axis.GLOBAL]
    iterations = outer[0].src[0].arg if outer else 1
    assert not target.gpu or len(outer) <= 1, "a GPU kernel has one flat range of work-items"
    block = min(256, -(-iterations // 32) * 32) if target.gpu else 1
    writer = _Writer(target, block)
    writer.outermost = outer[0] if outer else None
    params = sorted({s for n in nodes for s in n.src if s.op is Ops.PARAM}, key=lambda n: n.arg)
    written = {n.src[0].src[0] for n in nodes if n.op is Ops.STORE}
    alone = target.gpu and not outer
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
    text = "\n".join(writer.lines)
    for _, _, mark, after in writer.patches:
        text = text.replace(mark, after)
    arguments = [f"{writer.pointer} noalias {'' if p in written else 'readonly '}align 16 %p{p.arg}" for p in params]
    if target.gpu:
        head = f"define amdgpu_kernel void @{name}({', '.join(arguments)}) #0"
        attributes = (
            f'nounwind "amdgpu-flat-work-group-size"="1,{max(block, 32)}" "uniform-work-group-size"="true" {_NO_INPUTS}'
        )
    else:
        t = _type(outer[0].dtype) if outer else "i32"
        head = f"define void @{name}({', '.join([*arguments, f'{t} %low', f'{t} %high'])}) #0"
        attributes = "nounwind"
    tail = ['!llvm.module.flags = !{!0}', '!0 = !{i32 1, !"amdhsa_code_object_version", i32 500}',
            '!1 = !{float 2.5}'] if target.gpu else []
    whole = "\n".join([f'target triple = "{target.triple}"', *sorted(writer.declared), f"{head} {{", "entry:", text,
                       "  ret void", "}", f"attributes #0 = {{ {attributes} }}", *tail, ""])
    return Source(name, whole, len(params), (-(-iterations // block), 1, 1), (block, 1, 1), iterations, _work(program))


def _work(program: Sequence[Instruction]) -> int:
    total, scale, stack = 0, 1, []
    for item in program:
        if isinstance(item, Begin):
            stack.append(scale)
            scale *= item.range.src[0].arg
        elif isinstance(item, End):
            scale = stack.pop()
        else:
            total += scale
    return total
