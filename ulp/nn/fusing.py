"""Tables and sums of codes as part of the step that makes the codes, while these are in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .lowering import Step
from .request import After, Group, Slot

_LARGEST = 256
"""Entries of a table: two codes together have 8 bits"""


def fused(steps: list[Step], outputs: list[Slot]) -> list[Step]:
    """The steps without those that look up codes which only they read, and which an epilogue or another table makes."""
    makers: dict[int, list[Step]] = {}
    readers: dict[int, int] = {}
    for step in steps:
        for slot in step.writes:
            makers.setdefault(id(slot.tensor.find()), []).append(step)
        for slot in step.reads:
            readers[id(slot.tensor.find())] = readers.get(id(slot.tensor.find()), 0) + 1
    for slot in outputs:
        readers[id(slot.tensor.find())] = readers.get(id(slot.tensor.find()), 0) + 1
    dropped: set[int] = set()
    for step in steps:
        if len(step.reads) == 1:
            dropped.update(_composed(step, makers, readers))
    for step in steps:
        if step.table is not None and id(step) not in dropped:
            dropped.update(_placed(step, makers, readers))
    return [step for step in steps if id(step) not in dropped]


def _composed(step: Step, makers: dict[int, list[Step]], readers: dict[int, int]) -> set[int]:
    """Have the step's table take in the tables of one code whose results only it reads; the ids of their steps."""
    dropped: set[int] = set()
    for i in range(len(step.reads) if step.table is not None else 0):
        while (before := _table_before(step.reads[i], makers, readers)) is not None and _indexed(step, i, before):
            dropped.add(id(before))
    return dropped


def _placed(step: Step, makers: dict[int, list[Step]], readers: dict[int, int]) -> set[int]:
    """Have an epilogue take in the step's table; the ids of the steps that need not run then.

    A table of two codes takes in those before it only if an epilogue takes it in: no step of its own looks up by two codes.
    """
    reads, table = step.reads, step.table
    dropped = _composed(step, makers, readers) if len(reads) == 2 else set()
    if any(_taken(step, i, makers, readers) for i in range(len(reads))):
        return {id(step), *dropped}
    step.reads, step.table = reads, table
    if dropped and any(_taken(step, i, makers, readers) for i in range(len(reads))):
        return {id(step)}
    return set()


def _table_before(slot: Slot, makers: dict[int, list[Step]], readers: dict[int, int]) -> Step | None:
    """The step that makes the codes by a table of one code, for no other reader."""
    tensor = slot.tensor.find()
    steps = makers.get(id(tensor), [])  # the input's may have none left
    alone = slot.whole and readers[id(tensor)] == 1 and len(steps) == 1
    if not alone or steps[0].table is None or len(steps[0].reads) != 1 or not steps[0].reads[0].whole or not steps[0].writes[0].whole:
        return None
    return steps[0]


def _indexed(step: Step, i: int, before: Step) -> bool:
    """Have operand i of the step's table be what `before` reads. False where the table would be too large."""
    table = step.table
    assert table is not None
    assert before.table is not None
    tables: list[npt.NDArray[Any]] = [np.arange(_levels(slot)) for slot in step.reads]
    tables[i] = before.table
    if len(tables) == 2 and len(tables[0]) * len(tables[1]) > _LARGEST:
        return False
    if len(tables) == 1:
        step.table = table[before.table]
    else:
        index = tables[1][:, None].astype(np.int64) * _levels(step.reads[0]) + tables[0]
        step.table = table[index.reshape(-1)]
    step.reads = [before.reads[0] if k == i else slot for k, slot in enumerate(step.reads)]
    return True


def _levels(slot: Slot) -> int:
    assert slot.tensor.quantizer is not None
    return slot.tensor.quantizer.levels + 1


@dataclass(frozen=True)
class _Operand:
    """An operand of a table that an epilogue makes: slot `index` of `group`, which these steps share."""

    slot: Slot
    group: Group
    index: int
    makers: list[Step]


def _operand(slot: Slot, makers: dict[int, list[Step]], readers: dict[int, int]) -> _Operand | None:
    tensor = slot.tensor.find()
    steps = makers[id(tensor)]
    group = steps[0].group
    if not slot.whole or readers[id(tensor)] != 1 or group is None or any(step.group is not group for step in steps):
        return None
    index = [i for i, written in enumerate(group.slots) if written.tensor.find() is tensor]
    if len(index) != 1 or not group.slots[index[0]].whole:
        return None
    return _Operand(slot, group, index[0], steps)


def _taken(step: Step, i: int, makers: dict[int, list[Step]], readers: dict[int, int]) -> bool:
    """Whether the steps that make operand i of the step's table take it in."""
    operand = _operand(step.reads[i], makers, readers)
    if operand is None or step.table is None:
        return False
    group, index = operand.group, operand.index
    other = step.reads[1 - i] if len(step.reads) == 2 else None
    known = group.after.get(index)
    # Where the makers have further results, the other operand may depend on them.
    if other is not None and (len(group.slots) > 1 or (known is not None and known.other is not None)):
        return False
    after = _behind(known, operand.slot, _in_order(step, i), other)
    if after is None:
        return False
    (target,) = step.writes
    group.after[index] = after
    old = operand.slot.tensor.find()
    group.slots[index] = target
    for maker in operand.makers:
        if maker.writes is not group.slots:
            maker.writes = [target.part(w.channel, w.channels) if w.tensor.find() is old else w for w in maker.writes]
        if other is not None:
            maker.reads = [*maker.reads, other]
    writers = makers[id(target.tensor.find())]
    writers.remove(step)
    writers.extend(operand.makers)
    return True


def _in_order(step: Step, i: int) -> npt.NDArray[np.uint8]:
    """The table with the bits of operand i below those of the other."""
    table = step.table
    assert table is not None
    if i == 0:
        return table
    return np.ascontiguousarray(table.reshape(-1, _levels(step.reads[0])).T).reshape(-1)


def _behind(known: After | None, slot: Slot, table: npt.NDArray[np.uint8], other: Slot | None) -> After | None:
    """The table behind what is there already. None where the index would have more than 8 bits."""
    quantizer = slot.tensor.quantizer
    assert quantizer is not None
    if known is None:
        return After(quantizer, other, table)
    if other is None:
        return After(known.quantizer, known.other, table[known.table])
    bits = known.quantizer.bits
    index = np.arange(len(table) >> quantizer.bits << bits)
    if len(index) > _LARGEST:
        return None
    return After(known.quantizer, other, table[known.table[index % 2**bits] | index >> bits << quantizer.bits])
