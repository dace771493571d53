"""Compiled kernels against plain torch, cascade attention against attention, and what arguments are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ipr.engine import cascade, checks, kernels, reference
from ipr.engine.merging import Histories, distinct, remember
from ipr.engine.ngrams import Ngrams, draft
from ipr.engine.reference import PART, TILE
from ipr.engine.slots import Sequences, accept


@pytest.fixture(params=["vectors", "reference"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Which form of the kernels is taken."""
    if request.param == "reference":
        monkeypatch.setattr(kernels, "vectorised", lambda: False)
    elif not kernels.vectorised():
        pytest.skip("no numba, or no AVX")
    kernels.attention.cache_clear()
    yield request.param
    kernels.attention.cache_clear()


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("worth", [9, 12, 1000])
def test_cascade_attention_is_attention(form: str, monkeypatch: pytest.MonkeyPatch, width: int, worth: int) -> None:
    monkeypatch.setattr(cascade, "WORTH_A_BRANCH", worth)
    chance = torch.Generator().manual_seed(0)
    pool = (torch.randn(8, 2, 64, 8, generator=chance), torch.randn(8, 2, 64, 8, generator=chance))
    ids = np.random.default_rng(0).integers(9, size=(8, 64))
    # All begin alike; 1, 4 and 7 go on alike, and of them 4 and 7 further still.
    for slot, donor, shared in ((1, 0, 12), (2, 0, 12), (4, 1, 22), (7, 4, 31), (4, 1, 22), (5, 0, 12)):
        for side in pool:
            side[slot, :, :shared] = side[donor, :, :shared]
        ids[slot, :shared] = ids[donor, :shared]
    slots, lengths = np.array([0, 1, 2, 4, 5, 7]), np.array([33, 50, 12, 32, 45, 40])
    tree = cascade.PrefixTree(ids, slots, lengths)
    branches = {9: {(6, 0, 12), (3, 12, 22), (2, 22, 31)}, 12: {(6, 0, 12), (2, 12, 31)}, 1000: set()}
    assert {(part["last"] - part["first"], part["start"], part["end"]) for part in tree.branches} == branches[worth]
    for going in ([0, 1, 2, 3, 4, 5], [1, 3, 4]):  # some are done after the first pass
        positions = lengths[going][:, None] + np.arange(width)
        for side in pool:
            new = torch.randn(2, positions.size, 8)
            side[np.repeat(slots[going], width), :, positions.ravel()] = new.transpose(0, 1)
        query = torch.randn(positions.size, 6, 8)
        tiles = pool[0].unflatten(2, (-1, TILE)).transpose(-1, -2).contiguous()
        counts = np.full(len(going), width)
        found = tree.cascade(slots[going], lengths[going], counts).attend(query, tiles, pool[1])
        where = zip(np.repeat(slots[going], width), positions.ravel(), strict=True)
        for q, (slot, position), out in zip(query, where, found, strict=True):
            keys, values = (side[slot, :, : position + 1].repeat_interleave(3, 0) for side in pool)
            weights = torch.softmax(keys @ q[..., None], 1)
            assert torch.allclose(out, (weights * values).sum(1), atol=1e-5)
        lengths[going] += width


SIZES = [(2, 2, 8, 8), (6, 2, 24, 20), (4, 1, 5, 3)]
"""Query heads, key-value heads, width of keys, of values."""


def arguments(heads: int, groups: int, width: int, value_width: int) -> dict[str, Any]:
    """What three sequences in slots 5, 1 and 3 ask: 2, 1 and 4 tokens; the first two share a branch."""
    chance = np.random.default_rng(0)

    def real(*shape: int) -> Any:
        return chance.normal(size=shape).astype(np.float32)

    parts = np.array([(5, 0, 20, 0, 2), (5, 20, 35, 0, 1), (1, 20, 31, 1, 2), (3, 0, 7, 2, 3)], dtype=PART)
    return {
        "scores": real(7, heads, 48),
        "query": real(7, heads, width),
        "keys": real(6, groups, 4, width, TILE),
        "parts": parts,
        "members": np.array([0, 1, 2]),
        "firsts": np.array([0, 2, 3, 7]),
        "seen": np.array([34, 31, 4]),
        "out": real(7, heads, value_width),
        "weights": real(7, heads, 48),
        "values": real(6, groups, 64, value_width),
        "states": real(groups, 3, width),
        "slots": np.array([0, 5, 5]),
        "places": np.array([63, 0, 17]),
    }


SCORE = ("scores", "query", "keys", "parts", "members", "firsts", "seen")
MIX = ("out", "weights", "values", "parts", "members", "firsts")
STORE = ("keys", "states", "slots", "places")


