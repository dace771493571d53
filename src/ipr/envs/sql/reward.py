"""InterCode's reward: how near a result is to the gold result, in rows and in their order.

Rows are compared as text, `str(tuple)`: column order, int against float, case and blanks matter. IoU is taken over
multisets of rows; the order of the rows that both have is compared by Kendall's tau-b over the rows' text, answer order
against gold order. The reward is round(tau * IoU, 2), or IoU itself where tau is undefined (one row, or all equal), and
so can be negative. Decided here: tau in O(n log n), because an agent may fetch 10,000 rows; no numpy is needed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

Rows = Sequence[tuple[Any, ...]]


def reward(answer: Rows | None, gold: Rows) -> float:
    """InterCode's reward of an answer; None is an answer that is no result set (an error, or nothing was run)."""
    if answer is None:
        return 0.0
    ours, theirs = [str(tuple(row)) for row in answer], [str(tuple(row)) for row in gold]
    if not ours and not theirs:
        return 1.0
    a, b = Counter(ours), Counter(theirs)
    both = a & b
    if not both:
        return 0.0
    iou = both.total() / (a | b).total()
    tau = kendall_tau_b(_only(ours, both), _only(theirs, both))
    return iou if math.isnan(tau) else round(tau * iou * 100) / 100  # half to even after scaling, as numpy rounds


def _only(rows: Sequence[str], wanted: Counter[str]) -> list[str]:
    """The rows that are wanted, in their order, each as often as it is wanted."""
    left, kept = Counter(wanted), []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
            kept.append(row)
    return kept


def kendall_tau_b(x: Sequence[Any], y: Sequence[Any]) -> float:
    """Kendall's tau-b by Knight's method; NaN where it is undefined."""
    if len(x) != len(y):
        raise ValueError(f"tau of {len(x)} against {len(y)} values")
    pairs = sorted(zip(x, y, strict=True))
    total = _pairs(len(pairs))
    tied_x, tied_y, tied_both = _tied(x), _tied(y), _tied(pairs)
    if total in (tied_x, tied_y):
        return math.nan
    discordant = _inversions([v for _, v in pairs])
    concordant_less_discordant = total - tied_x - tied_y + tied_both - 2 * discordant
    tau = concordant_less_discordant / math.sqrt(total - tied_x) / math.sqrt(total - tied_y)
    return min(1.0, max(-1.0, tau))


def _pairs(n: int) -> int:
    return n * (n - 1) // 2


def _tied(values: Sequence[Hashable]) -> int:
    return sum(_pairs(n) for n in Counter(values).values())


def _inversions(values: list[Any]) -> int:
    """How many pairs stand in falling order: counted while merging."""
    count, width, n = 0, 1, len(values)
    while width < n:
        merged: list[Any] = []
        for start in range(0, n, 2 * width):
            left, right = values[start : start + width], values[start + width : start + 2 * width]
            i = j = 0
            while i < len(left) and j < len(right):
                if right[j] < left[i]:
                    count += len(left) - i
                    merged.append(right[j])
                    j += 1
                else:
                    merged.append(left[i])
                    i += 1
            merged += left[i:] + right[j:]
        values, width = merged, 2 * width
    return count
