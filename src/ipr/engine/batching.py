"""Continuous batching of a transformers model over slots: our own engine. README.md beside this file shows a pass.

Decided here: a session's key-values stay in its slot between its turns, so a turn feeds only what the slot does not
have yet, and a fork costs a copy: an empty slot takes over the longest beginning that any has, and what several new
prompts begin with is read once. Nobody waits for anybody: each pass feeds the next token of every slot that decodes
and the new tokens of those whose turn has come. A sample depends on (prompt, seed) and not on its neighbours. What
spares a CPU work is all in `accelerate`.

Memory is bounded by slots * max_length tokens; on a GPU to as many slots as fit. Of more sessions than slots the one
that was idle longest loses its slot and is read again when it comes back. Left out: models whose attention cannot be
plugged in, or that carry a state which is no key-value (they are refused; `own_cache` plays them); beams, top-k and
top-p (no stage uses them).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipr.engine import Answers, Generated, Request, kv, sampling
from ipr.engine.accelerate import NEAR, Accelerator, NoAccelerator
from ipr.engine.attention import SEGMENT_TOKENS, Layout
from ipr.engine.cascade import PrefixTree
from ipr.engine.slots import Ids, Sequences, Slots, common_length
from ipr.models import plug
from ipr.profiling import timed
from ipr.types import IprError

SCORES = 1 << 24
"""Attention weights (float32) of a layer that may be in memory at once, about."""
PASS_TOKENS = 2048
"""Most tokens in one forward pass."""
PIECE_TOKENS = SEGMENT_TOKENS
"""Most tokens of one prompt that are fed in a pass."""
_WORTH_SHARING = 32
"""Tokens that new prompts must have in common to be read for all of them first."""
_PASSES_BETWEEN = 8
"""Passes that new prompts wait while others decode: to begin some changes what all share, which takes a while."""
_ONEDNN_FROM = 32
"""Tokens of a pass from which oneDNN's matrix products are faster than MKL's (see `plug.fast_products`)."""
_NONE: Ids = np.zeros(0, dtype=np.int64)


class TransformersEngine:
    """An `Engine` of a causal language model of transformers, which peft may wrap; at most `slots` sequences at once.

    The model is moved to `device` where one is given. Key-values are kept in `kv_dtype`, or in the model's own type.
    `accelerate`=False leaves out what a CPU is spared. On a GPU there are as many slots as fit into its memory. Raises
    IprError for a model that cannot be played this way, and where not one slot fits.
    """

    def __init__(
        self,
        model: Any,
        ends: Sequence[int],
        *,
        max_length: int,
        slots: int,
        device: Any = None,
        kv_dtype: torch.dtype | None = None,
        accelerate: bool = True,
    ):
        self.model = (model if device is None else model.to(device)).eval()
        self.device: torch.device = next(model.parameters()).device
        self._config = plug.own_config(model)
        if not plug.pluggable(model):
            raise IprError(
                f"models of type {self._config.model_type} cannot be played with kept key-values; take a decoder such"
                " as Llama, Qwen or Mistral"
            )
        if (room := kv.free(self.device)) is not None:
            slots = kv.fitting(slots, room, max_length, self.model, kv_dtype or model.dtype)
        self.ends, self.max_length, self.slots = list(ends), max_length, slots
        self._sequences = Sequences.empty(slots, max_length)
        self._owners = Slots(self._sequences)
        stop = np.array(sorted(ends), dtype=np.int64)
        self._accelerator = NoAccelerator(self._sequences, stop)
        if accelerate and self.device.type == "cpu":
            cascade = (kv_dtype or model.dtype) == model.dtype == torch.float32
            self._accelerator = Accelerator(self._sequences, stop, cascade=cascade)
        self._pool = kv.Pool(slots, max_length, kv_dtype, self.device, self._accelerator.tile)
        heads = getattr(self._config, "num_attention_heads", 32)
        self._most_decoded = min(PASS_TOKENS, max(slots + NEAR, SCORES // (heads * max_length)))
        """Tokens of slots that decode in one forward pass, drafts not counted."""

    def close_session(self, session: Any) -> None:
        self._owners.close(session)

    def stream(self, waiting: deque[Request], temperature: float) -> Answers:
        """See `Engine.stream`; there is room while there are slots."""
        if self._owners.idle:  # so answers do not even round otherwise for what was played before
            self._accelerator.forget()
            self._owners.forget()
        self._accelerator.start()
        active: dict[int, Request] = {}
        """By slot."""
        fresh: list[int] = []
        """Slots of which nothing is in the cache yet."""
        passes = 0
        """Since prompts were begun."""
        try:
            while waiting or active:
                while waiting and len(active) < self.slots:
                    request = waiting.popleft()
                    if not request.max_new_tokens:
                        yield request, Generated((), "length")
                        continue
                    slot = self._owners.take(request.session, active)
                    active[slot] = request
                    if not self._admit(slot, request):
                        fresh.append(slot)
                if not active:
                    break
                with timed("model"):
                    if fresh and (passes >= _PASSES_BETWEEN or len(fresh) == len(active)):
                        self.prefill(fresh)
                        fresh, passes = [], 0
                    ended = self.step(np.array(sorted(active.keys() - set(fresh))), temperature)
                    passes += 1
                for slot in ended:
                    request = active.pop(slot)
                    ids = tuple(self._sequences.written(slot).tolist())
                    if request.session is None or request.last:
                        self._owners.free([slot])
                    yield request, Generated(ids, "stop" if ids[-1] in self.ends else "length")
        finally:
            self._owners.free(active)  # what is half done must not be built upon

    def _admit(self, slot: int, request: Request) -> int:
        """The request's turn begins in this slot; how many tokens of its prompt are in the cache."""
        prompt, limit = np.array(request.prompt, dtype=np.int64), len(request.prompt) + request.max_new_tokens
        if limit > self.max_length:
            raise ValueError(f"{limit} tokens do not fit into {self.max_length}")
        # The last token is always fed: its logits are wanted.
        cached = common_length(self._sequences.in_cache(slot), prompt[:-1])
        self._sequences.begin(slot, prompt, cached=cached, seed=request.seed, limit=limit)
        self._accelerator.admit(slot, cached)
        return cached

    @torch.inference_mode()
    def prefill(self, fresh: Sequence[int]) -> None:
        """Give empty slots the beginnings of their prompts: from slots that have them, or read once for several."""
        sequences = self._sequences
        left = sorted(self._accelerator.distinct(fresh), key=lambda slot: (-sequences.known[slot], slot))
        while left:
            first: list[int] = []
            later: list[int] = []
            for slot in left:
                prompt = sequences.ids[slot, : sequences.known[slot] - 1]
                self._take_over(slot, sequences.holder(prompt))
                cached = int(sequences.cached[slot])
                # Of those that have still much in common the longest is read first.
                if any(
                    common_length(sequences.ids[other, : len(prompt)], prompt) - cached >= _WORTH_SHARING
                    for other in first
                ):
                    later.append(slot)
                elif cached < len(prompt):
                    first.append(slot)
            if not later:
                break
            pieces = self._pieces(first, less=1)
            while pieces:
                taken, pieces = _fitting(pieces, PASS_TOKENS)
                self._feed(_NONE, _NONE, _NONE, taken)
            left = later
        self._accelerator.prefilled()

    @torch.inference_mode()
    def step(self, active: Ids, temperature: float) -> list[int]:
        """Draw for every active slot [n], in at most one forward pass; the slots whose turn ended."""
        accelerator = self._accelerator
        ended, left, copies = accelerator.merge(active, temperature > 0)
        if len(ended):
            return ended.tolist()
        for slot, other in copies:
            self._take_over(slot, other)
        lacking = self._sequences.uncached(left)
        order = np.argsort(lacking, kind="stable")
        left, lacking = left[order], lacking[order]
        near = lacking <= accelerator.near
        decodes = near & (np.cumsum(lacking) <= self._most_decoded)
        decoding, reading = left[decodes], left[~near]
        drafts = accelerator.draft(decoding)
        fed = lacking[decodes] + drafts
        pieces, _ = _fitting(self._pieces(reading), PASS_TOKENS - int(fed.sum()))
        logits = self._feed(decoding, fed, drafts + 1, pieces, accelerator.tree(left, decoding))
        read = np.array([piece.slot for piece in pieces if piece.last], dtype=np.int64)
        drawing, drafts = np.concatenate([decoding, read]), np.concatenate([drafts, np.zeros_like(read)])
        if not len(drawing):
            return []
        # A token is drawn after each that was drafted too.
        u = sampling.turn_uniforms(self._sequences, drawing, drafts + 1)
        drawn, cumulative = sampling.draw(logits, temperature, u)
        return accelerator.accept(drawing, drafts, drawn, cumulative).tolist()

    @torch.inference_mode()
    def read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The logits [rows, V] after each of the rows: all but their last tokens are read, then these together.

        In slots that are empty: a trial of the model.
        """
        slots = np.arange(len(rows))
        for slot, row in enumerate(rows):
            self._sequences.begin(slot, np.array(row, dtype=np.int64), cached=0, seed=0, limit=len(row))
        self._feed(_NONE, _NONE, _NONE, self._pieces(slots, less=1))
        return self._feed(slots, np.ones_like(slots), np.ones_like(slots), [])

    def forward(self, ids: Ids, layout: Layout, keep: Ids) -> Tensor:
        """One pass over packed tokens [N]; the logits at the indices `keep`."""
        self._pool.layout = layout
        fast = plug.fast_products() if len(ids) >= _ONEDNN_FROM and self.device.type == "cpu" else nullcontext()
        with plug.plugged_in(self._config, "ipr"), fast:
            return self.model(
                input_ids=torch.from_numpy(ids).to(self.device)[None],
                position_ids=layout.positions[None],
                past_key_values=self._pool,
                use_cache=True,
                logits_to_keep=torch.from_numpy(keep).to(self.device),
                ipr_layout=layout,
            ).logits[0]

    def _take_over(self, slot: int, other: int) -> None:
        """The key-values that another slot has of this one's tokens; the last of these is to be fed anyway."""
        sequences = self._sequences
        cached, prompt = sequences.cached[slot], sequences.ids[slot, : sequences.known[slot] - 1]
        length = common_length(sequences.in_cache(other), prompt)
        if length > cached:
            self._pool.copy(other, slot, cached, length)
            sequences.cached[slot] = length

    def _pieces(self, slots: Sequence[int] | Ids, less: int = 0) -> list[_Piece]:
        """What slots lack but for the last `less` tokens.

        Pieces of like length together (little padding); those of one slot stay in order, as all but its last are full.
        """
        pieces = [
            _Piece(slot, start, min(start + PIECE_TOKENS, end), start + PIECE_TOKENS >= end and not less)
            for slot in map(int, slots)
            for end in [int(self._sequences.known[slot]) - less]
            for start in range(int(self._sequences.cached[slot]), end, PIECE_TOKENS)
        ]
        return sorted(pieces, key=lambda piece: (piece.start - piece.end, piece.start, piece.slot))

    def _feed(
        self, decoding: Ids, counts: Ids, drawn: Ids, pieces: Sequence[_Piece], tree: PrefixTree | None = None
    ) -> Tensor:
        """One pass over the next `counts` tokens of slots that decode, and over pieces of others, which then have them.

        The logits after the last `drawn` of each of the former, then after each piece that is its slot's last [., V].
        """
        sequences = self._sequences
        read = np.array([(piece.slot, piece.start, piece.end - piece.start) for piece in pieces], dtype=np.int64)
        next_ones = np.column_stack([decoding, sequences.cached[decoding], counts])
        slots, starts, counts = np.concatenate([next_ones, read.reshape(-1, 3)]).T
        layout = Layout(slots, starts, counts, decoding=len(decoding), device=self.device, tree=tree)
        self._pool.reserve(int((starts + counts).max()))
        ends = np.cumsum(counts)
        drawn = np.concatenate([drawn, np.array([piece.last for piece in pieces], dtype=np.int64)])
        wanted = np.repeat(ends - drawn, drawn) + np.arange(drawn.sum()) - np.repeat(np.cumsum(drawn) - drawn, drawn)
        ids = sequences.ids[np.repeat(slots, counts), layout.places]
        logits = self.forward(ids, layout, wanted if len(wanted) else ends[-1:] - 1)
        for piece in pieces:
            sequences.cached[piece.slot] = piece.end
        return logits


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens start to end of a slot that are fed in one pass."""

    slot: int
    start: int
    end: int
    last: bool
    """What is drawn after it is wanted."""


def _fitting(pieces: list[_Piece], most: int) -> tuple[list[_Piece], list[_Piece]]:
    """As many of the first pieces as have at most so many tokens, but one at least; and the others."""
    total = n = 0
    while n < len(pieces) and (n == 0 or total + pieces[n].end - pieces[n].start <= most):
        total += pieces[n].end - pieces[n].start
        n += 1
    return pieces[:n], pieces[n:]