@pytest.mark.skipif(not kernels.vectorised(), reason="no numba, or no AVX")
@pytest.mark.parametrize(("sizes", "threads"), [(SIZES[0], False), (SIZES[1], True), (SIZES[2], False)])
def test_compiled_kernels_are_the_reference(sizes: tuple[int, int, int, int], threads: bool) -> None:
    from ipr.engine import vectors

    compiled = (kernels.compiled(one, parallel=threads) for one in vectors.attention(sizes[2], sizes[3], threads))
    both = zip(compiled, (reference.score, reference.mix), (SCORE, MIX), strict=True)
    for kernel, plain, names in [*both, (kernels.compiled(vectors.store), reference.store, STORE)]:
        ours, expected = arguments(*sizes), arguments(*sizes)
        kernel(*(ours[name] for name in names))
        plain(*(expected[name] for name in names))
        np.testing.assert_allclose(ours[names[0]], expected[names[0]], rtol=1e-4, atol=1e-4)
        assert not np.array_equal(ours[names[0]], arguments(*sizes)[names[0]], equal_nan=True)


@pytest.mark.parametrize(
    ("kernel", "name", "make", "said"),
    [
        ("score", "query", lambda a: a.astype(np.float64), "query are float64"),
        ("score", "query", lambda a: a[:, :, ::-1], "do not lie together"),
        ("score", "keys", lambda a: np.ascontiguousarray(a.swapaxes(3, 4)).swapaxes(3, 4), "do not lie together"),
        ("score", "keys", lambda a: a[..., :8], "not in tiles"),
        ("score", "keys", lambda a: a[:5], "slots .* not in"),
        ("score", "keys", lambda a: a[:, :, :2], "ends .* not in"),
        ("score", "scores", lambda a: a[:6], "scores"),
        ("score", "scores", lambda a: a[..., :40], "scores"),
        ("score", "parts", lambda a: a.view(np.int64).reshape(-1, 5), "parts are int64"),
        ("score", "members", lambda a: a[:2], "members are not each sequence once"),
        ("score", "firsts", lambda a: a + 1, "firsts"),
        ("score", "seen", lambda a: a.astype(np.int32), "seen are int32"),
        ("score", "seen", lambda a: a + 99, "seen .* not in"),
        ("mix", "out", lambda a: a[..., :7], "width 7"),
        ("mix", "values", lambda a: a[:, :, :30], "ends .* not in"),
        ("mix", "values", lambda a: a.repeat(3, 1), "groups"),
        ("mix", "weights", lambda a: a[..., :32], "ends .* not in"),
        ("store", "states", lambda a: a[:, :2], "states"),
        ("store", "places", lambda a: a + 1, "places .* not in"),
        ("store", "slots", lambda a: a + 1, "slots .* not in"),
    ],
)
def test_arguments_that_would_leave_the_arrays_are_refused(kernel: str, name: str, make: Any, said: str) -> None:
    """Each of the three kernels' checks takes the good arguments, and not these."""
    names = {"score": SCORE, "mix": MIX, "store": STORE}[kernel]
    given = arguments(2, 2, 8, 8)
    getattr(checks, kernel)(*(given[n] for n in names))
    given[name] = make(given[name])
    with pytest.raises(ValueError, match=said):
        getattr(checks, kernel)(*(given[n] for n in names))


def test_loops_over_slots_are_checked_too() -> None:
    sequences, ends = Sequences.empty(3, 9), np.array([4])
    for slot in range(3):
        sequences.begin(slot, np.arange(5), cached=0, seed=0, limit=8)
    two, none = np.array([0, 1]), np.zeros(2, dtype=np.int64)
    for bad, said in (
        (lambda: distinct(sequences, np.array([0, 3])), "slots .* not in"),
        (lambda: distinct(sequences, np.array([1, 1])), "named twice"),
        (lambda: accept(sequences, two, none + 3, np.arange(8), ends), "drafts .* not in"),
        (lambda: accept(sequences, two, none, np.arange(3), ends), "3 tokens were drawn"),
        (lambda: accept(sequences, two, none, np.arange(2), ends.astype(np.int32)), "ends are int32"),
        (lambda: remember(sequences, two, Histories.empty(2), none, np.arange(2), np.ones((2, 5))), "leaders"),
        (lambda: remember(sequences, two, Histories.empty(3), none, np.arange(2), np.ones((1, 5))), "1 distributions"),
        (lambda: sequences.begin(0, np.arange(10), cached=0, seed=0, limit=8), "10 tokens more"),
    ):
        with pytest.raises(ValueError, match=said):
            bad()
    sequences.known[0] = 8
    with pytest.raises(ValueError, match="known tokens"):
        draft(Ngrams.empty(), sequences, two, 0.5)


WITHOUT = """
import sys
sys.modules["numba"] = None
import torch
torch.set_num_threads(1)
from ipr.engine import generate, kernels
from tests import toy
from tests.engine.asking import make, requests
assert not kernels.vectorised()
for temperature in (0.0, 1.0):
    print([answer.ids for answer in generate(make(toy.model()), requests(2, 6), temperature)])
"""


def test_without_numba_the_same_tokens_are_written() -> None:
    from ipr.engine import generate
    from tests.engine.asking import make, requests

    root = Path(__file__).parents[2]
    paths = {"PYTHONPATH": f"{root / 'src'}:{root}"}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=os.environ | paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [[a.ids for a in generate(make(), requests(2, 6), temperature)] for temperature in (0.0, 1.0)]
    assert done.stdout.splitlines() == [str(ids) for ids in expected]
