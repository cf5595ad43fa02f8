"""Memory for what a schedule makes for itself: values that are not needed at the same time share a place.

Each made slot lives from the item that writes it first to the last that reads it. Going through the items in order, a
new slot takes the free place that fits it best; places are freed after the item that reads them last, so that no
kernel reads and writes one place by two names. What the caller gets (roots) keeps a place of its own.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.schedule import CopyItem, Item, KernelItem, Schedule, Slot

__all__ = ["peak_bytes", "share_memory"]


def _uses(item: Item) -> tuple[int, ...]:
    return item.slots if isinstance(item, KernelItem) else (item.dst, item.src)


def share_memory(plan: Schedule) -> Schedule:
    """The same schedule with fewer, shared slots."""
    first_made = plan.inputs
    # copies move whole buffers: those stay what they are
    keep = {*plan.roots, *(s for item in plan.items if isinstance(item, CopyItem) for s in _uses(item))}
    last = {s: n for n, item in enumerate(plan.items) for s in _uses(item)}
    places: list[Slot] = []                 # what will be made
    at: dict[int, int] = {}                 # old slot -> number of its place
    free: dict[str, list[int]] = {}         # by device
    for slot, made in enumerate(plan.made, first_made):
        if slot in keep or slot not in last:
            at[slot] = len(places)
            places.append(made)
    for n, item in enumerate(plan.items):
        for slot in _uses(item):
            if slot < first_made or slot in at:
                continue
            made = plan.made[slot - first_made]
            nbytes = made.size * made.dtype.itemsize
            fitting = [p for p in free.get(made.device, ()) if _nbytes(places[p]) >= nbytes]
            if fitting:
                at[slot] = min(fitting, key=lambda p: _nbytes(places[p]))
                free[made.device].remove(at[slot])
            else:
                at[slot] = len(places)
                places.append(made)
        for slot in dict.fromkeys(_uses(item)):
            if slot >= first_made and slot not in keep and last[slot] == n:
                free.setdefault(plan.made[slot - first_made].device, []).append(at[slot])

    def moved(slot: int) -> int:
        return slot if slot < first_made else first_made + at[slot]

    items: list[Item] = [replace(i, slots=tuple(map(moved, i.slots)), writes=tuple(map(moved, i.writes)))
                         if isinstance(i, KernelItem) else CopyItem(moved(i.dst), moved(i.src)) for i in plan.items]
    return Schedule(plan.inputs, places, items, [moved(s) for s in plan.roots], plan.overwritten)


def _nbytes(slot: Slot) -> int:
    return slot.size * slot.dtype.itemsize


def peak_bytes(plan: Schedule) -> int:
    """Bytes of all that a schedule makes."""
    return sum(_nbytes(s) for s in plan.made)
