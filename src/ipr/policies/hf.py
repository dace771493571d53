"""Any causal language model of transformers as a policy: tokens in, tokens out, key-values kept between the turns.

Decided here: the key-values of all sessions lie in one pool, a row a session. A turn feeds only what its row does not
hold yet, so a fork costs a copy: a new session takes over the longest beginning that any row holds, equal prompts of
one call are run once, and what all new prompts of a call begin with (the instruction) is run once. All tokens of a pass
are packed into one sequence, so the model's matrices see no padding; only attention, which is ours (`_attend`, plugged
into transformers), knows which token belongs to which row. Tokens are drawn from counter-based uniforms, so a sample
depends on (conversation, seed) and not on its neighbours in the batch. On a CPU, in float32, the prompt that sampled
sessions began with is read once for all that share it (`_Trunks`); bfloat16 gained little by it and rounded otherwise.

Memory is bounded by slots * max_length tokens; of more sessions than slots the one that was idle longest loses its row
and is run again from its text when it comes back. Left out: models whose attention cannot be plugged in, or that carry
a state which is no key-value (they are refused); beams, top-k and top-p (no stage uses them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import count, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from ipr import models
from ipr.config import ModelConfig, RolloutConfig
from ipr.profiling import count as counted
from ipr.profiling import timed
from ipr.training.sharing import pluggable, plugged_in
from ipr.training.tokens import ChatTokens
from ipr.types import Completion, IprError, Sampling, Turn

Ids = NDArray[np.int64]

_PASS_TOKENS = 2048
"""Most tokens in one forward pass over prompts."""
_SEGMENT_TOKENS = 512
"""Most tokens (padding included) whose attention is computed together in a pass over prompts: bounds its mask."""
_WORTH_SHARING = 32
"""Tokens that new prompts must have in common to be run for all of them first."""
_BLOCK = 1
"""On a CPU, most rows whose attention is computed together. Memory is what limits it there: one row alone is read where
it lies, as far as it goes (16 together, sorted by length, took 2.5 times as long)."""
_ONEDNN_FROM = 32
"""Tokens of a pass from which oneDNN's matrix products are faster than MKL's (see `models.fast_products`)."""


class TransformersPolicy:
    """`model` answers in chats of `tokenizer`'s template; at most `slots` sessions keep their key-values.

    A conversation never grows over `max_length` tokens (or the model's own limit, where that is smaller). The model
    may be wrapped by peft; it is moved to `device` where one is given. Key-values are kept in `kv_dtype`, or in the
    model's own type. Raises IprError for a model that cannot be played this way.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        *,
        max_length: int,
        slots: int,
        device: Any = None,
        kv_dtype: torch.dtype | None = None,
    ):
        self.name = name
        self.chat = ChatTokens(tokenizer)
        self.model = (model if device is None else model.to(device)).eval()
        self.device: torch.device = next(model.parameters()).device
        # The model itself, where peft has wrapped it.
        self._config = (model.get_base_model() if hasattr(model, "peft_config") else model).config
        _check_architecture(self.model, self._config)
        self.max_length = min(max_length, models.longest(self._config))
        self.slots = slots
        self.ends = sorted(ends(getattr(model, "generation_config", None), self.chat))
        """Tokens that end a turn."""
        self._rows = _Rows(slots, self.max_length)
        self._pool = _Pool(slots, self.max_length, kv_dtype)
        self._block = _BLOCK if self.device.type == "cpu" else slots
        self._trunks = self.device.type == "cpu" and (kv_dtype or self.model.dtype) == torch.float32

    def close_session(self, session: Hashable) -> None:
        self._rows.close(session)

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        """The next turn of every conversation. More turns than slots are answered in groups of that size.

        Raises ValueError where a session is named twice or a conversation does not end with a user message.
        """
        with timed("tokenizer"):
            prompts = [self.chat.prompt(turn.conversation) for turn in turns]
        return self.go_on(prompts, turns, sampling)

    @torch.inference_mode()
    def go_on(self, prompts: Sequence[Sequence[int]], turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        """`generate` for prompts that are tokens already; the turns' conversations are not looked at."""
        named = [turn.session for turn in turns if turn.session is not None]
        if len(set(named)) < len(named):
            raise ValueError("a session has one turn in a call")
        slots = self._rows.slots
        with plugged_in(self._config, "ipr"):
            return [
                completion
                for first in range(0, len(turns), slots)
                for completion in self._answer(
                    [np.array(prompt) for prompt in prompts[first : first + slots]],
                    turns[first : first + slots],
                    sampling,
                )
            ]

    def _answer(self, prompts: list[Ids], turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        answers = [Completion("", (), "overflow")] * len(turns)
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) < self.max_length]
        if not fits:
            return answers
        rows = self._rows.take([turns[i].session for i in fits])
        order = np.argsort(rows)  # tokens are packed in the order of their rows
        fits, rows = [fits[j] for j in order], rows[order]
        try:
            with timed("model"):
                logits = self._read(rows, [prompts[i] for i in fits])
                seeds = np.array([turns[i].seed for i in fits], dtype=np.uint64)
                written, stopped = self._write(rows, logits, seeds, sampling)
        except BaseException:
            self._rows.free(rows)  # what is half done must not be built upon
            raise
        counted("tokens", sum(map(len, written)))
        with timed("tokenizer"):
            for i, ids, stop in zip(fits, written, stopped, strict=True):
                finish = "stop" if stop else "length" if len(ids) == sampling.max_new_tokens else "overflow"
                answers[i] = Completion(self.chat.text(ids), tuple(ids), finish)
        self._rows.free(rows[[turns[i].session is None or turns[i].last for i in fits]])
        return answers

    def _read(self, rows: Ids, prompts: list[Ids]) -> Tensor:
        """Bring the rows to the ends of their prompts; the logits after each [len(rows), V]."""
        fresh: list[int] = []
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            # The last token is always fed: its logits are wanted.
            self._rows.cut(row, _common(self._rows.held(row), prompt[:-1]))
            if not self._rows.lengths[row]:
                fresh.append(i)
            if self._rows.lengths[row] < max(1, self._rows.trunks[row]):  # also a session that begins anew
                self._rows.begin(row, prompt)
        self._pool.reserve(max(map(len, prompts)))
        self._fork([int(rows[i]) for i in fresh], [prompts[i] for i in fresh])
        # Of equal prompts the first is run.
        first: dict[bytes, int] = {}
        leaders = {i: first.setdefault(prompts[i].tobytes(), i) for i in fresh}
        fed = [i for i in range(len(rows)) if leaders.get(i, i) == i]
        logits = self._feed([(int(rows[i]), prompts[i]) for i in fed])
        for i, leader in leaders.items():
            if i != leader:
                self._copy(rows[leader], rows[i], len(prompts[i]))
        place = {i: k for k, i in enumerate(fed)}
        return logits[torch.tensor([place[leaders.get(i, i)] for i in range(len(rows))], device=logits.device)]

    def _fork(self, rows: list[int], prompts: list[Ids]) -> None:
        """Give empty rows the longest beginnings of their prompts that other rows hold."""
        distinct = {prompt.tobytes(): prompt for prompt in prompts}
        if len(distinct) > 1:
            shared = min(_common(prompts[0], prompt) for prompt in distinct.values())
            shared = min(shared, *(len(prompt) - 1 for prompt in distinct.values()))
            if shared - self._rows.longest_held(prompts[0][:shared])[1] >= _WORTH_SHARING:
                self._fork(rows[:1], [prompts[0][: shared + 1]])
                self._feed([(rows[0], prompts[0][:shared])])
        for row, prompt in zip(rows, prompts, strict=True):
            donor, length = self._rows.longest_held(prompt[:-1])
            if length > self._rows.lengths[row]:
                self._copy(donor, row, length)

    def _copy(self, source: int, target: int, length: int) -> None:
        self._pool.copy(source, target, length)
        self._rows.ids[target, :length] = self._rows.ids[source, :length]
        self._rows.lengths[target] = length

    def _feed(self, wanted: list[tuple[int, Ids]]) -> Tensor:
        """Run (row, prompt): what the row lacks of its prompt; the logits after each prompt [len(wanted), V]."""
        pieces = [
            _Piece(row, start, prompt[start : start + _SEGMENT_TOKENS], place, start + _SEGMENT_TOKENS >= len(prompt))
            for place, (row, prompt) in enumerate(wanted)
            for start in range(int(self._rows.lengths[row]), len(prompt), _SEGMENT_TOKENS)
        ]
        # Pieces of like length together (little padding); those of one row stay in order, as all but its last are full.
        pieces.sort(key=lambda piece: (-len(piece.ids), piece.start, piece.row))
        found: list[Tensor] = []
        places: list[int] = []
        while pieces:
            total = n = 0
            while n < len(pieces) and (n == 0 or total + len(pieces[n].ids) <= _PASS_TOKENS):
                total += len(pieces[n].ids)
                n += 1
            taken, pieces = pieces[:n], pieces[n:]
            counts = np.array([len(piece.ids) for piece in taken])
            last = np.cumsum(counts)[[piece.last for piece in taken]] - 1
            layout = self._layout(np.array([p.row for p in taken]), np.array([p.start for p in taken]), counts)
            logits = self._forward(np.concatenate([piece.ids for piece in taken]), layout, last)
            found.append(logits[: len(last)])
            places += [piece.place for piece in taken if piece.last]
            for piece in taken:
                self._rows.append(piece.row, piece.ids)
        return torch.cat(found)[torch.tensor(np.argsort(places), device=self.device)]

    def _write(
        self, rows: Ids, logits: Tensor, seeds: NDArray[np.uint64], sampling: Sampling
    ) -> tuple[list[list[int]], list[bool]]:
        """Draw tokens until every row has said its end or has no room; the tokens, and whether the end was said.

        The last token of a turn is drawn but not run: the next turn feeds it.
        """
        n = len(rows)
        room = np.minimum(sampling.max_new_tokens, self.max_length - self._rows.lengths[rows])
        written = np.zeros((n, int(room.max())), dtype=np.int64)
        counts, stopped = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        active = np.arange(n)
        for index in count():
            tokens = draw(logits, sampling.temperature, seeds[active], index)
            written[active, index] = tokens
            counts[active] += 1
            stopped[active] = np.isin(tokens, self.ends)
            going_on = ~stopped[active] & (counts[active] < room[active])
            active, tokens = active[going_on], tokens[going_on]
            if not len(active):
                break
            going = rows[active]
            lengths = self._rows.lengths[going]
            self._pool.reserve(int(lengths.max()) + 1)
            layout = self._layout(going, lengths, np.ones_like(going))
            # Greedy sessions with equal prompts would be the same.
            if sampling.temperature > 0 and self._trunks:
                layout.trunks = _Trunks(going, self._rows.trunks[going], self._rows.begun[going], lengths + 1)
            logits = self._forward(tokens, layout, None)
            self._rows.ids[going, lengths] = tokens
            self._rows.lengths[going] += 1
        return [ids[:size].tolist() for ids, size in zip(written, counts, strict=True)], stopped.tolist()

    def _layout(self, rows: Ids, starts: Ids, counts: Ids) -> _Layout:
        return _Layout(rows, starts, counts, self._block, self.device)

    def _forward(self, ids: Ids, layout: _Layout, keep: Ids | None) -> Tensor:
        """One pass over packed tokens [N]; the logits at the indices `keep`, or of all tokens."""
        self._pool.layout = layout
        with models.fast_products() if len(ids) >= _ONEDNN_FROM and self.device.type == "cpu" else nullcontext():
            return self.model(
                input_ids=torch.from_numpy(ids).to(self.device)[None],
                position_ids=layout.positions[None],
                past_key_values=self._pool,
                use_cache=True,
                logits_to_keep=0 if keep is None else torch.from_numpy(keep).to(self.device),
                ipr_layout=layout,
            ).logits[0]


