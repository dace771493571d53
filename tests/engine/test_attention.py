"""Attention over the slots without a prefix tree: pieces of several slots computed together, as on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ipr.engine.attention import Layout

SLOTS, STARTS, COUNTS = np.array([2, 3, 0, 5, 1]), np.array([7, 20, 4, 0, 11]), np.array([1, 1, 1, 6, 4])
"""Three slots that decode a token, and two pieces of prompts; the neighbours 2 and 3 lie together."""


@pytest.mark.parametrize("block", [1, 5])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("tile", [1, 8])
def test_pieces_attend_to_their_own_slot_up_to_themselves(block: int, window: int | None, tile: int) -> None:
    chance = torch.Generator().manual_seed(0)
    keys, values = torch.randn(6, 2, 32, 8, generator=chance), torch.randn(6, 2, 32, 4, generator=chance)
    query = torch.randn(int(COUNTS.sum()), 6, 8, generator=chance)
    layout = Layout(SLOTS, STARTS, COUNTS, decoding=3, device=torch.device("cpu"))
    layout.block = block
    assert (layout.decoded, layout.small) == (3, False)
    found = layout.attend(query, keys.unflatten(2, (-1, tile)).transpose(-1, -2), values, window)
    where = [(s, p) for s, a, n in zip(SLOTS, STARTS, COUNTS, strict=True) for p in range(a, a + n)]
    assert [*zip(layout.slots, layout.places, strict=True)] == where
    for q, out, (slot, place) in zip(query, found, where, strict=True):
        first = 0 if window is None else max(0, place + 1 - window)
        k, v = (side[slot, :, first : place + 1].repeat_interleave(3, 0) for side in (keys, values))
        weights = torch.softmax(k @ q[..., None], 1)
        assert torch.allclose(out, (weights * v).sum(1), atol=1e-5)
