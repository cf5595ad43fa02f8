"""What compiled code and Python share, and the code that is the same for every kernel: TLB, memory, scheduler.

A :class:`Context` belongs to one thread. The software TLB maps 4 KiB pages to host pointers, apart for reads and
writes (so that memory learns which pages are written); a miss calls back into Python, which asks the dispatch's memory.
The scheduler runs one workgroup after the other, every wave up to its next barrier, and returns to Python for
everything that it does not know: an instruction for the interpreter, a jump to code not compiled yet, a fault.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable

import numpy as np

from mock.isa.jit.registers import Layout

__all__ = ["BARRIER", "Context", "DONE", "FAULT", "FIELDS", "INTERPRET", "REPEAT", "TERMINATOR", "YIELD", "support_ir",
           "symbol"]

DONE, BARRIER, YIELD, FAULT, INTERPRET, TERMINATOR, REPEAT = range(7)
"""What a wave function returns. FAULT: memory refused (the callback keeps why). INTERPRET, TERMINATOR: the
instruction at the state's PC is for the interpreter. REPEAT: from the state's PC on, careful code is needed."""

TLB_ENTRIES = 1024
PAGE = 4096
QUANTUM = 1 << 18
"""Jumps backwards that a wave takes before others get their turn."""
AHEAD = 256
"""Pages that one miss enters, where the memory is this process's own and each address its pointer."""

_NAMES = ("instructions", "lds", "lds_bytes", "code", "scratch", "scratch_wave_bytes", "scratch_slots", "shared_high",
          "private_high", "miss", "states", "state_bytes", "sgprs", "lane_ids", "exec_masks", "waves", "group", "end",
          "wave", "alive", "fresh", "grid_x", "grid_y", "start_x", "start_y", "start_z", "id_x", "id_y", "id_z", "info",
          "pc", "slot", "function", "served", "invalidated", "fuel")
FIELDS = {name: 8 * i for i, name in enumerate(_NAMES)}
"""Byte offsets of the context's 64-bit fields."""
READ_TLB, WRITE_TLB, SCALAR_TLB, COHERENT_TLB = (PAGE + 16 * TLB_ENTRIES * i for i in range(4))
"""For loads, stores and atomics, scalar loads, and loads with glc: a memory with caches leads them apart."""
SIZE = PAGE + 64 * TLB_ENTRIES

Miss = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32)