def load(path: str, name: str, model: ModelConfig, rollout: RolloutConfig) -> TransformersPolicy:
    """The model of a folder or hub name as a policy called `name`. Raises IprError as `models.load_model` does."""
    return TransformersPolicy(
        models.load_model(path, model),
        models.load_tokenizer(path),
        name,
        max_length=model.max_length,
        slots=rollout.slots,
        kv_dtype=torch.bfloat16 if rollout.kv_dtype == "bfloat16" else None,
    )


class _Rows:
    """Which session owns which row of the pool, and the tokens whose key-values a row holds."""

    def __init__(self, slots: int, max_length: int):
        self.slots = slots
        self.ids: Ids = np.zeros((slots, max_length), dtype=np.int64)
        self.lengths: Ids = np.zeros(slots, dtype=np.int64)
        """0 for a row that nobody owns."""
        self.trunks: Ids = np.zeros(slots, dtype=np.int64)
        """Tokens of the prompt that the row's session began with."""
        self.begun: Ids = np.zeros(slots, dtype=np.int64)
        """A digest of that prompt."""
        self._of: dict[Hashable, int] = {}
        """Session -> row, the session that was idle longest first."""
        self._free = list(range(slots))

    def take(self, sessions: Sequence[Hashable]) -> Ids:
        """A row for each; unknown sessions get an empty one, if need be that of a session that is not among them."""
        for session in sessions:
            if session in self._of:
                self._of[session] = self._of.pop(session)
        # Lowest rows first, so that neighbours in the call are neighbours in the pool.
        self._free.sort(reverse=True)
        rows = []
        for session in sessions:
            row = self._of.get(session)
            if row is None:
                if not self._free:
                    self.close(next(iter(self._of)))
                row = self._free.pop()
                if session is not None:
                    self._of[session] = row
            rows.append(row)
        return np.array(rows)

    def close(self, session: Hashable) -> None:
        if session in self._of:
            self.free(np.array([self._of[session]]))

    def free(self, rows: Ids) -> None:
        gone = set(rows.tolist())
        self._of = {session: row for session, row in self._of.items() if row not in gone}
        self._free += gone
        self.lengths[rows] = 0

    def begin(self, row: int, prompt: Ids) -> None:
        """A session begins in a row that holds less than all of its former trunk."""
        self.trunks[row] = len(prompt)
        digest = hashlib.blake2b(prompt.tobytes(), digest_size=8).digest()
        self.begun[row] = int.from_bytes(digest, "big", signed=True)

    def held(self, row: int) -> Ids:
        return self.ids[row, : self.lengths[row]]

    def cut(self, row: int, length: int) -> None:
        self.lengths[row] = length

    def append(self, row: int, ids: Ids) -> None:
        start = self.lengths[row]
        self.ids[row, start : start + len(ids)] = ids
        self.lengths[row] += len(ids)

    def longest_held(self, ids: Ids) -> tuple[int, int]:
        """The row that holds most of the beginning of `ids`, and how many tokens that is."""
        if not len(ids):
            return 0, 0
        same = self.ids[:, : len(ids)] == ids
        common = np.where(same.all(1), len(ids), same.argmin(1))
        common = np.minimum(common, self.lengths)
        row = int(common.argmax())
        return row, int(common[row])


