"""Any causal language model that transformers loads, as a policy: tokens in, tokens out, key-values kept.

Decided here: the key-values of all sessions lie in one pool of rows [slots, heads, capacity, width] per layer. A turn
feeds only what is new; a prompt that several new sessions share is run once and copied; rows of the sessions that are
generating are kept at the front of the pool (two rows change places when one is done), so that no step copies the pool.
Tokens are drawn from counter-based uniforms (turn seed, token index), so a sample does not depend on its neighbours.
Memory is bounded by slots x max_length; a session that was pushed out is run again from its text.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from ipr.models import fast_products
from ipr.training.tokens import ChatTokens
from ipr.types import Completion, Sampling, Turn

PREFILL_TOKENS = 8192
"""Most new tokens (padding included) in one forward pass of a prefill."""


@dataclass
class _Row:
    """A row of the pool and the session in it."""

    session: Hashable
    ids: list[int] = field(default_factory=list)
    """Tokens whose key-values are in the row."""
    used: int = 0
    """When the session last took a turn."""
    seed: int = 0
    written: list[int] = field(default_factory=list)
    """This turn's tokens."""
    turn: int = 0
    finish: str = ""


class TransformersPolicy:
    """A model as a policy. `slots`: most sessions with key-values at a time; `max_length`: longest conversation."""

    def __init__(self, model: Any, tokenizer: Any, name: str, *, max_length: int, slots: int):
        self.name, self.model, self.chat = name, model.eval(), ChatTokens(tokenizer)
        self.max_length = min(max_length, getattr(model.config, "max_position_embeddings", max_length))
        self.device = next(model.parameters()).device
        self._ends = {self.chat.end_id, tokenizer.eos_token_id} - {None}
        self._pool = _Pool(slots)
        self._rows: list[_Row] = []
        self._clock = 0
        model.set_attn_implementation("ipr_pooled")

    def close_session(self, session: Hashable) -> None:
        """Free the session's row."""
        for i, row in enumerate(self._rows):
            if row.session == session:
                self._swap(i, len(self._rows) - 1)
                self._rows.pop()
                return

    @torch.no_grad()
    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        """Answer every turn; more turns than slots are answered in groups."""
        found: list[Completion] = []
        with fast_products():
            for first in range(0, len(turns), self._pool.slots):
                found += self._group(turns[first : first + self._pool.slots], sampling)
        return found

    def _group(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        self._clock += 1
        answers: list[Completion | None] = [None] * len(turns)
        news: list[list[int]] = []
        by_session = {row.session: i for i, row in enumerate(self._rows) if row.session is not None}
        front = 0
        for k, turn in enumerate(turns):
            i = by_session.get(turn.session) if turn.session is not None else None
            history = self._rows[i].ids if i is not None else None
            new = self._new_ids(turn, history)
            if len(history or ()) + len(new) + 1 > self.max_length:
                answers[k] = Completion("", (), "overflow")
                continue
            if i is None:
                i = self._open(turn.session, front)
                by_session = {row.session: j for j, row in enumerate(self._rows) if row.session is not None}
            row = self._rows[i]
            row.used, row.seed, row.turn, row.written, row.finish = self._clock, turn.seed, k, [], ""
            self._swap(i, front)
            if turn.session is not None:
                by_session = {r.session: j for j, r in enumerate(self._rows) if r.session is not None}
            news.append(new)
            front += 1
        if front:
            logits = self._prefill(news, front)
            self._decode(logits, front, sampling)
        for row in list(self._rows):
            if row.used == self._clock:
                ids = tuple(row.written)
                answers[row.turn] = Completion(self.chat.text(ids), ids, row.finish)  # type: ignore[arg-type]
        for row in [r for r in self._rows if r.session is None]:
            self._swap(self._rows.index(row), len(self._rows) - 1)
            self._rows.pop()
        return [a for a in answers if a is not None]

    def _new_ids(self, turn: Turn, history: list[int] | None) -> list[int]:
        """What the model has not seen of the conversation."""
        if history is None:
            return self.chat.prompt(turn.conversation)
        # The row ends with the agent's last words; its end-of-turn token was drawn but not yet run.
        return [self.chat.end_id, *self.chat.observation(turn.conversation[-1].content)]

    def _open(self, session: Hashable, front: int) -> int:
        """A free row at the end, or the row that has been idle longest."""
        if len(self._rows) < self._pool.slots:
            self._rows.append(_Row(session))
            return len(self._rows) - 1
        i = min(range(front, len(self._rows)), key=lambda j: self._rows[j].used)
        self._rows[i] = _Row(session)
        return i

    def _swap(self, i: int, j: int) -> None:
        if i != j:
            self._rows[i], self._rows[j] = self._rows[j], self._rows[i]
            self._pool.swap(i, j)

    def _prefill(self, news: list[list[int]], n: int) -> Tensor:
        """Run the new tokens of rows 0..n-1; returns the logits after each [n, V]."""
        rows = self._rows[:n]
        first: dict[tuple[int, ...], int] = {}
        copies: list[tuple[int, int]] = []
        unique: list[int] = []
        for i, new in enumerate(news):
            if not rows[i].ids and (same := first.setdefault(tuple(new), i)) != i:
                copies.append((same, i))
            else:
                unique.append(i)
        longest = max(len(rows[i].ids) + len(news[i]) for i in range(n))
        self._pool.reserve(longest)
        logits: dict[int, Tensor] = {}
        # Rows of like length run together, so that little of a batch is padding.
        order = sorted(unique, key=lambda i: (len(news[i]), i))
        while order:
            size = 1
            while size < len(order) and (size + 1) * len(news[order[size]]) <= PREFILL_TOKENS:
                size += 1
            batch, order = order[:size], order[size:]
            width = len(news[batch[-1]])
            ids = torch.zeros(size, width, dtype=torch.long)
            for b, i in enumerate(batch):
                ids[b, : len(news[i])] = torch.tensor(news[i])
            past = torch.tensor([len(rows[i].ids) for i in batch])
            last = torch.tensor([len(news[i]) for i in batch]) - 1
            out = self._forward(ids, past, torch.tensor(batch), last)
            for b, i in enumerate(batch):
                logits[i] = out[b]
                rows[i].ids += news[i]
        for source, target in copies:
            self._pool.copy(source, target, len(rows[source].ids))
            rows[target].ids = list(rows[source].ids)
            logits[target] = logits[source]
        return torch.stack([logits[i] for i in range(n)])

    def _decode(self, logits: Tensor, n: int, sampling: Sampling) -> None:
        index = 0
        while True:
            seeds = np.array([row.seed for row in self._rows[:n]], dtype=np.uint64)
            drawn = draw(logits, sampling.temperature, seeds, index)
            index += 1
            keep: list[int] = []
            for i in range(n):
                row, token = self._rows[i], drawn[i]
                row.written.append(token)
                if token in self._ends:
                    row.finish = "stop"
                elif len(row.ids) + 1 >= self.max_length:
                    row.finish = "overflow"
                elif index >= sampling.max_new_tokens:
                    row.finish = "length"
                    keep.append(i)  # its last word is run, as every other's, so that the row holds all of them
                else:
                    keep.append(i)
            # Rows that are done go behind the ones that go on.
            for place, i in enumerate(keep):
                self._swap(place, i)
            n = len(keep)
            if not n:
                return
            rows = self._rows[:n]
            self._pool.reserve(max(len(row.ids) for row in rows) + 1)
            ids = torch.tensor([[row.written[-1]] for row in rows])
            past = torch.tensor([len(row.ids) for row in rows])
            logits = self._forward(ids, past, None, None)
            for row in rows:
                row.ids.append(row.written[-1])
            if index >= sampling.max_new_tokens:
                return

    def _forward(self, ids: Tensor, past: Tensor, rows: Tensor | None, last: Tensor | None) -> Tensor:
        """One pass; ids [B, T] after `past` [B] tokens of the pool's rows (0..B-1 if None); logits at `last` [B, V]."""
        size, width = ids.shape
        positions = past[:, None] + torch.arange(width)
        keys = int(positions.max()) + 1
        self._pool.look(rows, positions, keys)
        visible = torch.arange(keys)[None, None, :] <= positions[:, :, None]
        out = self.model(
            input_ids=ids.to(self.device),
            position_ids=positions.clamp(max=self.max_length - 1).to(self.device),
            attention_mask=visible[:, None].to(self.device),
            past_key_values=self._pool,
            use_cache=True,
            logits_to_keep=1 if last is None else last.unique().to(self.device),
        ).logits
        if last is None:
            return out[:, -1]
        where = torch.searchsorted(last.unique(), last).to(self.device)
        return out[torch.arange(size, device=self.device), where]


class _Pool(Cache):
    """Key-values of all rows, one pair of tensors a layer; what transformers calls a cache."""

    def __init__(self, slots: int):
        super().__init__(layers=[])
        self.slots, self.capacity = slots, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._rows: Tensor | None = None
        self._positions = torch.zeros(0, dtype=torch.long)
        self._width = 0

    def look(self, rows: Tensor | None, positions: Tensor, width: int) -> None:
        """What the next pass writes (positions [B, T] of the rows) and sees (the first `width` places)."""
        self._rows, self._positions, self._width = rows, positions, width

    def reserve(self, length: int) -> None:
        if length <= self.capacity:
            return
        self.capacity = -(-length * 5 // 4 // 64) * 64
        for side in (self.keys, self.values):
            for layer, old in enumerate(side):
                new = old.new_zeros(self.slots, old.shape[1], self.capacity, old.shape[3])
                new[:, :, : old.shape[2]] = old
                side[layer] = new

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        size, heads, width, size_of_head = key_states.shape
        if layer_idx == len(self.keys):
            for side, states in ((self.keys, key_states), (self.values, value_states)):
                side.append(states.new_zeros(self.slots, heads, self.capacity, states.shape[3]))
        rows = torch.arange(size) if self._rows is None else self._rows
        # Padding behind a row's last token may reach past the pool's end; it is never looked at.
        inside = self._positions.clamp(max=self.capacity - 1)
        found = []
        for side, states in ((self.keys, key_states), (self.values, value_states)):
            pool = side[layer_idx]
            pool[rows[:, None], :, inside] = states.transpose(1, 2).to(pool.dtype)
            view = pool[:size] if self._rows is None else pool[rows]
            found.append(view[:, :, : self._width])
        return found

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def swap(self, i: int, j: int) -> None:
        for side in (self.keys, self.values):
            for pool in side:
                kept = pool[i].clone()
                pool[i] = pool[j]
                pool[j] = kept

    def copy(self, source: int, target: int, length: int) -> None:
        for side in (self.keys, self.values):
            for pool in side:
                pool[target, :, :length] = pool[source, :, :length]


def draw(logits: Tensor, temperature: float, seeds: np.ndarray, index: int) -> list[int]:
    """One token a row. logits [B, V], seeds [B] (uint64); the uniform of a row follows from (seed, index) alone."""
    if temperature == 0:
        return logits.argmax(-1).tolist()
    probabilities = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    uniform = torch.from_numpy(_uniform(seeds, index)).to(logits.device)[:, None]
    drawn = torch.searchsorted(probabilities, uniform * probabilities[:, -1:], right=True)[:, 0]
    return drawn.clamp(max=logits.shape[-1] - 1).tolist()


def _uniform(seeds: np.ndarray, index: int) -> np.ndarray:
    """Splitmix64 of (seed, index), as a number in [0, 1)."""
    with np.errstate(over="ignore"):
        x = seeds + np.uint64(index + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def pooled_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of query [B, H, T, D] to key, value [B, K, L, D] (H a multiple of K) without repeating the latter."""
    size, heads, width, depth = query.shape
    groups = key.shape[1]
    grouped = query.reshape(size, groups, heads // groups * width, depth)
    scores = torch.matmul(grouped, key.transpose(-1, -2)) * scaling
    scores = scores.view(size, groups, heads // groups, width, -1)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, :, None], torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    mixed = torch.matmul(weights.view(size, groups, heads // groups * width, -1), value)
    return mixed.view(size, heads, width, depth).transpose(1, 2).contiguous(), None


AttentionInterface.register("ipr_pooled", pooled_attention)
