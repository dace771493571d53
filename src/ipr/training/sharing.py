"""Rows that begin alike as one sequence: what they have in common is run once, and nothing is padding.

Decided here: the rows of a pass, in the order of their ids, form a tree (instruction, first observation, history, then
chosen and rejected). Its tokens are packed branch after branch into one sequence; positions and attention, which is
ours and plugged into transformers, know that a token sees only the path to it. As a causal model's state at a token
depends on that path alone, log-probabilities and gradients are those of the rows run one by one (up to rounding; with
dropout, rows draw one mask for what they share).
Whether a model can be run this way is found by doing it once (`shares`), not by its name; others get padded rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ipr.models.folders import longest
from ipr.models.plug import own_config, pluggable, plugged_in, register, scaled, short_windows
from ipr.models.processes import forget_pass, place


def common(a: Tensor, b: Tensor) -> int:
    """How many first ids two rows share."""
    n = min(len(a), len(b))
    different = (a[:n] != b[:n]).nonzero()
    return int(different[0]) if len(different) else n


class Tree:
    """Rows [T_i] of ids, packed into N tokens."""

    def __init__(self, rows: Sequence[Tensor], device: torch.device | str = "cpu"):
        paths: list[list[tuple[int, int]]] = [[] for _ in rows]
        """Of every row: the ranges of the packed sequence that it is put together from."""
        self._branches: list[int] = []
        """The rows that add tokens, in the order in which these are packed."""
        ids, positions, size, before = [], [], 0, None
        for i in sorted(range(len(rows)), key=lambda i: rows[i].tolist()):
            row, shared = rows[i], 0
            if before is not None:
                # In this order no earlier row has more in common with it than the one before.
                shared = common(rows[before], row)
                paths[i] = _first(paths[before], shared)
            if shared < len(row):
                paths[i].append((size, size + len(row) - shared))
                self._branches.append(i)
                ids.append(row[shared:])
                positions.append(torch.arange(shared, len(row)))
                size += len(row) - shared
            before = i
        self.ids = torch.cat(ids).to(device)
        """[N]"""
        self.positions = torch.cat(positions).to(device)
        """[N]"""
        self.places = [torch.cat([torch.arange(a, b) for a, b in path]) for path in paths]
        """Of every row: where its tokens are in the packed sequence [T_i]."""
        cuts = sorted({0, size, *(b for path in paths for _, b in path)})
        self._pieces = [b - a for a, b in pairwise(cuts)]
        at = {cut: k for k, cut in enumerate(cuts)}
        self._paths = [[k for a, b in paths[i] for k in range(at[a], at[b])] for i in self._branches]
        self._own = [paths[i][-1][1] - paths[i][-1][0] for i in self._branches]
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None, dropout: float
    ) -> Tensor:
        """query, key, value [1, heads, N, width] -> [1, heads, N, width]; `window`: most tokens that a token sees."""
        keys, values = key.split(self._pieces, 2), value.split(self._pieces, 2)
        found = []
        # Split and cat, because their gradients are the same again; those of slices are as large as the whole.
        for asked, path in zip(query.split(self._own, 2), self._paths, strict=True):
            seen, held = torch.cat([keys[k] for k in path], 2), torch.cat([values[k] for k in path], 2)
            n, length = asked.shape[2], seen.shape[2]
            whole = n == length and (window is None or window >= length)
            groups = asked.shape[1] // seen.shape[1]
            if groups > 1 and asked.device.type == "cuda" and not _grouped(asked, whole):
                seen, held, groups = seen.repeat_interleave(groups, 1), held.repeat_interleave(groups, 1), 1
            found.append(
                F.scaled_dot_product_attention(
                    asked,
                    seen,
                    held,
                    attn_mask=None if whole else self._mask(n, length, window, asked),
                    is_causal=whole,
                    dropout_p=dropout,
                    scale=scale,
                    enable_gqa=groups > 1,
                )
            )
        return torch.cat(found, 2)

    def _mask(self, n: int, length: int, window: int | None, like: Tensor) -> Tensor:
        """[n, length], added to the scores of the last n tokens of a path."""
        if (n, length, window) not in self._masks:
            seen = torch.ones(n, length, dtype=torch.bool, device=like.device).tril(length - n)
            if window is not None:
                seen = seen.triu(length - n - window + 1)
            mask = torch.zeros(n, length, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)
            self._masks[n, length, window] = mask
        return self._masks[n, length, window]


def _grouped(query: Tensor, whole: bool) -> bool:
    """Whether a CUDA kernel that keeps no scores takes fewer heads of keys than of queries.

    Flash attention is the only one, and takes no mask, no float32 and no wide heads; without one, torch keeps scores
    [heads, n, length] in float32, several times (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, torch 2.13).
    """
    return whole and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] <= 256


def _first(path: list[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """The first n tokens of a path."""
    found = []
    for a, b in path:
        if n <= 0:
            break
        found.append((a, min(b, a + n)))
        n -= b - a
    return found


@contextmanager
def shared_rows(model: Any, most: int, share: bool | None = None) -> Iterator[bool]:
    """Within it, where it gives true, `run` is how the model is called, and its gradients are taken.

    `most`: the tokens of the longest row that may come; `share`: whether the model `shares`, where that is known.
    (A model that recomputes its activations attends in the backward pass as well.)
    """
    share = not scaled(own_config(model), most) and (shares(model) if share is None else share)
    with plugged_in(own_config(model), "ipr_tree") if share else nullcontext():
        yield share


def run(model: Any, tree: Tree) -> Any:
    """The model's output for the packed tokens [1, N]."""
    return model(input_ids=tree.ids[None], position_ids=tree.positions[None], use_cache=False, ipr_tree=tree)


@torch.no_grad()
def shares(model: Any) -> bool:
    """Whether `run` gives what the model gives for the rows one by one: tried on a few tokens.

    False where attention cannot be plugged in or is more than scores and a window, or a state goes from token to token.
    """
    if not pluggable(model):
        return False
    config = own_config(model)
    training = model.training
    model.eval()
    try:
        rows = [torch.tensor(row) % config.get_text_config().vocab_size for row in _TRIAL]
        device = place(model)
        tree = Tree(rows, device)
        with short_windows(model, longest(config)):
            with plugged_in(config, "ipr_tree"):
                packed = run(model, tree).logits[0]
            for row, where in zip(rows, tree.places, strict=True):
                alone = model(input_ids=row[None].to(device), use_cache=False).logits[0]
                near = torch.finfo(alone.dtype).eps ** 0.5 / 2 * alone.abs().max()
                if not (packed[where.to(device)] - alone).abs().max() <= near:
                    return False
        return True
    except Exception:  # of a model that calls attention in its own way, whatever it is: its rows are padded
        forget_pass(model)
        return False
    finally:
        model.train(training)


_TRIAL = ([5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 7, 8, 12, 9], [5, 6, 13, 9, 10, 5, 6])


def _attend(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    window: int | None,
    dropout: float,
    *,
    ipr_tree: Tree,
    **_: Any,
) -> Tensor:
    """See `plug.register`."""
    return ipr_tree.attend(query, key, value, scale, window, dropout).transpose(1, 2).contiguous()


register("ipr_tree", _attend)
