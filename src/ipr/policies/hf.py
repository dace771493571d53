"""Any causal language model of transformers as a policy: tokens in, tokens out, key-values kept between the turns.

Decided here: the key-values of all sessions lie in one pool, a row a session. A turn feeds only what its row does not
hold yet, so a fork costs a copy: a new session takes over the longest beginning that any row holds, equal prompts of
one call are run once, and what all new prompts of a call begin with (the instruction) is run once. All tokens of a pass
are packed into one sequence, so the model's matrices see no padding; only attention, which is ours (`_attend`, plugged
into transformers), knows which token belongs to which row. Tokens are drawn from counter-based uniforms, so a sample
depends on (conversation, seed) and not on its neighbours in the batch. On a CPU, rows that write read together what
they have in common (`_Reading`), and after each row's last token what will probably be drawn next is fed in the same
pass (`_Guesses`): a guess that is right saves a pass, a wrong one is overwritten, and no token depends on it.

Memory is bounded by slots * max_length tokens; of more sessions than slots the one that was idle longest loses its row
and is run again from its text when it comes back. Left out: models whose attention cannot be plugged in, or that carry
a state which is no key-value (they are refused); beams, top-k and top-p (no stage uses them).
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
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

_CONTEXT, _SHORT_CONTEXT = 8, 3
"""Tokens that a guess of the next one is made from."""
_HASH: Ids = np.random.default_rng(0).integers(1 << 40, size=_CONTEXT) | 1
_MOST_GUESSES = 7
_PASS_GUESSED = 512
"""Most tokens, guesses among them, in one forward pass that writes."""
_PASS_TOKENS = 2048
"""Most tokens in one forward pass over prompts."""
_SEGMENT_TOKENS = 512
"""Most tokens (padding included) whose attention is computed together in a pass over prompts: bounds its mask."""
_WORTH_SHARING = 32
"""Tokens that new prompts must have in common to be run for all of them first."""
_BLOCK = 8
"""On a CPU, rows of like length whose attention is computed together while they write."""
_WORTH_A_BRANCH = 256
"""Tokens that need not be read again from which a `_Reading` has a branch: a call takes as long as reading them."""
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
        self._guesses = _Guesses()
        self._memory: dict[tuple[int, int], Tensor] = {}
        """Of the rows' layouts while they write."""
        self._pool = _Pool(slots, self.max_length, kv_dtype, self.device)
        self._block = 1 if self.device.type == "cpu" else slots

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
        if self._rows.idle:
            self._guesses.forget()  # so answers do not even round otherwise for what was played before
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
        for row, prompt in wanted:
            self._guesses.learn(prompt[max(0, self._rows.lengths[row] - _CONTEXT) :])
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
        n, most, starts = len(rows), sampling.max_new_tokens, self._rows.lengths[rows]
        room = np.minimum(most, self.max_length - starts)
        written = np.zeros((n, int(room.max()) + _MOST_GUESSES), dtype=np.int64)
        counts, stopped = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        active = np.arange(n)
        likely = guessed = np.zeros((n, 0), dtype=np.int64)
        """[active, .]: what may be drawn next, and as much of it as was fed in the hope of that."""
        reading: _Reading | None = None
        while True:
            width = guessed.shape[1] + 1
            places = counts[active, None] + np.arange(width)
            tokens = draw(logits, sampling.temperature, seeds[active].repeat(width), places.ravel()).reshape(-1, width)
            written[active[:, None], places] = tokens
            self._guesses.judge(likely[:, :1] == tokens[:, :1])
            # A token counts where all before it in its pass were guessed rightly, up to the end of the turn.
            new = 1 + np.logical_and.accumulate(guessed == tokens[:, :-1], 1).sum(1)
            new = np.minimum(new, room[active] - counts[active])
            ends = np.isin(tokens, self.ends) & (np.arange(width) < new[:, None])
            stopped[active] = ends.any(1)
            new = np.where(stopped[active], ends.argmax(1) + 1, new)
            counts[active] += new
            self._rows.lengths[rows[active]] = starts[active] + counts[active] - 1
            active = active[~stopped[active] & (counts[active] < room[active])]
            if not len(active):
                break
            going, lengths = rows[active], self._rows.lengths[rows[active]]
            self._rows.ids[going, lengths] = written[active, counts[active] - 1]
            likely = self._guess(going, lengths)
            guessed = likely[:, : min(self._guesses.worth(len(going)), self.max_length - 1 - int(lengths.max()))]
            at = lengths[:, None] + np.arange(guessed.shape[1] + 1)
            self._rows.ids[going[:, None], at[:, 1:]] = guessed
            self._pool.reserve(int(at.max()) + 1)
            layout = self._layout(going, lengths, np.full_like(going, at.shape[1]))
            if self.device.type == "cpu":
                if reading is None or 2 * len(going) <= len(reading.rows):
                    reading = _Reading(self._rows.ids, going, lengths, most + _MOST_GUESSES, self._memory)
                reading.begin(going, at)
                layout.reading = reading
            logits = self._forward(self._rows.ids[going[:, None], at].ravel(), layout, None)
        for row, start, ids, size in zip(rows, starts, written, counts, strict=True):
            self._guesses.learn(np.concatenate([self._rows.ids[row, max(0, start - _CONTEXT) : start], ids[:size]]))
        return [ids[:size].tolist() for ids, size in zip(written, counts, strict=True)], stopped.tolist()

    def _guess(self, rows: Ids, lengths: Ids) -> Ids:
        """What may be drawn after the rows' tokens up to their `lengths` [len(rows), T]."""
        if self.device.type != "cpu":
            return np.zeros((len(rows), 0), dtype=np.int64)
        places = np.maximum(lengths[:, None] + np.arange(1 - _CONTEXT, 1), 0)
        return self._guesses.after(self._rows.ids[rows[:, None], places])

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

    @property
    def idle(self) -> bool:
        return not self._of

    def close(self, session: Hashable) -> None:
        if session in self._of:
            self.free(np.array([self._of[session]]))

    def free(self, rows: Ids) -> None:
        gone = set(rows.tolist())
        self._of = {session: row for session, row in self._of.items() if row not in gone}
        self._free += gone
        self.lengths[rows] = 0

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