class _Pool(Cache):
    """The key-values: a pair of tensors [slots, heads, capacity, width] a layer; to transformers, a cache."""

    def __init__(self, slots: int, max_length: int, dtype: torch.dtype | None):
        super().__init__(layers=[])
        self.layout: _Layout
        """Of the pass that is under way."""
        self._slots, self._max_length, self._capacity, self._dtype = slots, max_length, 0, dtype
        self._sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        """Keys and values, by layer; made when a layer first writes."""

    def reserve(self, length: int) -> None:
        """Have room for `length` tokens in every row; grows by half at least."""
        if length <= self._capacity:
            return
        old = self._capacity
        self._capacity = min(self._max_length, max(length, old * 3 // 2) + 63 & ~63)
        for side in self._sides:
            for layer, small in enumerate(side):
                side[layer] = self._empty(small)
                side[layer][:, :, :old] = small

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Write the pass's key-values [1, heads, N, width]; returns the layer's whole tensors."""
        for side, states in zip(self._sides, (key_states, value_states), strict=True):
            if layer_idx == len(side):
                side.append(self._empty(states))
            flat = side[layer_idx].view(-1, states.shape[-1])
            targets = self.layout.targets(states.shape[1], self._capacity)
            flat.index_copy_(0, targets, states[0].flatten(0, 1).to(flat.dtype))
        return self._sides[0][layer_idx], self._sides[1][layer_idx]

    def copy(self, source: int, target: int, length: int) -> None:
        for side in self._sides:
            for layer in side:
                layer[target, :, :length] = layer[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are given; nothing else that is asked for depends on it

    def _empty(self, like: Tensor) -> Tensor:
        # Zeros, because what attention masks out must at least be finite.
        return like.new_zeros(self._slots, like.shape[1], self._capacity, like.shape[3], dtype=self._dtype)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of a prompt that are fed in one pass."""

    row: int
    start: int
    ids: Ids
    place: int
    """Of the prompt in its call."""
    last: bool
    """The prompt ends with it."""


class _Layout:
    """Which rows and positions the packed tokens of a pass have: piece i is tokens [starts[i], starts[i] + counts[i]).

    The pieces are in an order in which neighbours are of like length.
    """

    def __init__(self, rows: Ids, starts: Ids, counts: Ids, block: int, device: torch.device):
        ends = np.cumsum(counts)
        self._rows = np.repeat(rows, counts)
        self._positions = np.arange(ends[-1]) - np.repeat(ends - counts - starts, counts)
        self.positions = torch.from_numpy(self._positions).to(device)
        """[N]"""
        self.small = bool(counts.max() == 1)
        """One token a row: attention is many tiny products."""
        self.trunks: _Trunks | None = None
        """Reads what rows share together, where that is wanted."""
        self._pieces = rows, starts, counts, block
        self._targets: dict[tuple[int, int], Tensor] = {}

    @cached_property
    def _segments(self) -> list[_Segment]:
        rows, starts, counts, block = self._pieces
        ends, found, a = np.cumsum(counts), [], 0
        while a < len(rows):
            b = a + min(block, max(1, _SEGMENT_TOKENS // int(counts[a])))
            offset = int(ends[a] - counts[a])
            found.append(_Segment(rows[a:b], starts[a:b], counts[a:b], offset, self.positions.device))
            a = b
        return found

    def targets(self, heads: int, capacity: int) -> Tensor:
        """Where the tokens' key-values go in a pool seen as [slots * heads * capacity, width]; head by head."""
        key = (heads, capacity)
        if key not in self._targets:
            flat = (self._rows * heads + np.arange(heads)[:, None]) * capacity + self._positions
            self._targets[key] = torch.from_numpy(flat.ravel()).to(self.positions.device)
        return self._targets[key]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """query [N, heads, width] -> [N, heads, width of value], over the tokens of each query's row up to itself.

        key, value: the pool's [slots, groups, capacity, width]; a group of query heads shares a key-value head.
        """
        if self.trunks and window is None:
            return self.trunks.attend(query, key, value)
        return torch.cat([segment.attend(query, key, value, window) for segment in self._segments])


class _Trunks:
    """One token a row, on a CPU: the rows' keys in two parts, a trunk and what came after it.

    Rows of the same trunk read one row's, together: memory is what limits attention here, and N samples of a step have
    most of their history in common. The parts' softmaxes are merged by the logarithms of their sums, which is exact.
    """

    def __init__(self, rows: Ids, trunks: Ids, begun: Ids, lengths: Ids):
        """The rows, the lengths and the digests of their trunks, and their lengths with the token."""
        order = np.lexsort((trunks, begun))
        changed = np.diff(begun[order]).astype(bool) | np.diff(trunks[order]).astype(bool)
        edges = [0, *(np.flatnonzero(changed) + 1).tolist(), len(rows)]
        rows, trunks, lengths = rows[order], trunks[order], lengths[order]
        self._order = None if (np.diff(order) > 0).all() else torch.from_numpy(order)
        self._back = None if self._order is None else torch.from_numpy(np.argsort(order))
        self._shared = [(a, b, int(rows[a]), 0, int(trunks[a])) for a, b in pairwise(edges)]
        each = zip(rows.tolist(), trunks.tolist(), lengths.tolist(), strict=True)
        self._own = [(i, i + 1, *piece) for i, piece in enumerate(each)]

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `_Layout.attend`."""
        count, heads, width = query.shape
        repeats = heads // key.shape[1]
        asked = query if self._order is None else query[self._order]
        asked = asked.view(count, -1, repeats, width).transpose(0, 1).reshape(1, -1, count * repeats, width)

        def read(pieces: list[tuple[int, int, int, int, int]]) -> tuple[Tensor, Tensor]:
            found = [
                torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                    asked[:, :, a * repeats : b * repeats], key[row, None, :, s:e], value[row, None, :, s:e], scale=1.0
                )
                for a, b, row, s, e in pieces
            ]
            return torch.cat([out for out, _ in found], 2).float(), torch.cat([log_sum for _, log_sum in found], 2)

        shared, shared_sum = read(self._shared)
        own, own_sum = read(self._own)
        out = torch.lerp(own, shared, torch.sigmoid(shared_sum - own_sum)[..., None])
        out = out[0].view(-1, count, repeats, out.shape[-1]).transpose(0, 1).reshape(count, heads, -1)
        return out if self._back is None else out[self._back]


class _Segment:
    """B pieces of at most T tokens whose attention is computed together; packed from `offset` on."""

    def __init__(self, rows: Ids, starts: Ids, counts: Ids, offset: int, device: torch.device):
        self._size, self._width = len(rows), int(counts.max())
        self._length = int((starts + counts).max())
        """Keys looked at."""
        self._tokens = slice(offset, offset + int(counts.sum()))
        self._starts, self._counts, self._device = starts, counts, device
        self._known = int(starts.min()) + 1
        """Keys that every query sees."""
        # Rows that lie together are looked at, others copied together.
        self._slice = slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else None
        self._rows = None if self._slice else torch.from_numpy(rows).to(device)
        self._padded = self._real = None
        if (counts < self._width).any():
            # Where a piece's tokens are in the packed sequence; its padding stands for its last token.
            steps = np.minimum(np.arange(self._width), counts[:, None] - 1)
            padded = offset + (np.cumsum(counts) - counts)[:, None] + steps
            self._padded = torch.from_numpy(padded).to(device)
            self._real = torch.from_numpy(np.arange(self._width) < counts[:, None]).to(device)
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """As `_Layout.attend`, for the segment's tokens."""
        size, width, heads, groups = self._size, self._width, query.shape[1], key.shape[1]
        asked = query[self._tokens].view(size, width, heads, -1) if self._padded is None else query[self._padded]
        asked = asked.transpose(1, 2).reshape(size, groups, heads // groups * width, -1)
        mask = self._mask(heads // groups, window, asked.dtype)
        # Scaled before; in bfloat16 twice as fast on a CPU as the products and softmax one by one, in float32 the same.
        out = F.scaled_dot_product_attention(asked, self._take(key), self._take(value), attn_mask=mask, scale=1.0)
        out = out.view(size, heads, width, -1).transpose(1, 2)
        return out.flatten(0, 1) if self._real is None else out[self._real]

    def _take(self, pool: Tensor) -> Tensor:
        """The rows' keys or values [B, groups, length, width]."""
        seen = pool[:, :, : self._length]
        return seen[self._slice] if self._rows is None else seen.index_select(0, self._rows)

    def _mask(self, repeats: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """[B, 1, repeats * T, length], added to the scores: a query head after another, as in `attend`."""
        if window is None and self._known >= self._length:
            return None
        if (repeats, window) not in self._masks:
            steps = np.minimum(np.arange(self._width), self._counts[:, None] - 1)
            positions = torch.from_numpy(self._starts[:, None] + steps).to(self._device)[..., None]
            keys = torch.arange(self._length, device=self._device)
            hidden = keys > positions
            if window is not None:
                hidden |= keys <= positions - window
            mask = torch.zeros(hidden.shape, device=self._device, dtype=dtype).masked_fill_(hidden, -torch.inf)
            self._masks[repeats, window] = mask.repeat(1, repeats, 1)[:, None]
        return self._masks[repeats, window]


def draw(logits: Tensor, temperature: float, seeds: NDArray[np.uint64], index: int) -> Ids:
    """One token a row: the argmax at temperature 0, else by inverse distribution function in float64.

    logits [B, V]. Row b's uniform follows from (seeds[b], index) alone, `index` being the token's place in its turn.
    """
    if temperature == 0:
        return logits.argmax(-1).cpu().numpy()
    cumulative = torch.softmax(logits.double() / temperature, -1).cumsum_(-1)
    u = torch.from_numpy(uniforms(seeds, index)).to(logits.device)[:, None]
    # The first token whose cumulative probability is above u; never one of probability 0.
    drawn = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)[:, 0]
    return drawn.clamp_(max=logits.shape[-1] - 1).cpu().numpy()


def uniforms(seeds: NDArray[np.uint64], index: int) -> NDArray[np.float64]:
    """In [0, 1): element `index` of the SplitMix64 stream that starts at each seed (Steele et al. 2014)."""
    z = seeds + np.uint64((index + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * np.float64(2**-53)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    ipr_layout: _Layout,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, heads, N, width]; key and value are the whole pool's."""
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise IprError(f"the model's attention uses {name}, which this policy lacks; take another model")
    asked = query[0].transpose(0, 1) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    with _mkl() if ipr_layout.small else nullcontext():
        return ipr_layout.attend(asked.to(key.dtype), key, value, sliding_window).to(asked.dtype)[None], None


AttentionInterface.register("ipr", _attend)


@contextmanager
def _mkl() -> Iterator[None]:
    """Products by MKL inside `models.fast_products`: on small ones oneDNN takes two to four times as long."""
    setting: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 (pyright does not know it)
    before = setting.fp32_precision
    setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = before


def _check_architecture(model: Any, config: Any) -> None:
    if not pluggable(model):
        raise IprError(
            f"models of type {config.model_type} cannot be played with kept key-values; take a decoder such as Llama,"
            " Qwen or Mistral"
        )


def ends(generation_config: Any, chat: ChatTokens) -> set[int]:
    """Tokens that end a turn: the template's, and what tokenizer and model call the end."""
    configured = getattr(generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return {chat.end_id, *(i for i in (chat.tokenizer.eos_token_id, *several) if i is not None)}


def _common(a: Ids, b: Ids) -> int:
    """How many first tokens two sequences share."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    return int(different.argmax()) if different.any() else n
