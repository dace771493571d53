"""What the kernels' arguments have to be: types, strides, and that no address lies outside. Tests look, runs do not.

Each function has a kernel's arguments and raises ValueError. Whoever adds a kernel adds its check here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ipr.engine.reference import PART, TILE


def score(scores: Any, query: Any, keys: Any, parts: Any, members: Any, firsts: Any, seen: Any) -> None:
    _floats(scores=scores, query=query, keys=keys)
    n, heads, width = query.shape
    pool, groups, tiles, key_width, tile = keys.shape
    _say(tile == TILE and key_width == width, f"keys {keys.shape} are not in tiles of width {width}")
    _say(keys.strides[3] == TILE * 4, "a tile of keys does not lie together")
    _say(scores.shape[:2] == (n, heads) and scores.shape[2] % TILE == 0, f"scores {scores.shape} for {n} tokens")
    _say(heads % groups == 0, f"{heads} heads in {groups} groups")
    _parts(parts, members, firsts, n, pool, min(tiles * TILE, scores.shape[2]))
    _ids(seen=seen)
    _say(len(seen) == len(firsts) - 1, f"seen {seen.shape}")
    _within("seen", seen, 1, scores.shape[2] + 1)


def mix(out: Any, weights: Any, values: Any, parts: Any, members: Any, firsts: Any) -> None:
    _floats(out=out, weights=weights, values=values)
    n, heads, width = out.shape
    pool, groups, capacity, value_width = values.shape
    _say(value_width == width, f"values {values.shape} for an output of width {width}")
    _say(weights.shape[:2] == (n, heads), f"weights {weights.shape} for {n} tokens")
    _say(heads % groups == 0, f"{heads} heads in {groups} groups")
    _parts(parts, members, firsts, n, pool, min(capacity, weights.shape[2]))


def store(keys: Any, states: Any, slots: Any, places: Any) -> None:
    _floats(keys=keys, states=states)
    _ids(slots=slots, places=places)
    pool, groups, tiles, width, tile = keys.shape
    _say(tile == TILE and states.shape == (groups, len(slots), width), f"states {states.shape}, keys {keys.shape}")
    _say(len(places) == len(slots), f"{len(places)} places for {len(slots)} slots")
    _within("slots", slots, 0, pool)
    _within("places", places, 0, tiles * TILE)


def extend(sequences: Any, slot: int, tokens: Any) -> None:
    _sequences(sequences, np.array([slot]))
    _ids(tokens=tokens)
    _say(sequences.known[slot] + len(tokens) <= sequences.ids.shape[1], f"{len(tokens)} tokens more in slot {slot}")


def stream(seeds: Any, index: Any) -> None:
    _say(seeds.dtype == np.uint64 and seeds.ndim == 1, f"seeds are {seeds.dtype} {seeds.shape}")
    _ids(index=index)
    _say(index.shape == seeds.shape, f"index {index.shape} for {len(seeds)} seeds")


def counted(sequences: Any, slots: Any, counts: Any) -> None:
    _sequences(sequences, slots)
    _ids(counts=counts)
    _say(counts.shape == slots.shape, f"{counts.shape} counts for {slots.shape} slots")
    _within("counts", counts, 0, sequences.ids.shape[1] + 1)


def accept(sequences: Any, slots: Any, drafts: Any, drawn: Any, ends: Any) -> None:
    _drafted(sequences, slots, drafts, drawn)
    _ids(ends=ends)


def distinct(sequences: Any, slots: Any) -> None:
    _sequences(sequences, slots)


def follow(sequences: Any, slots: Any, histories: Any, sampled: bool, ends: Any) -> None:
    _sequences(sequences, slots)
    _histories(histories, sequences)
    _ids(ends=ends)
    _within("known tokens", sequences.known[slots], 0, sequences.limits[slots].clip(max=sequences.ids.shape[1]))


def remember(sequences: Any, slots: Any, histories: Any, drafts: Any, drawn: Any, cumulative: Any) -> None:
    _drafted(sequences, slots, drafts, drawn)
    _histories(histories, sequences)
    _say(cumulative.dtype == np.float64 and cumulative.ndim == 2, f"cumulative {cumulative.dtype} {cumulative.shape}")
    _say(len(cumulative) == len(drawn), f"{len(cumulative)} distributions for {len(drawn)} tokens")


def learn(ngrams: Any, sequences: Any, slot: int, start: int) -> None:
    _sequences(sequences, np.array([slot]))
    _ngrams(ngrams)
    _say(0 <= start <= sequences.known[slot], f"start {start}")


def draft(ngrams: Any, sequences: Any, slots: Any, enough: float) -> None:
    _sequences(sequences, slots)
    _ngrams(ngrams)
    _within("known tokens", sequences.known[slots], 0, sequences.limits[slots].clip(max=sequences.ids.shape[1]))


def judge(ngrams: Any, sequences: Any, slots: Any, taken: Any, likely: Any, kinds: Any) -> None:
    _sequences(sequences, slots)
    _ngrams(ngrams)
    _ids(taken=taken)
    _say(taken.shape == slots.shape and (taken <= sequences.known[slots]).all(), "more was taken than is known")
    _say(likely.shape == kinds.shape and len(likely) <= len(slots), f"likely {likely.shape}, kinds {kinds.shape}")
    _within("taken", taken[: len(likely)], 0, likely.shape[1] + 1)
    _within("kinds", kinds, 0, len(ngrams.right))


# What several have in common -----------------------------------------------------------------------------------------


def _parts(parts: Any, members: Any, firsts: Any, n: int, pool: int, tokens: int) -> None:
    """Of n tokens in `pool` slots, each of which has room for `tokens`."""
    _say(parts.dtype == PART and parts.ndim == 1, f"parts are {parts.dtype}")
    _ids(members=members, firsts=firsts)
    _say(sorted(members) == list(range(len(firsts) - 1)), "members are not each sequence once")
    _say(firsts[0] == 0 and firsts[-1] == n and (np.diff(firsts) > 0).all(), f"firsts {firsts} of {n} tokens")
    _within("slots", parts["slot"], 0, pool)
    _within("starts", parts["start"], 0, parts["end"] + 1)
    _within("ends", parts["end"], 0, tokens + 1)
    _within("first members", parts["first"], 0, parts["last"] + 1)
    _within("last members", parts["last"], 0, len(members) + 1)


def _drafted(sequences: Any, slots: Any, drafts: Any, drawn: Any) -> None:
    _sequences(sequences, slots)
    _ids(drafts=drafts, drawn=drawn)
    _say(drafts.shape == slots.shape, f"{drafts.shape} drafts for {slots.shape} slots")
    _within("drafts", drafts, 0, sequences.limits[slots] - sequences.known[slots])
    _say(len(drawn) == drafts.sum() + len(slots), f"{len(drawn)} tokens were drawn for {drafts} drafts")


def _sequences(sequences: Any, slots: Any) -> None:
    """That these slots may be read, and written as far as their limits."""
    _ids(ids=sequences.ids, cached=sequences.cached, known=sequences.known, prompts=sequences.prompts)
    _ids(limits=sequences.limits, slots=slots)
    count, most = sequences.ids.shape
    for name, shape in (("hashes", (count, most + 1)), ("powers", (most,)), ("seeds", (count,))):
        found = getattr(sequences, name)
        _say(found.dtype == np.uint64 and found.shape == shape, f"{name} are {found.dtype} {found.shape}")
    _within("slots", slots, 0, count)
    _say(len(set(slots.tolist())) == len(slots), "a slot is named twice")
    _within("limits", sequences.limits[slots], 0, most + 1)
    _within("known tokens", sequences.known[slots], 0, most + 1)
    _within("cached tokens", sequences.cached[slots], 0, sequences.known[slots] + 1)


def _histories(histories: Any, sequences: Any) -> None:
    _say(histories.hashes.dtype == np.uint64, f"hashes are {histories.hashes.dtype}")
    _ids(slots=histories.slots, tokens=histories.tokens, leaders=histories.leaders)
    shape = histories.tokens.shape
    _say(histories.low.shape == shape == histories.high.shape, f"pieces {histories.low.shape} of {shape}")
    _say(len(histories.leaders) == len(sequences.ids), f"{len(histories.leaders)} leaders")


def _ngrams(ngrams: Any) -> None:
    _ids(next=ngrams.next, confirmed=ngrams.confirmed)
    _say(ngrams.next.shape == ngrams.confirmed.shape and ngrams.right.dtype == np.float64, "n-grams of other shapes")


def _floats(**arrays: Any) -> None:
    for name, array in arrays.items():
        _say(array.dtype == np.float32, f"{name} are {array.dtype}, not float32")
        _say(array.shape[-1] <= 1 or array.strides[-1] == 4, f"{name}: numbers do not lie together {array.strides}")


def _ids(**arrays: Any) -> None:
    for name, array in arrays.items():
        _say(array.dtype == np.int64, f"{name} are {array.dtype}, not int64")


def _within(name: str, array: Any, low: Any, high: Any) -> None:
    _say(bool(((array >= low) & (array < high)).all()), f"{name} {array} are not in [{low}, {high})")


def _say(fine: bool, text: str) -> None:
    if not fine:
        raise ValueError(text)
