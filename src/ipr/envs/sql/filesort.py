"""Which of rows that ORDER BY sees alike come first, as MySQL's filesort leaves them.

Decided here: rows have a number by their place in the order, those alike the same one. With few rows up to LIMIT the
server keeps them in a heap (`Bounded_queue`); else it sorts with the C++ library's `sort`, which is stable only up to
16 rows, or with `stable_sort`. What is done here is what GNU's library does with any rows, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

_SMALL = 16
"""Rows up to which `sort` is stable."""
_STABLE = 100
"""Rows beyond which keys of a fixed length are sorted with `stable_sort`."""


@dataclass(frozen=True, slots=True)
class Sorting:
    """How the rows of a result are sorted, by the number that is their last column."""

    texts: bool
    """Whether the key's length varies."""
    queue: bool
    """Whether the first rows are kept in a heap."""
    limit: int | None = None
    offset: int = 0
    leading: bool = False
    """Whether the first table's rows were sorted, whose number is one column before."""
    limited: bool = False
    """Whether LIMIT held for them too."""
    leads: str = ""
    """A query for all of these in the order in which they are read: numbers and places. "": they are in the result."""

    @property
    def columns(self) -> int:
        """How many columns of the rows are only for sorting."""
        return 2 if self.leading else 1


def arranged(
    rows: Sequence[tuple[Any, ...]], sorting: Sorting, leads: Sequence[tuple[Any, ...]] | None = None
) -> list[int]:
    """The indexes of the rows that remain, in their order. `leads`: what `Sorting.leads` gives."""
    if not sorting.leading:
        return _arranged([row[-1] for row in rows], sorting)
    together: dict[int, list[int]] = {}
    for k, row in enumerate(rows):
        together.setdefault(row[-2], []).append(k)
    if leads is None:
        leads = [(number, rows[part[0]][-1]) for number, part in together.items()]
    wanted = sorting.offset + sorting.limit if sorting.limited and sorting.limit is not None else None
    first = _arranged([place for _, place in leads], replace(sorting, limit=wanted, offset=0))
    found = [k for lead in first for k in together.get(leads[lead][0], ())]
    return found[sorting.offset :][: sorting.limit]


def sql(rows: str, columns: str, name: str, sorting: Sorting) -> str:
    """A query for rows in the order of `arranged`, each with its place in it, w_.

    `rows`: a query for them, with their numbers from 1 as n_, what `arranged` calls their numbers as p_ and, for the
    first table's rows, a_.
    `columns`: what is shown of them. `name`: a name that nothing else has.
    """
    limit = "NULL" if sorting.limit is None else sorting.limit
    how = f"{'a_' if sorting.leading else 'NULL'}, p_, {int(sorting.texts)}, {int(sorting.queue)}, {limit}"
    how += f", {sorting.offset}, {int(sorting.limited)}"
    place = f"substr({name}_.f, {name}.n_ * 4 - 3, 4)"
    found = f"SELECT {columns}, {place} AS w_ FROM (SELECT filesorted(n_, {how}) AS f FROM {name}) AS {name}_"
    found += f" CROSS JOIN {name} WHERE {place} > x'00000000' ORDER BY {place} LIMIT -1"
    return f"SELECT * FROM (WITH {name} AS MATERIALIZED ({rows}) {found}) LIMIT -1"


def _arranged(places: Sequence[int], sorting: Sorting) -> list[int]:
    rows = list(range(len(places)))
    wanted = len(rows) if sorting.limit is None else min(sorting.limit + sorting.offset, len(rows))
    if sorting.queue and wanted:
        rows = _queue(places, wanted + 1)
    rows = _sorted(rows, places, wanted, sorting.texts)
    return rows[sorting.offset : wanted]


def _sorted(rows: list[int], places: Sequence[int], wanted: int, texts: bool) -> list[int]:
    if wanted and wanted < len(rows) // 2:
        _select(rows, places, wanted - 1)
        rows, count = rows[:wanted], len(rows)
    else:
        count = len(rows)
    if count <= _STABLE or texts:
        _partition(rows, places)
    return sorted(rows, key=places.__getitem__)


def _queue(places: Sequence[int], size: int) -> list[int]:
    """The rows in the slots of a heap of so many, of which the greatest gives its slot to the next row."""
    slots: list[int] = []
    heap: list[int] = []  # slots, the greatest first

    def less(a: int, b: int) -> bool:
        return places[slots[heap[a]]] < places[slots[heap[b]]]

    for row in range(len(places)):
        if len(slots) < size:
            slots.append(row)
            heap.append(len(slots) - 1)
            at = len(heap) - 1
            while at and not less(at, (at - 1) // 2):
                up = (at - 1) // 2
                heap[at], heap[up] = heap[up], heap[at]
                at = up
            continue
        slots[heap[0]] = row
        at = 0
        while True:
            most = at
            for below in (2 * at + 1, 2 * at + 2):
                if below < len(heap) and less(most, below):
                    most = below
            if most == at:
                break
            heap[at], heap[most] = heap[most], heap[at]
            at = most
    return slots


def _cut(rows: list[int], places: Sequence[int], first: int, last: int) -> int:
    """Parts rows[first:last] by the median of three, and returns where the greater ones begin."""

    def swap(a: int, b: int) -> None:
        rows[a], rows[b] = rows[b], rows[a]

    a, b, c = first + 1, first + (last - first) // 2, last - 1
    x, y, z = (places[rows[k]] for k in (a, b, c))
    if x < y:
        swap(first, b if y < z else c if x < z else a)
    else:
        swap(first, a if x < z else c if y < z else b)
    pivot, low, high = places[rows[first]], first + 1, last
    while True:
        while places[rows[low]] < pivot:
            low += 1
        high -= 1
        while pivot < places[rows[high]]:
            high -= 1
        if low >= high:
            return low
        swap(low, high)
        low += 1


def _partition(rows: list[int], places: Sequence[int]) -> None:
    """What `sort` does before its last step, an insertion sort."""
    open_ = [(0, len(rows))]
    while open_:
        first, last = open_.pop()
        while last - first > _SMALL:
            cut = _cut(rows, places, first, last)
            open_.append((cut, last))
            last = cut


def _select(rows: list[int], places: Sequence[int], wanted: int) -> None:
    """`nth_element`: the rows before that place are those that belong there."""
    first, last = 0, len(rows)
    while last - first > 3:
        cut = _cut(rows, places, first, last)
        if cut <= wanted:
            first = cut
        else:
            last = cut
    rows[first:last] = sorted(rows[first:last], key=places.__getitem__)