class _Guesses:
    """What came after the same tokens the last time that they were read or written: the same 8, or else the same 3."""

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        self._next = {size: np.full(1 << 17, -1) for size in (_CONTEXT, _SHORT_CONTEXT)}
        self._right = 0.0
        """The share of guesses that are right, of late."""

    def learn(self, ids: Ids) -> None:
        for size, following in self._next.items():
            if len(ids) > size:
                following[self._places(sliding_window_view(ids, size)[:-1])] = ids[size:]

    def after(self, ids: Ids) -> Ids:
        """ids [n, _CONTEXT] -> [n, _MOST_GUESSES]"""
        for _ in range(_MOST_GUESSES):
            long, short = (t[self._places(ids[:, -size:])] for size, t in self._next.items())
            ids = np.column_stack([ids, np.maximum(np.where(long < 0, short, long), 0)])
        return ids[:, _CONTEXT:]

    def judge(self, right: NDArray[np.bool_]) -> None:
        if right.size:
            self._right += 0.1 * (float(right.mean()) - self._right)

    def worth(self, rows: int) -> int:
        """How many guesses to feed after each row's last token: while all are right with a probability of 0.4."""
        likely = int(np.log(0.4) / np.log(min(max(self._right, 1e-9), 0.999)))
        return max(0, min(likely, _MOST_GUESSES, _PASS_GUESSED // rows - 1))

    def _places(self, ids: Ids) -> Ids:
        """By a hash of the last axis; two that share a place only make each other's guesses wrong."""
        return (ids @ _HASH[: ids.shape[-1]] >> 12) % (1 << 17)


class _Pool(Cache):
    """The key-values: a pair of tensors [slots, heads, capacity, width] a layer; to transformers, a cache."""

    def __init__(self, slots: int, max_length: int, dtype: torch.dtype | None, device: torch.device):
        super().__init__(layers=[])
        self.layout: _Layout
        """Of the pass that is under way."""
        self._slots, self._max_length, self._dtype = slots, max_length, dtype
        self._lazy = device.type == "cpu"
        """Memory costs nothing until it is written, so all is there from the start."""
        self._capacity = max_length if self._lazy else 0
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
        written: list[Tensor] = []
        for side, states in zip(self._sides, (key_states, value_states), strict=True):
            if layer_idx == len(side):
                side.append(self._empty(states))
            flat = side[layer_idx].view(-1, states.shape[-1])
            new = states[0].flatten(0, 1).to(flat.dtype)
            flat.index_copy_(0, self.layout.targets(states.shape[1], self._capacity), new)
            written.append(new)
        found = self._sides[0][layer_idx], self._sides[1][layer_idx]
        if self.layout.reading:
            self.layout.reading.write(layer_idx, found, written, key_states)
        return found

    def copy(self, source: int, target: int, length: int) -> None:
        for side in self._sides:
            for layer in side:
                layer[target, :, :length] = layer[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are given; nothing else that is asked for depends on it

    def _empty(self, like: Tensor) -> Tensor:
        # Zeros, because what attention masks out must at least be finite; torch's own would all be written.
        shape, dtype = (self._slots, like.shape[1], self._capacity, like.shape[3]), self._dtype or like.dtype
        if not self._lazy:
            return like.new_zeros(shape, dtype=dtype)
        pages = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=dtype).view(shape)


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
        self.reading: _Reading | None = None
        """Attends instead, where a pass has one."""
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

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """query [N, heads, width] -> [N, heads, width of value], over the tokens of each query's row up to itself.

        key, value: the pool's [slots, groups, capacity, width]; a group of query heads shares a key-value head.
        """
        if self.reading and window is None:
            return self.reading.attend(layer, query)
        query = query.to(key.dtype)
        return torch.cat([segment.attend(query, key, value, window) for segment in self._segments])


class _Reading:
    """What some rows hold when they begin to write, laid out so that a pass reads little of it; for CPUs.

    Memory is what limits decoding there. Sorted, the rows form a tree: what several have in common (instruction, game,
    the beginning of an episode) is a branch, read once for all of them, where it lies. The rest of every row is copied
    into blocks of like length, whose rows are read in one call. The parts' softmaxes are merged by the logarithms of
    their sums, which is exact. All is in the model's own type, whatever the pool keeps, so it rounds as alone.
    """

    def __init__(self, ids: Ids, rows: Ids, lengths: Ids, room: int, memory: dict[tuple[int, int], Tensor]):
        """ids [slots, T]: of the pool's rows. `rows` hold `lengths` tokens and will have at most `room` more.

        `memory` is for the blocks, by layer and side, and is taken over by the next one: new memory is slow to touch.
        """
        held = [ids[row, :length] for row, length in zip(rows, lengths, strict=True)]
        order = np.array(sorted(range(len(rows)), key=lambda i: held[i].tobytes()))
        common = [_common(held[i], held[j]) for i, j in pairwise(order)]
        self.rows = rows
        self._rows, lengths = rows[order], lengths[order]
        self._branches, self._starts, paths = _branches(common)
        self._own = np.argsort(lengths - self._starts, kind="stable")
        """The rows in the order of their blocks; all else is in the tree's."""
        size = len(rows)
        self._places = np.empty(size, dtype=np.int64)
        self._places[order] = np.arange(size)
        self._places_own = np.empty(size, dtype=np.int64)
        self._places_own[self._own] = np.arange(size)
        widths = (lengths - self._starts)[self._own]
        self._blocks: list[tuple[int, int, int]] = []
        """Of the blocks: rows a to b, and the tokens that there is room for."""
        for first in range(0, size, _BLOCK):
            last = min(first + _BLOCK, size)
            self._blocks.append((first, last, int(widths[last - 1]) + room))
        self._widths = np.repeat([width for *_, width in self._blocks], [b - a for a, b, _ in self._blocks])
        self._held = lengths - self._starts
        # Where a row's parts lie among all, by depth; one that it lacks is the last of all, which weighs nothing.
        depth = max(map(len, paths)) + 1
        sizes = [b - a for a, b, *_ in self._branches]
        firsts = np.cumsum([0, *sizes])
        self._parts = np.full((size, depth), firsts[-1] + size)
        self._parts[:, 0] = firsts[-1] + self._places_own
        for i, path in enumerate(paths):
            self._parts[i, 1 : 1 + len(path)] = [firsts[k] + i - self._branches[k][0] for k in path]
        self._memory = memory
        self._kept: dict[int, _Kept] = {}
        """By layer; copied when it first writes."""

    def begin(self, rows: Ids, positions: Ids) -> None:
        """A pass of these rows [n], some of those it was made for; positions [n, T] of their tokens."""
        count, width = positions.shape
        found = np.searchsorted(self.rows, rows)
        tree = self._places[found]
        own = self._places_own[tree]
        at = positions - self._starts[tree][:, None]
        self._live = torch.from_numpy(tree)
        self._live_own = torch.from_numpy(own)
        self._table = torch.from_numpy(self._parts[tree].ravel())
        self._count, self._width = count, width
        seen = np.zeros((len(self.rows), width), dtype=np.int64)
        seen[own] = at
        self._at, self._at_own = at, own
        self._seen = [int(seen[a:b].max()) + 1 for a, b, _ in self._blocks]
        hidden = torch.arange(max(self._seen)) > torch.from_numpy(seen)[..., None]
        self._hidden = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None]
        """[n, 1, T, keys], added to the scores."""
        self._targets: Tensor | None = None
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    def write(self, layer: int, pool: tuple[Tensor, Tensor], states: Sequence[Tensor], like: Tensor) -> None:
        """Add a layer's key-values of the pass, as the pool has them [groups * N, width].

        like: some of them as the model has them [1, groups, N, width].
        """
        if layer not in self._kept:
            self._kept[layer] = self._keep(layer, pool, like)
        if self._targets is None:
            groups = like.shape[1]
            sizes = np.cumsum([0, *self._widths[:-1]]) * groups
            flat = sizes[self._at_own][:, None] + self._at
            flat = flat.ravel() + np.arange(groups)[:, None] * np.repeat(self._widths[self._at_own], self._width)
            self._targets = torch.from_numpy(flat.ravel())
        for side, new in zip(self._kept[layer].sides, states, strict=True):
            side.index_copy_(0, self._targets, new.to(side.dtype))

    def _keep(self, layer: int, pool: tuple[Tensor, Tensor], like: Tensor) -> _Kept:
        groups = like.shape[1]
        size = int(self._widths.sum()) * groups
        sides, blocks, branches = [], [], []
        for name, side in enumerate(pool):
            flat = self._memory.get((layer, name))
            if flat is None or len(flat) < size:
                # Zeros, because what attention masks out must at least be finite.
                flat = self._memory[layer, name] = like.new_zeros(size * 5 // 4, side.shape[-1])
            sides.append(flat)
            views, offset = [], 0
            for a, b, width in self._blocks:
                views.append(flat[offset : offset + (b - a) * groups * width].view(b - a, groups, width, -1))
                offset += (b - a) * groups * width
                for place, i in enumerate(self._own[a:b]):
                    held, start = int(self._held[i]), int(self._starts[i])
                    views[-1][place, :, :held] = side[self._rows[i], :, start : start + held]
            blocks.append(views)
            branches.append([side[self._rows[a], None, :, s:e].to(like.dtype) for a, _, s, e in self._branches])
        return _Kept((sides[0], sides[1]), list(zip(*blocks, strict=True)), list(zip(*branches, strict=True)))

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """query [N, heads, width] -> [N, heads, width of value]."""
        kept, size = self._kept[layer], len(self.rows)
        groups, heads = kept.blocks[0][0].shape[1], query.shape[1]
        each = heads // groups * self._width
        asked = query.view(self._count, self._width, groups, -1, query.shape[-1]).permute(0, 2, 3, 1, 4)
        asked = asked.reshape(self._count, groups, each, -1)
        own = query.new_zeros(size, groups, each, query.shape[-1]).index_copy_(0, self._live_own, asked)
        mask = self._mask(heads // groups, query.dtype)
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        outs, sums = [], []
        if self._branches:
            tree = query.new_zeros(groups, size, each, query.shape[-1])
            tree.index_copy_(1, self._live, asked.transpose(0, 1))
            for (a, b, *_), (key, value) in zip(self._branches, kept.branches, strict=True):
                out, log_sum = attention(tree[None, :, a:b].flatten(2, 3), key, value, scale=1.0)
                outs.append(out[0].view(groups, b - a, each, -1))
                sums.append(log_sum[0].view(groups, b - a, each))
        for (a, b, _), seen, (key, value) in zip(self._blocks, self._seen, kept.blocks, strict=True):
            out, log_sum = attention(
                own[a:b], key[:, :, :seen], value[:, :, :seen], attn_mask=mask[a:b, ..., :seen], scale=1.0
            )
            outs.append(out.transpose(0, 1))
            sums.append(log_sum.transpose(0, 1))
        outs.append(outs[0].new_zeros(groups, 1, each, outs[0].shape[-1]))
        sums.append(sums[0].new_full((groups, 1, each), -torch.inf))
        parts = torch.cat(outs, 1).index_select(1, self._table).view(groups, self._count, -1, each, outs[0].shape[-1])
        shares = torch.cat(sums, 1).index_select(1, self._table).view(groups, self._count, -1, each).softmax(2)
        out = (parts * shares[..., None].to(parts.dtype)).sum(2)
        out = out.view(groups, self._count, heads // groups, self._width, -1).permute(1, 3, 0, 2, 4)
        return out.reshape(len(query), heads, -1)

    def _mask(self, repeats: int, dtype: torch.dtype) -> Tensor:
        if (repeats, dtype) not in self._masks:
            self._masks[repeats, dtype] = self._hidden.repeat(1, 1, repeats, 1).to(dtype)
        return self._masks[repeats, dtype]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A layer's keys and values of a `_Reading`."""

    sides: tuple[Tensor, Tensor]
    """The blocks' memory, as tokens of a head [n, width]."""
    blocks: list[tuple[Tensor, Tensor]]
    """[rows, groups, tokens, width] each."""
    branches: list[tuple[Tensor, Tensor]]
    """[1, groups, tokens, width] each."""


def _branches(common: list[int]) -> tuple[list[tuple[int, int, int, int]], Ids, list[list[int]]]:
    """What sorted rows read together, `common[i]` being the tokens that rows i and i + 1 have in common.

    Branches (a, b, s, e): rows a to b, all of the same tokens s to e. Then, of each row, how many first tokens are read
    so, and its branches.
    """
    found: list[tuple[int, int, int, int]] = []
    starts = np.zeros(len(common) + 1, dtype=np.int64)
    paths: list[list[int]] = [[] for _ in starts]
    waiting = [(0, len(starts), 0)]
    while waiting:
        a, b, start = waiting.pop()
        if b - a == 1:
            continue
        end = min(common[a : b - 1])
        if (end - start) * (b - a - 1) >= _WORTH_A_BRANCH:
            for path in paths[a:b]:
                path.append(len(found))
            found.append((a, b, start, end))
            starts[a:b] = start = end
        edges = [a, *(i + 1 for i in range(a, b - 1) if common[i] == end), b]
        waiting += [(c, d, start) for c, d in pairwise(edges)]
    return found, starts, paths


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


def draw(logits: Tensor, temperature: float, seeds: NDArray[np.uint64], index: int | Ids) -> Ids:
    """One token a row: the argmax at temperature 0, else by inverse distribution function in float64.

    logits [B, V]. Row b's uniform follows from (seeds[b], index[b]) alone, `index` being the tokens' places in their
    turns.
    """
    if temperature == 0:
        return logits.argmax(-1).cpu().numpy()
    cumulative = torch.softmax(logits.double() / temperature, -1).cumsum_(-1)
    u = torch.from_numpy(uniforms(seeds, index)).to(logits.device)[:, None]
    # The first token whose cumulative probability is above u; never one of probability 0.
    drawn = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)[:, 0]
    return drawn.clamp_(max=logits.shape[-1] - 1).cpu().numpy()


def uniforms(seeds: NDArray[np.uint64], index: int | Ids) -> NDArray[np.float64]:
    """In [0, 1): element `index` of the SplitMix64 stream that starts at each seed (Steele et al. 2014)."""
    z = seeds + np.atleast_1d(index + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
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
        return ipr_layout.attend(module.layer_idx, asked, key, value, sliding_window).to(asked.dtype)[None], None


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