class Context:
    """One thread's block of shared memory. ``translate(address, kind)`` gives a host pointer or 0; kinds are those of
    :mod:`mock.isa.dispatch`."""

    def __init__(self, translate: Callable[[int, int], int]) -> None:
        self._raw = np.zeros(SIZE + 64, np.uint8)
        skip = -int(self._raw.ctypes.data) % 64
        self._bytes = self._raw[skip:skip + SIZE]
        self.fields = self._bytes[:PAGE].view(np.uint64)
        self._tlbs = self._bytes[PAGE:].view(np.uint64)
        self.address = int(self._bytes.ctypes.data)
        self._callback = Miss(translate)
        self["fuel"] = QUANTUM
        self["miss"] = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    def __getitem__(self, name: str) -> int:
        return int(self.fields[FIELDS[name] // 8])

    def __setitem__(self, name: str, value: int) -> None:
        self.fields[FIELDS[name] // 8] = value & 0xFFFFFFFFFFFFFFFF

    def fill(self, kind: int, address: int, end: int) -> None:
        """Enter the page of ``address`` and those behind it, up to ``end``, which are where their addresses say."""
        first = address // PAGE
        pages = np.arange(first, min(end // PAGE, first + AHEAD), dtype=np.uint64)
        entries = self._tlbs[2 * TLB_ENTRIES * kind:2 * TLB_ENTRIES * (kind + 1)].reshape(-1, 2)
        at = (pages ^ pages >> np.uint64(10)) & np.uint64(TLB_ENTRIES - 1)
        entries[at, 0] = pages + np.uint64(1)
        entries[at, 1] = pages * np.uint64(PAGE)

    def zap(self, kind: int, page: int) -> None:
        """Forget a page's pointer; whoever uses it now goes on to. From any thread."""
        entry = 2 * TLB_ENTRIES * kind + 2 * ((page ^ page >> 10) & TLB_ENTRIES - 1)
        if int(self._tlbs[entry]) == page + 1:
            self._tlbs[entry] = 0

    def forget(self) -> None:
        """Empty the TLB: a dispatch begins, or the memory changed its mapping."""
        self._tlbs[:] = 0


def _field(name: str, register: str, label: str) -> str:
    return (f"  %{label}_p = getelementptr i8, ptr %ctx, i64 {FIELDS[name]}\n"
            f"  %{register} = load i64, ptr %{label}_p\n")


def _tlb(name: str, table: int, kind: int) -> str:
    return f"""
define i64 @{name}_miss(ptr %ctx, ptr %entry, i64 %page) noinline cold {{
  %fp = getelementptr i8, ptr %ctx, i64 {FIELDS["miss"]}
  %f = load ptr, ptr %fp
  %address = shl i64 %page, 12
  %p = call i64 %f(i64 %address, i32 {kind})
  %bad = icmp eq i64 %p, 0
  br i1 %bad, label %out, label %keep
keep:
  %tag = add i64 %page, 1
  store i64 %tag, ptr %entry
  %second = getelementptr i8, ptr %entry, i64 8
  store i64 %p, ptr %second
  br label %out
out:
  ret i64 %p
}}

define i64 @{name}(ptr %ctx, i64 %a) alwaysinline {{
  %page = lshr i64 %a, 12
  %folded = lshr i64 %a, 22
  %mixed = xor i64 %page, %folded
  %i = and i64 %mixed, {TLB_ENTRIES - 1}
  %o = shl i64 %i, 4
  %base = getelementptr i8, ptr %ctx, i64 {table}
  %entry = getelementptr i8, ptr %base, i64 %o
  %tag = load i64, ptr %entry
  %want = add i64 %page, 1
  %hit = icmp eq i64 %tag, %want
  br i1 %hit, label %yes, label %no, !prof !0
yes:
  %second = getelementptr i8, ptr %entry, i64 8
  %p = load i64, ptr %second
  br label %out
no:
  %q = call i64 @{name}_miss(ptr %ctx, ptr %entry, i64 %page)
  %failed = icmp eq i64 %q, 0
  br i1 %failed, label %bad, label %out
bad:
  ret i64 0
out:
  %base_pointer = phi i64 [%p, %yes], [%q, %no]
  %inside = and i64 %a, {PAGE - 1}
  %result = add i64 %base_pointer, %inside
  ret i64 %result
}}
"""


def _forget() -> str:
    """A cache instruction: Python is told at the next miss, and what a cache may have served is asked for again."""
    return f"""
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define void @cache_instruction(ptr %ctx, i64 %bits) noinline {{
  %ip = getelementptr i8, ptr %ctx, i64 {FIELDS["invalidated"]}
  %old = load i64, ptr %ip
  %new = or i64 %old, %bits
  store i64 %new, ptr %ip
  %sp = getelementptr i8, ptr %ctx, i64 {FIELDS["served"]}
  %served = load i64, ptr %sp
  %fresh = icmp eq i64 %served, 0
  br i1 %fresh, label %out, label %forget
forget:
  store i64 0, ptr %sp
  %tlbs = getelementptr i8, ptr %ctx, i64 {READ_TLB}
  call void @llvm.memset.p0.i64(ptr %tlbs, i8 0, i64 {SIZE - READ_TLB}, i1 false)
  br label %out
out:
  ret void
}}
"""


def _bytewise(tlb: str) -> str:
    """Accesses that cross a page, byte by byte between memory and a buffer."""
    write, name = tlb == "tlb_write", tlb.replace("tlb", "slow")
    source, target = ("%b", "%p") if write else ("%p", "%b")
    return f"""
define i1 @{name}(ptr %ctx, i64 %a, ptr %buffer, i64 %n) noinline {{
entry:
  br label %head
head:
  %i = phi i64 [0, %entry], [%i2, %copy]
  %done = icmp eq i64 %i, %n
  br i1 %done, label %good, label %body
body:
  %at = add i64 %a, %i
  %q = call i64 @{tlb}(ptr %ctx, i64 %at)
  %bad = icmp eq i64 %q, 0
  br i1 %bad, label %fault, label %copy
copy:
  %p = inttoptr i64 %q to ptr
  %b = getelementptr i8, ptr %buffer, i64 %i
  %x = load i8, ptr {source}
  store i8 %x, ptr {target}
  %i2 = add i64 %i, 1
  br label %head
good:
  ret i1 true
fault:
  ret i1 false
}}
"""


_GROUP = 16     # lanes that are looked at together: a tile's row


def _rows_at(lanes: int, write: bool, prefix: str, base: str, offsets: str, mask: str, done: str) -> str:
    """Blocks that move ``count`` dwords a lane between ``data`` and ``base`` + ``offsets``, sixteen lanes at a time.

    They begin with the block ``{prefix}rows`` and end in ``done``. Loads of lanes that all want one dword, or
    consecutive ones, are single loads.
    """
    p, n = prefix, _GROUP
    vector = f"<{n} x i32>"
    steps = ", ".join(f"i32 {4 * i}" for i in range(n))
    place = f"""  %{p}eo = shl i64 %{p}c, 2
  %{p}b = getelementptr i8, ptr {base}, i64 %{p}eo
  %{p}dr = mul i64 %{p}c, {lanes}
  %{p}dl = add i64 %{p}dr, %{p}l
  %{p}d = getelementptr i32, ptr %data, i64 %{p}dl
"""
    next_row = f"""  %{p}c2 = add i64 %{p}c, 1
  %{p}more = icmp ult i64 %{p}c2, %count
"""
    if write:
        groups = f"""  br label %{p}row
{p}row:
  %{p}c = phi i64 [0, %{p}group], [%{p}c2, %{p}row]
{place}  %{p}e = getelementptr i8, ptr %{p}b, {vector} %{p}o
  %{p}v = load {vector}, ptr %{p}d, align 4
  call void @llvm.masked.scatter.v{n}i32.v{n}p0({vector} %{p}v, <{n} x ptr> %{p}e, i32 1, <{n} x i1> %{p}m)
{next_row}  br i1 %{p}more, label %{p}row, label %{p}next
"""
    else:
        groups = f"""  %{p}first = extractelement {vector} %{p}o, i32 0
  %{p}s1 = insertelement {vector} undef, i32 %{p}first, i32 0
  %{p}s = shufflevector {vector} %{p}s1, {vector} undef, {vector} zeroinitializer
  %{p}one = icmp eq {vector} %{p}o, %{p}s
  %{p}ahead = add {vector} %{p}s, <{steps}>
  %{p}run = icmp eq {vector} %{p}o, %{p}ahead
  %{p}mb = bitcast <{n} x i1> %{p}m to i{n}
  %{p}all = icmp eq i{n} %{p}mb, -1
  %{p}oneb = bitcast <{n} x i1> %{p}one to i{n}
  %{p}runb = bitcast <{n} x i1> %{p}run to i{n}
  %{p}one_all = icmp eq i{n} %{p}oneb, -1
  %{p}run_all = icmp eq i{n} %{p}runb, -1
  %{p}is_one = and i1 %{p}one_all, %{p}all
  %{p}is_run = and i1 %{p}run_all, %{p}all
  br label %{p}row
{p}row:
  %{p}c = phi i64 [0, %{p}group], [%{p}c2, %{p}store]
{place}  %{p}near = getelementptr i8, ptr %{p}b, i32 %{p}first
  br i1 %{p}is_run, label %{p}consecutive, label %{p}else
{p}consecutive:
  %{p}v_run = load {vector}, ptr %{p}near, align 1
  br label %{p}store
{p}else:
  br i1 %{p}is_one, label %{p}uniform, label %{p}scattered
{p}uniform:
  %{p}dword = load i32, ptr %{p}near, align 1
  %{p}u1 = insertelement {vector} undef, i32 %{p}dword, i32 0
  %{p}v_one = shufflevector {vector} %{p}u1, {vector} undef, {vector} zeroinitializer
  br label %{p}store
{p}scattered:
  %{p}e = getelementptr i8, ptr %{p}b, {vector} %{p}o
  %{p}old = load {vector}, ptr %{p}d, align 4
  %{p}v_any = call {vector} @llvm.masked.gather.v{n}i32.v{n}p0(<{n} x ptr> %{p}e, i32 1, <{n} x i1> %{p}m, \
{vector} %{p}old)
  br label %{p}store
{p}store:
  %{p}v = phi {vector} [%{p}v_run, %{p}consecutive], [%{p}v_one, %{p}uniform], [%{p}v_any, %{p}scattered]
  store {vector} %{p}v, ptr %{p}d, align 4
{next_row}  br i1 %{p}more, label %{p}row, label %{p}next
"""
    return f"""{p}rows:
  %{p}short = trunc <{lanes} x i64> {offsets} to <{lanes} x i32>
  store <{lanes} x i32> %{p}short, ptr %offset_rows, align 4
  store <{lanes} x i1> {mask}, ptr %mask_row, align 8
  br label %{p}group
{p}group:
  %{p}l = phi i64 [0, %{p}rows], [%{p}l2, %{p}next]
  %{p}op = getelementptr i32, ptr %offset_rows, i64 %{p}l
  %{p}o = load {vector}, ptr %{p}op, align 4
  %{p}ml = lshr i64 %{p}l, 3
  %{p}mp = getelementptr i8, ptr %mask_row, i64 %{p}ml
  %{p}m = load <{n} x i1>, ptr %{p}mp, align 1
{groups}{p}next:
  %{p}l2 = add i64 %{p}l, {n}
  %{p}again = icmp ult i64 %{p}l2, {lanes}
  br i1 %{p}again, label %{p}group, label %{done}
"""


_ROOM = "  %offset_rows = alloca [64 x i32], align 64\n  %mask_row = alloca i64, align 8\n"


def _splat(lanes: int, name: str, value: str) -> str:
    return (f"  %{name}1 = insertelement <{lanes} x i64> undef, i64 {value}, i32 0\n"
            f"  %{name} = shufflevector <{lanes} x i64> %{name}1, <{lanes} x i64> undef, <{lanes} x i32> "
            "zeroinitializer\n")


def _mask_vector(lanes: int) -> str:
    if lanes == 64:
        return "  %mv = bitcast i64 %mask to <64 x i1>\n"
    return f"  %mt = trunc i64 %mask to i{lanes}\n  %mv = bitcast i{lanes} %mt to <{lanes} x i1>\n"


def _lanes_loop(name: str, size: int, lanes: int, tlb: str, vector: bool) -> str:
    """``count`` elements of ``size`` bytes for each lane of ``mask``: memory <-> data[c * lanes + lane] (i32)."""
    kind = f"i{8 * size}"
    write, slow = tlb == "tlb_write", tlb.replace("tlb", "slow")
    narrow = f"  %n{{0}} = trunc i32 %v to {kind}\n" if size < 4 else ""
    value = "%n" if size < 4 else "%v"
    if write:
        move = (f"  %v = load i32, ptr %d\n{narrow.format('')}"
                f"  store {kind} {value}, ptr %e, align 1\n")
        before_slow = f"  call void @pack{size}(ptr %buffer, ptr %data, i64 %l, i64 %count)\n"
        after_slow = "  br label %head\n"
    else:
        wide = f"  %v = zext {kind} %x to i32\n" if size < 4 else ""
        move = (f"  %x = load {kind}, ptr %e, align 1\n{wide}"
                f"  store i32 {'%v' if size < 4 else '%x'}, ptr %d\n")
        before_slow = ""
        after_slow = "  br label %copy\n"
    whole = (1 << lanes) - 1
    quick = ""
    start = "  br label %head\n"
    if vector and size == 4:
        source, target = ("%data", "%vp") if write else ("%vp", "%data")
        transfer = (f"  %row = load <{lanes} x i32>, ptr {source}, align 4\n"
                    f"  store <{lanes} x i32> %row, ptr {target}, align 4\n")
        steps = ", ".join(f"i64 {4 * i}" for i in range(lanes))
        start = (f"  %one = icmp eq i64 %count, 1\n  %all = icmp eq i64 %mask, {whole if lanes < 64 else -1}\n"
                 f"  %try = and i1 %one, %all\n  br i1 %try, label %look, label %page\n")
        quick = f"""look:
  %a0 = load i64, ptr %addresses
  %end_in = and i64 %a0, {PAGE - 1}
  %fits = icmp ule i64 %end_in, {PAGE - 4 * lanes}
  %rows = load <{lanes} x i64>, ptr %addresses, align 8
  %s1 = insertelement <{lanes} x i64> undef, i64 %a0, i32 0
  %s2 = shufflevector <{lanes} x i64> %s1, <{lanes} x i64> undef, <{lanes} x i32> zeroinitializer
  %expected = add <{lanes} x i64> %s2, <{steps}>
  %differ = xor <{lanes} x i64> %rows, %expected
  %or = call i64 @llvm.vector.reduce.or.v{lanes}i64(<{lanes} x i64> %differ)
  %consecutive = icmp eq i64 %or, 0
  %go = and i1 %fits, %consecutive
  br i1 %go, label %vector, label %page
vector:
  %vq = call i64 @{tlb}(ptr %ctx, i64 %a0)
  %vbad = icmp eq i64 %vq, 0
  br i1 %vbad, label %fault, label %vcopy
vcopy:
  %vp = inttoptr i64 %vq to ptr
{transfer}  ret i1 true
page:
  %nobody = icmp eq i64 %mask, 0
  br i1 %nobody, label %good, label %somebody
somebody:
  %first = call i64 @llvm.cttz.i64(i64 %mask, i1 true)
  %fp = getelementptr i64, ptr %addresses, i64 %first
  %fa = load i64, ptr %fp
  %start = and i64 %fa, -{PAGE}
  %some = load <{lanes} x i64>, ptr %addresses, align 8
{_splat(lanes, "starts", "%start")}  %offsets = sub <{lanes} x i64> %some, %starts
  %bytes_c = shl i64 %count, 2
  %room = sub i64 {PAGE}, %bytes_c
{_splat(lanes, "rooms", "%room")}  %beyond = icmp ugt <{lanes} x i64> %offsets, %rooms
{_mask_vector(lanes)}  %beyond_active = and <{lanes} x i1> %beyond, %mv
  %away = call i1 @llvm.vector.reduce.or.v{lanes}i1(<{lanes} x i1> %beyond_active)
  br i1 %away, label %head, label %together
together:
  %pq = call i64 @{tlb}(ptr %ctx, i64 %start)
  %pbad = icmp eq i64 %pq, 0
  br i1 %pbad, label %fault, label %found
found:
  %pp = inttoptr i64 %pq to ptr
  br label %prows
{_rows_at(lanes, write, "p", "%pp", "%offsets", "%mv", "good")}"""
    sources = "[%mask, %somebody]" if quick else "[%mask, %entry]"
    extra = ", [%m2, %slow_good]" if write else ""
    copy_from = "" if write else ", [%buffer_i, %slow_good]"
    buffer_i = "" if write else "  %buffer_i = ptrtoint ptr %buffer to i64\n"
    return f"""
define i1 @{name}(ptr %ctx, ptr %addresses, ptr %data, i64 %mask, i64 %count) noinline {{
entry:
  %buffer = alloca [64 x i8], align 8
{_ROOM if quick else ""}{start}{quick}head:
  %m = phi i64 {sources}, [%m2, %inner_end]{extra}
  %none = icmp eq i64 %m, 0
  br i1 %none, label %good, label %lane
lane:
  %l = call i64 @llvm.cttz.i64(i64 %m, i1 true)
  %m1 = sub i64 %m, 1
  %m2 = and i64 %m, %m1
  %ap = getelementptr i64, ptr %addresses, i64 %l
  %a = load i64, ptr %ap
  %bytes = mul i64 %count, {size}
  %in = and i64 %a, {PAGE - 1}
  %last = add i64 %in, %bytes
  %crosses = icmp ugt i64 %last, {PAGE}
  br i1 %crosses, label %slow, label %quick
quick:
  %q = call i64 @{tlb}(ptr %ctx, i64 %a)
  %bad = icmp eq i64 %q, 0
  br i1 %bad, label %fault, label %copy
slow:
{before_slow}  %ok = call i1 @{slow}(ptr %ctx, i64 %a, ptr %buffer, i64 %bytes)
  br i1 %ok, label %slow_good, label %fault
slow_good:
{buffer_i}{after_slow}copy:
  %pi = phi i64 [%q, %quick]{copy_from}
  %p = inttoptr i64 %pi to ptr
  br label %inner
inner:
  %c = phi i64 [0, %copy], [%c2, %inner]
  %eo = mul i64 %c, {size}
  %e = getelementptr i8, ptr %p, i64 %eo
  %dr = mul i64 %c, {lanes}
  %di = add i64 %dr, %l
  %d = getelementptr i32, ptr %data, i64 %di
{move}  %c2 = add i64 %c, 1
  %more = icmp ult i64 %c2, %count
  br i1 %more, label %inner, label %inner_end
inner_end:
  br label %head
good:
  ret i1 true
fault:
  ret i1 false
}}
"""


def _pack(size: int, lanes: int) -> str:
    kind = f"i{8 * size}"
    narrow = f"  %n = trunc i32 %v to {kind}\n" if size < 4 else ""
    return f"""
define void @pack{size}(ptr %buffer, ptr %data, i64 %l, i64 %count) noinline {{
entry:
  br label %head
head:
  %c = phi i64 [0, %entry], [%c2, %head]
  %dr = mul i64 %c, {lanes}
  %di = add i64 %dr, %l
  %d = getelementptr i32, ptr %data, i64 %di
  %v = load i32, ptr %d
{narrow}  %e = getelementptr {kind}, ptr %buffer, i64 %c
  store {kind} {"%n" if size < 4 else "%v"}, ptr %e, align 1
  %c2 = add i64 %c, 1
  %more = icmp ult i64 %c2, %count
  br i1 %more, label %head, label %out
out:
  ret void
}}
"""


def _lds_loop(name: str, size: int, lanes: int, write: bool) -> str:
    """The same for LDS: out of range reads 0 and writes nothing."""
    kind = f"i{8 * size}"
    if write:
        narrow = f"  %n = trunc i32 %v to {kind}\n" if size < 4 else ""
        hit = (f"  %v = load i32, ptr %d\n{narrow}  store {kind} {'%n' if size < 4 else '%v'}, ptr %e, align 1\n"
               "  br label %next\n")
        missed = "  br label %next\n"
    else:
        wide = f"  %v = zext {kind} %x to i32\n" if size < 4 else ""
        hit = (f"  %x = load {kind}, ptr %e, align 1\n{wide}  store i32 {'%v' if size < 4 else '%x'}, ptr %d\n"
               "  br label %next\n")
        missed = "  store i32 0, ptr %d\n  br label %next\n"
    first, begin = "entry", "  br label %head\n"
    if size == 4:
        first, begin = "outside", f"""  %some = load <{lanes} x i64>, ptr %addresses, align 8
  %bytes_c = shl i64 %count, 2
{_splat(lanes, "size", "%bytes_c")}  %ends = add <{lanes} x i64> %some, %size
{_splat(lanes, "limits", "%limit")}  %beyond = icmp ugt <{lanes} x i64> %ends, %limits
{_mask_vector(lanes)}  %beyond_active = and <{lanes} x i1> %beyond, %mv
  %away = call i1 @llvm.vector.reduce.or.v{lanes}i1(<{lanes} x i1> %beyond_active)
  br i1 %away, label %outside, label %prows
{_rows_at(lanes, write, "p", "%lds", "%some", "%mv", "good")}outside:
  br label %head
"""
    return f"""
define void @{name}(ptr %ctx, ptr %addresses, ptr %data, i64 %mask, i64 %count) noinline {{
entry:
{_field("lds", "lds_i", "lds")}{_field("lds_bytes", "limit", "limit")}  %lds = inttoptr i64 %lds_i to ptr
{_ROOM if size == 4 else ""}{begin}head:
  %m = phi i64 [%mask, %{first}], [%m2, %lane_end]
  %none = icmp eq i64 %m, 0
  br i1 %none, label %good, label %lane
lane:
  %l = call i64 @llvm.cttz.i64(i64 %m, i1 true)
  %m1 = sub i64 %m, 1
  %m2 = and i64 %m, %m1
  %ap = getelementptr i64, ptr %addresses, i64 %l
  %a = load i64, ptr %ap
  br label %inner
inner:
  %c = phi i64 [0, %lane], [%c2, %next]
  %eo = mul i64 %c, {size}
  %at = add i64 %a, %eo
  %end = add i64 %at, {size}
  %inside = icmp ule i64 %end, %limit
  %e = getelementptr i8, ptr %lds, i64 %at
  %dr = mul i64 %c, {lanes}
  %di = add i64 %dr, %l
  %d = getelementptr i32, ptr %data, i64 %di
  br i1 %inside, label %hit, label %miss
hit:
{hit}miss:
{missed}next:
  %c2 = add i64 %c, 1
  %more = icmp ult i64 %c2, %count
  br i1 %more, label %inner, label %lane_end
lane_end:
  br label %head
good:
  ret void
}}
"""


def _scalar_load() -> str:
    return f"""
define i1 @scalar_load(ptr %ctx, i64 %a, ptr %out, i64 %bytes) noinline {{
  %in = and i64 %a, {PAGE - 1}
  %last = add i64 %in, %bytes
  %crosses = icmp ugt i64 %last, {PAGE}
  br i1 %crosses, label %slow, label %quick
quick:
  %q = call i64 @tlb_scalar(ptr %ctx, i64 %a)
  %bad = icmp eq i64 %q, 0
  br i1 %bad, label %fault, label %copy
copy:
  %p = inttoptr i64 %q to ptr
  call void @llvm.memcpy.p0.p0.i64(ptr %out, ptr %p, i64 %bytes, i1 false)
  ret i1 true
slow:
  %ok = call i1 @slow_scalar(ptr %ctx, i64 %a, ptr %out, i64 %bytes)
  ret i1 %ok
fault:
  ret i1 false
}}
"""


def _flat(lanes: int) -> str:
    """Flat addresses: LDS ones are made offsets (their lanes are the result), private ones become scratch addresses."""
    return f"""
define i64 @flat_split(ptr %ctx, ptr %addresses, i64 %mask) noinline {{
entry:
{_field("shared_high", "shared", "sh")}{_field("private_high", "private", "pr")}{_field("scratch", "scratch", "sc")}\
  br label %head
head:
  %m = phi i64 [%mask, %entry], [%m2, %next]
  %lds = phi i64 [0, %entry], [%lds2, %next]
  %none = icmp eq i64 %m, 0
  br i1 %none, label %out, label %lane
lane:
  %l = call i64 @llvm.cttz.i64(i64 %m, i1 true)
  %m1 = sub i64 %m, 1
  %m2 = and i64 %m, %m1
  %ap = getelementptr i64, ptr %addresses, i64 %l
  %a = load i64, ptr %ap
  %high = lshr i64 %a, 32
  %low = and i64 %a, 4294967295
  %is_lds = icmp eq i64 %high, %shared
  br i1 %is_lds, label %local, label %other
local:
  store i64 %low, ptr %ap
  %bit = shl i64 1, %l
  %with = or i64 %lds, %bit
  br label %next
other:
  %is_private = icmp eq i64 %high, %private
  br i1 %is_private, label %own, label %next
own:
  %word = and i64 %low, -4
  %row = mul i64 %word, {lanes}
  %byte = and i64 %low, 3
  %column = shl i64 %l, 2
  %s1 = add i64 %row, %byte
  %s2 = add i64 %s1, %column
  %s3 = add i64 %s2, %scratch
  store i64 %s3, ptr %ap
  br label %next
next:
  %lds2 = phi i64 [%with, %local], [%lds, %other], [%lds, %own]
  br label %head
out:
  ret i64 %lds
}}
"""


_LAUNCH = ("states", "state_bytes", "sgprs", "lane_ids", "exec_masks", "waves", "end", "grid_x", "grid_y", "start_x",
           "start_y", "start_z", "id_x", "id_y", "id_z", "info", "scratch_wave_bytes")


def _scheduler(lanes: int) -> str:
    """Run workgroups [group, end): see the module's text. The return value is what stopped it, 0 when all are done."""
    def load(name: str) -> str:
        return _field(name, name, f"f_{name}")

    def put_id(axis: str) -> str:
        return f"""  %want_{axis} = icmp ult i64 %id_{axis}, 128
  br i1 %want_{axis}, label %put_{axis}, label %after_{axis}
put_{axis}:
  %t_{axis} = trunc i64 %number_{axis} to i32
  %w_{axis} = getelementptr i32, ptr %state, i64 %id_{axis}
  store i32 %t_{axis}, ptr %w_{axis}
  br label %after_{axis}
after_{axis}:
"""
    return f"""
define i32 @run(ptr %ctx) {{
entry:
{"".join(load(name) for name in _LAUNCH)}
  %group_p = getelementptr i8, ptr %ctx, i64 {FIELDS["group"]}
  %wave_p = getelementptr i8, ptr %ctx, i64 {FIELDS["wave"]}
  %alive_p = getelementptr i8, ptr %ctx, i64 {FIELDS["alive"]}
  %fresh_p = getelementptr i8, ptr %ctx, i64 {FIELDS["fresh"]}
  %scratch_p = getelementptr i8, ptr %ctx, i64 {FIELDS["scratch"]}
  %slot_p = getelementptr i8, ptr %ctx, i64 {FIELDS["slot"]}
  %slot = load i64, ptr %slot_p
  %function_p = getelementptr i8, ptr %ctx, i64 {FIELDS["function"]}
  %function = load ptr, ptr %function_p
  %sgprs_ptr = inttoptr i64 %sgprs to ptr
  br label %groups
groups:
  %group = load i64, ptr %group_p
  %finished = icmp uge i64 %group, %end
  br i1 %finished, label %out, label %have
have:
  %fresh = load i64, ptr %fresh_p
  %is_fresh = icmp ne i64 %fresh, 0
  br i1 %is_fresh, label %setup, label %sweep
setup:
  %plane = mul i64 %grid_x, %grid_y
  %gx = urem i64 %group, %grid_x
  %gr = udiv i64 %group, %grid_x
  %gy = urem i64 %gr, %grid_y
  %gz = udiv i64 %group, %plane
  %number_x = add i64 %gx, %start_x
  %number_y = add i64 %gy, %start_y
  %number_z = add i64 %gz, %start_z
  br label %each
each:
  %w = phi i64 [0, %setup], [%w2, %each_end]
  %so = mul i64 %w, %state_bytes
  %si = add i64 %states, %so
  %state = inttoptr i64 %si to ptr
  call void @llvm.memcpy.p0.p0.i64(ptr %state, ptr %sgprs_ptr, i64 {4 * Layout.VGPRS}, i1 false)
{put_id("x")}{put_id("y")}{put_id("z")}  %want_info = icmp ult i64 %info, 128
  br i1 %want_info, label %put_info, label %after_info
put_info:
  %is_first = icmp eq i64 %w, 0
  %first_bit = select i1 %is_first, i64 2147483648, i64 0
  %count_bits = and i64 %waves, 63
  %tg = or i64 %first_bit, %count_bits
  %tg32 = trunc i64 %tg to i32
  %wi = getelementptr i32, ptr %state, i64 %info
  store i32 %tg32, ptr %wi
  br label %after_info
after_info:
  %eo = shl i64 %w, 3
  %ei = add i64 %exec_masks, %eo
  %ep = inttoptr i64 %ei to ptr
  %mask = load i64, ptr %ep
  %exec_p = getelementptr i32, ptr %state, i64 126
  store i64 %mask, ptr %exec_p, align 4
  %vo = mul i64 %w, {4 * lanes}
  %vi = add i64 %lane_ids, %vo
  %vp = inttoptr i64 %vi to ptr
  %v0 = getelementptr i32, ptr %state, i64 {Layout.VGPRS}
  call void @llvm.memcpy.p0.p0.i64(ptr %v0, ptr %vp, i64 {4 * lanes}, i1 false)
  br label %each_end
each_end:
  %w2 = add i64 %w, 1
  %more = icmp ult i64 %w2, %waves
  br i1 %more, label %each, label %started
started:
  store i64 0, ptr %fresh_p
  store i64 0, ptr %wave_p
  store i64 %waves, ptr %alive_p
  br label %sweep
sweep:
  %cw = load i64, ptr %wave_p
  %at_end = icmp uge i64 %cw, %waves
  br i1 %at_end, label %swept, label %one
one:
  %cso = mul i64 %cw, %state_bytes
  %csi = add i64 %states, %cso
  %cs = inttoptr i64 %csi to ptr
  %status_p = getelementptr i32, ptr %cs, i64 {Layout.STATUS}
  %status = load i32, ptr %status_p
  %runs = icmp eq i32 %status, 0
  br i1 %runs, label %go, label %skip
skip:
  %cw1 = add i64 %cw, 1
  store i64 %cw1, ptr %wave_p
  br label %sweep
go:
  %sn = add i64 %slot, %cw
  %ss = mul i64 %sn, %scratch_wave_bytes
  %sbase_p = getelementptr i8, ptr %ctx, i64 {FIELDS["scratch_slots"]}
  %sbase = load i64, ptr %sbase_p
  %scratch = add i64 %sbase, %ss
  store i64 %scratch, ptr %scratch_p
  %r = call i32 %function(ptr %ctx, ptr %cs)
  switch i32 %r, label %service [i32 {DONE}, label %ended
                                 i32 {BARRIER}, label %waits]
ended:
  store i32 2, ptr %status_p
  %alive = load i64, ptr %alive_p
  %alive2 = sub i64 %alive, 1
  store i64 %alive2, ptr %alive_p
  br label %skip
waits:
  store i32 1, ptr %status_p
  br label %skip
service:
  ret i32 %r
swept:
  %left = load i64, ptr %alive_p
  %over = icmp eq i64 %left, 0
  br i1 %over, label %next_group, label %look
look:
  store i64 0, ptr %wave_p
  br label %look_head
look_head:
  %lw = phi i64 [0, %look], [%lw2, %look_next]
  %lend = icmp uge i64 %lw, %waves
  br i1 %lend, label %release, label %look_one
look_one:
  %lso = mul i64 %lw, %state_bytes
  %lsi = add i64 %states, %lso
  %ls = inttoptr i64 %lsi to ptr
  %lsp = getelementptr i32, ptr %ls, i64 {Layout.STATUS}
  %lst = load i32, ptr %lsp
  %still = icmp eq i32 %lst, 0
  br i1 %still, label %sweep, label %look_next
look_next:
  %lw2 = add i64 %lw, 1
  br label %look_head
release:
  br label %rel_head
rel_head:
  %rw = phi i64 [0, %release], [%rw2, %rel_next]
  %rend = icmp uge i64 %rw, %waves
  br i1 %rend, label %sweep, label %rel_one
rel_one:
  %rso = mul i64 %rw, %state_bytes
  %rsi = add i64 %states, %rso
  %rs = inttoptr i64 %rsi to ptr
  %rsp = getelementptr i32, ptr %rs, i64 {Layout.STATUS}
  %rst = load i32, ptr %rsp
  %waiting = icmp eq i32 %rst, 1
  %free = select i1 %waiting, i32 0, i32 %rst
  store i32 %free, ptr %rsp
  br label %rel_next
rel_next:
  %rw2 = add i64 %rw, 1
  br label %rel_head
next_group:
  %g2 = add i64 %group, 1
  store i64 %g2, ptr %group_p
  store i64 1, ptr %fresh_p
  br label %groups
out:
  ret i32 0
}}
"""


def symbol(name: str, lanes: int) -> str:
    """What a function of the support code is called."""
    return f"isa{lanes}_{name}"


def support_ir(lanes: int) -> str:
    """Everything that kernels call, and ``run``, as LLVM assembly."""
    parts = ["declare i64 @llvm.cttz.i64(i64, i1)", "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
             f"declare i64 @llvm.vector.reduce.or.v{lanes}i64(<{lanes} x i64>)",
             f"declare i1 @llvm.vector.reduce.or.v{lanes}i1(<{lanes} x i1>)",
             "declare void @llvm.masked.scatter.v16i32.v16p0(<16 x i32>, <16 x ptr>, i32, <16 x i1>)",
             "declare <16 x i32> @llvm.masked.gather.v16i32.v16p0(<16 x ptr>, i32, <16 x i1>, <16 x i32>)",
             _forget()]
    for kind, (tlb, table) in enumerate((("tlb_read", READ_TLB), ("tlb_write", WRITE_TLB), ("tlb_scalar", SCALAR_TLB),
                                         ("tlb_coherent", COHERENT_TLB))):
        parts += [_tlb(tlb, table, kind), _bytewise(tlb)]
    for size in (1, 2, 4):
        parts += [_pack(size, lanes), _lanes_loop(f"gather{size}", size, lanes, "tlb_read", True),
                  _lanes_loop(f"coherent_gather{size}", size, lanes, "tlb_coherent", True),
                  _lanes_loop(f"scatter{size}", size, lanes, "tlb_write", True),
                  _lds_loop(f"lds_gather{size}", size, lanes, False),
                  _lds_loop(f"lds_scatter{size}", size, lanes, True)]
    parts += [_scalar_load(), _flat(lanes), _scheduler(lanes), '!0 = !{!"branch_weights", i32 1000, i32 1}']
    return re.sub(r"@(?!llvm\.)(\w+)", lambda found: "@" + symbol(found[1], lanes), "\n".join(parts))
