"""InterCode's reward: every recorded official result; tau-b against scipy."""

from __future__ import annotations

import datetime
import json
import math
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ipr.envs.sql.reward import kendall_tau_b, reward

CASES = Path(__file__).parents[2] / "../shared/fixtures/intercode_reward_cases.json"
TYPES = {
    "$decimal": Decimal,
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$bytes": lambda text: text.encode("latin-1"),
}


def cell(value: Any) -> Any:
    if isinstance(value, dict):
        ((name, text),) = value.items()
        return TYPES[name](text)
    return value


def rows(value: Any) -> list[tuple[Any, ...]] | None:
    return [tuple(cell(c) for c in row) for row in value] if isinstance(value, list) else None


def test_every_official_case() -> None:
    if not CASES.is_file():
        pytest.skip("no reward cases in ../shared")
    cases = json.loads(CASES.read_text())["cases"]
    assert len(cases) == 170
    wrong = []
    for case in cases:
        answer, gold = rows(case["pred"]), rows(case["gold"])
        assert gold is not None
        if answer is not None:
            assert [str(row) for row in answer] == case["pred_str"]
        if reward(answer, gold) != case["reward"]:
            wrong.append((case["id"], reward(answer, gold), case["reward"]))
    assert wrong == []


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        (None, [], 0.0),
        ([], [], 1.0),
        ([], [(1,)], 0.0),
        ([(1,)], [(1,)], 1.0),
        ([(1,)], [(1.0,)], 0.0),
        ([("a",), ("b",)], [("b",), ("a",)], -1.0),
        ([("a",)], [("a",), ("b",), ("c",)], 1 / 3),
        ([("a",), ("b",)], [("a",), ("b",), ("c",)], 0.67),
        ([(1,), (1,)], [(1,)], 0.5),
        ([("a",), ("b",), ("a",)], [("a",), ("a",), ("b",)], -0.5),
    ],
)
def test_rules(answer: Any, gold: Any, expected: float) -> None:
    assert reward(answer, gold) == expected


def test_tau_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(1)
    for _ in range(300):
        n, kinds = rng.randint(2, 30), rng.randint(1, 12)
        x = [rng.randrange(kinds) for _ in range(n)]
        y = rng.sample(x, n) if rng.random() < 0.5 else [rng.randrange(kinds) for _ in range(n)]
        ours, theirs = kendall_tau_b(x, y), float(stats.kendalltau(x, y).statistic)
        assert (math.isnan(ours) and math.isnan(theirs)) or ours == pytest.approx(theirs, abs=1e-12)


def test_large_results_are_quick() -> None:
    answer = [(k, "x" * 10) for k in range(10_000, 20_000)]
    assert reward(answer, answer[::-1]) == -1.0
    with pytest.raises(ValueError, match="2 against 1"):
        kendall_tau_b([1, 2], [1])
