"""Any causal language model of transformers as a policy: tokens in, tokens out, key-values kept between the turns.

Decided here: the key-values of all sessions lie in one pool, a row a session. A turn feeds only what its row does not
hold yet, so a fork costs a copy: a new session takes over the longest beginning that any row holds, and what several
new ones begin with is run once. Nobody waits for anybody: each pass feeds the next token of every row that writes and
the new tokens of those whose turn has come (`stream`). All tokens of a pass are packed into one sequence, with an
attention of our own (`attention`). Tokens are drawn from counter-based uniforms, so a sample depends on (conversation,
seed) and not on its neighbours in the batch. On a CPU, of rows that have come to the same tokens one is fed and the
others draw from what it got (`_Seen`), rows that write read together what they have in common (`Sharing`), and after
each row's last token what will probably be drawn next is fed in the same pass (`_Guesses`): a guess that is right saves
a pass, a wrong one is overwritten, and no token depends on it.

Memory is bounded by slots * max_length tokens; of more sessions than slots the one that was idle longest loses its row
and is run again from its text when it comes back. Left out: models whose attention cannot be plugged in, or that carry
a state which is no key-value (they are refused); beams, top-k and top-p (no stage uses them).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipr import models
from ipr.config import ModelConfig, RolloutConfig
from ipr.policies import kernels
from ipr.policies.attention import SEGMENT_TOKENS, Ids, Layout, Pool, Sharing, common_length
from ipr.profiling import count as counted
from ipr.profiling import timed
from ipr.training.sharing import pluggable, plugged_in
from ipr.training.tokens import ChatTokens
from ipr.types import Completion, IprError, Sampling, Turn

T = TypeVar("T")

_CONTEXTS = (3, 8)
"""Tokens that a guess of the next one is made from."""
_CONTEXT = _CONTEXTS[-1]
_SEEN, _LIKELIEST = 1 << 16, 8
"""Distributions that are remembered, and tokens of each."""
_RANDOM = np.uint64(0x9E3779B97F4A7C15)
_HASH: Ids = np.random.default_rng(0).integers(1 << 40, size=_CONTEXT) | 1
_MOST_GUESSES = 15
_CONFIRMED = 3
"""How often a guess may be confirmed until it makes no difference any more."""
_WORTH = 0.8
"""A guess is fed while it is right with this chance; with less where few rows are fed, as a pass then costs as much."""
_SCORES = 1 << 24
"""Attention weights (float32) of a layer that may be in memory at once, about."""
_NEAR = 64
"""Tokens that a row may lack to be read as one that writes."""
_PASS_TOKENS = 2048
"""Most tokens in one forward pass."""
_WORTH_SHARING = 32
"""Tokens that new prompts must have in common to be run for all of them first."""
_MOST_FOLLOWED = 32
"""Most tokens that a row follows others before the next pass, for which all wait."""
_NONE: Ids = np.zeros(0, dtype=np.int64)
_PASSES_BETWEEN = 8
"""Passes that new sessions wait while others write: to begin some changes what all share, which takes a while."""
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
        self._pool = Pool(slots, self.max_length, kv_dtype, self.device)
        self._block = 1 if self.device.type == "cpu" else slots
        self._seen = _Seen() if self.device.type == "cpu" else None
        self._shares = self.device.type == "cpu" and (kv_dtype or model.dtype) == model.dtype == torch.float32
        heads = getattr(self._config, "num_attention_heads", 32)
        self._pass_written = min(_PASS_TOKENS, max(slots + _NEAR, _SCORES // (heads * self.max_length)))
        """Most tokens that rows that write are fed in one forward pass, guesses not counted."""
        self._near = _NEAR if self._shares else 1
        """Rows that lack no more tokens write."""
        self._sharing: Sharing | None = None

    def close_session(self, session: Hashable) -> None:
        self._rows.close(session)

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        """The next turn of every conversation. More turns than slots wait for rows.

        Raises ValueError where a session is named twice or a conversation does not end with a user message.
        """
        prompts = [self._prompt(turn) for turn in turns]
        return self.go_on(prompts, turns, sampling)

    def go_on(self, prompts: Sequence[Sequence[int]], turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        """`generate` for prompts that are tokens already; the turns' conversations are not looked at."""
        named = [turn.session for turn in turns if turn.session is not None]
        if len(set(named)) < len(named):
            raise ValueError("a session has one turn in a call")
        waiting = deque(range(len(turns)))
        found = dict(self._answers(waiting, lambda i: (prompts[i], turns[i]), sampling))
        return [found[i] for i in range(len(turns))]

    def stream(self, waiting: deque[Turn], sampling: Sampling) -> Iterator[tuple[Turn, Completion]]:
        """See `ipr.types.Streaming`; there is room while there are rows. Raises as `generate` does."""
        return self._answers(waiting, lambda turn: (self._prompt(turn), turn), sampling)

    def _prompt(self, turn: Turn) -> list[int]:
        with timed("tokenizer"):
            return self.chat.prompt(turn.conversation)

    def _answers(
        self, waiting: deque[T], ask: Callable[[T], tuple[Sequence[int], Turn]], sampling: Sampling
    ) -> Iterator[tuple[T, Completion]]:
        """See `stream`; `ask` has the prompt's tokens and the turn of what waits."""
        if self._rows.idle:  # so answers do not even round otherwise for what was played before
            self._guesses.forget()
            self._rows.forget()
        if self._seen:
            self._seen.forget()
        self._sharing = None
        asked: dict[int, tuple[T, Turn]] = {}
        """By row."""
        fresh: list[int] = []
        """Rows that hold nothing yet."""
        passes = 0
        """Since some began."""
        try:
            while waiting or asked:
                while waiting and len(asked) < self.slots:
                    item = waiting.popleft()
                    prompt, turn = ask(item)
                    if len(prompt) >= self.max_length:
                        yield item, Completion("", (), "overflow")
                        continue
                    row = self._rows.take(turn.session, asked)
                    asked[row] = item, turn
                    if not self._take(row, np.array(prompt), turn.seed, sampling.max_new_tokens):
                        fresh.append(row)
                if not asked:
                    break
                with timed("model"):
                    if fresh and (passes >= _PASSES_BETWEEN or len(fresh) == len(asked)):
                        self._begin(fresh)
                        fresh, passes = [], 0
                    ended = self._pass(np.array(sorted(asked.keys() - set(fresh))), sampling.temperature)
                    passes += 1
                for row in ended:
                    item, turn = asked.pop(row)
                    answer = self._completion(row, sampling)
                    if turn.session is None or turn.last:
                        self._rows.free([row])
                    yield item, answer
        finally:
            self._rows.free(asked)  # what is half done must not be built upon

    def _take(self, row: int, prompt: Ids, seed: int, most: int) -> int:
        """A turn of at most so many tokens for this row; how many of its prompt's the row holds."""
        # The last token is always fed: its logits are wanted.
        held = common_length(self._rows.held(row), prompt[:-1])
        if self._sharing and held < self._sharing.starts[row]:
            self._sharing = None
        self._rows.begin(row, held, prompt, seed, min(len(prompt) + most, self.max_length))
        self._guesses.learn(prompt[max(0, held - _CONTEXT) :])
        return held

    def _completion(self, row: int, sampling: Sampling) -> Completion:
        ids = self._rows.written(row).tolist()
        counted("tokens", len(ids))
        self._guesses.learn(self._rows.ids[row, max(0, self._rows.starts[row] - _CONTEXT) : self._rows.known[row]])
        with timed("tokenizer"):
            text = self.chat.text(ids)
        finish = "stop" if ids[-1] in self.ends else "length" if len(ids) == sampling.max_new_tokens else "overflow"
        return Completion(text, tuple(ids), finish)

    @torch.inference_mode()
    def _begin(self, fresh: Iterable[int]) -> None:
        """Give empty rows the beginnings of their prompts: from rows that hold them, or run once for several."""
        rows = self._rows
        if self._seen:  # of equal prompts the others follow
            fresh = {int(rows.hashes[row, rows.known[row]]): row for row in sorted(fresh, reverse=True)}.values()
        left = sorted(fresh, key=lambda row: (-rows.known[row], row))
        while left:
            first: list[int] = []
            later: list[int] = []
            for row in left:
                prompt = rows.ids[row, : rows.known[row] - 1]
                self._take_over(row, rows.holder(prompt))
                held = int(rows.lengths[row])
                # Of those that have still much in common the longest is run first.
                if any(
                    common_length(rows.ids[other, : len(prompt)], prompt) - held >= _WORTH_SHARING for other in first
                ):
                    later.append(row)
                elif held < len(prompt):
                    first.append(row)
            if not later:
                break
            pieces = self._pieces(first, less=1)
            while pieces:
                taken, pieces = _fitting(pieces, _PASS_TOKENS)
                self._run(_NONE, _NONE, _NONE, _NONE, taken)
            left = later
        self._sharing = None

    @torch.inference_mode()
    def _pass(self, going: Ids, temperature: float) -> list[int]:
        """Draw for every row that does not wait for others, in at most one forward pass; the rows whose turn ended."""
        rows = self._rows
        if self._seen:
            if ended := self._follow(self._seen, going, temperature):
                return ended
            # Rows with equal tokens would draw from the same distribution: one is fed, the others follow it.
            lacking = rows.known[going] - rows.lengths[going]
            going = going[np.argsort(lacking, kind="stable")]
            going = np.sort(going[np.unique(rows.hashes[going, rows.known[going]], return_index=True)[1]])
            for row in going[(rows.leaders[going] >= 0) & (rows.known[going] - rows.lengths[going] > 1)].tolist():
                self._take_over(row, int(rows.leaders[row]))
            rows.leaders[going] = -1
        if self._sharing and 2 * len(going) <= self._sharing.size:
            self._sharing = None  # the others have gone
        going = going[np.argsort(rows.known[going] - rows.lengths[going], kind="stable")]
        lacking = rows.known[going] - rows.lengths[going]
        reading = going[lacking > self._near]
        writing = going[(lacking <= self._near) & (np.cumsum(lacking) <= self._pass_written)]
        likely, kinds, worth = self._guess(writing)
        """Of each row that writes: what may be drawn next, and how much of it is fed in the hope of that."""
        width = int(worth.max(initial=0)) + 1
        which, steps = np.nonzero(np.arange(width - 1) < worth[:, None])
        rows.ids[writing[which], rows.known[writing[which]] + steps] = likely[which, steps]
        fed = rows.known[writing] - rows.lengths[writing] + worth
        pieces, _ = _fitting(self._pieces(reading), _PASS_TOKENS - int(fed.sum()))
        logits = self._run(going, writing, fed, worth + 1, pieces)
        drawing = np.concatenate([writing, np.array([piece.row for piece in pieces if piece.last], dtype=np.int64)])
        if not len(drawing):
            return []
        # Rows that write draw a token after each that was guessed too, the others one.
        n, counts = len(writing), np.ones(len(drawing), dtype=np.int64)
        counts[:n] += worth
        which, steps = np.nonzero(np.arange(width) < counts[:, None])
        u = uniforms(rows.seeds[drawing][which], (rows.known[drawing] - rows.starts[drawing])[which] + steps)
        drawn, cumulative = _draw(logits, temperature, u)
        if self._seen:
            after = rows.hashes[drawing, rows.known[drawing]][:, None].repeat(width, 1)
            after[:n, 1:] = rows.hash_after(writing, likely[:, : width - 1])
            self._seen.keep(after[which, steps], drawing[which], drawn, logits, cumulative)
        tokens = np.zeros((len(drawing), width), dtype=np.int64)
        tokens[which, steps] = drawn
        # A token counts where all before it in its pass were guessed rightly, up to the end of the turn.
        new = np.ones(len(drawing), dtype=np.int64)
        right = (likely[:, :width] == tokens[:n]) & (np.arange(width) < counts[:n, None])
        new[:n] += np.logical_and.accumulate(right[:, :-1] & (np.arange(width - 1) < worth[:, None]), 1).sum(1)
        self._guesses.judge(kinds[:, :width], right, new[:n])
        new = np.minimum(new, rows.limits[drawing] - rows.known[drawing])
        ends = np.isin(tokens, self.ends) & (np.arange(width) < new[:, None])
        new = np.where(ends.any(1), ends.argmax(1) + 1, new)
        rows.add(drawing, tokens, new)
        rows.lengths[drawing] = rows.known[drawing] - 1
        return drawing[ends.any(1) | (rows.known[drawing] == rows.limits[drawing])].tolist()

    def _follow(self, seen: _Seen, going: Ids, temperature: float) -> list[int]:
        """Draw what follows on tokens after which others have drawn, without a pass; the rows whose turn ended."""
        rows, ended = self._rows, []
        for _ in range(_MOST_FOLLOWED):
            known = rows.known[going]
            u = uniforms(rows.seeds[going], known - rows.starts[going]) if temperature else np.zeros(len(going))
            tokens, leaders = seen.draw(rows.hashes[going, known], u)
            there = tokens >= 0
            if not there.any():
                break
            going, tokens = going[there], tokens[there]
            rows.add(going, tokens[:, None], np.ones_like(going))
            rows.leaders[going] = leaders[there]
            counted("followed", len(going))
            end = np.isin(tokens, self.ends) | (rows.known[going] == rows.limits[going])
            ended += going[end].tolist()
            going = going[~end]
        return ended

    def _take_over(self, row: int, other: int) -> None:
        """The key-values that another row holds of this one's tokens; the last of these is to be fed anyway."""
        rows = self._rows
        held, length = rows.lengths[row], common_length(rows.held(other), rows.ids[row, : rows.known[row] - 1])
        if length > held:
            self._pool.copy(other, row, held, length)
            rows.lengths[row] = length

    def _guess(self, rows: Ids) -> tuple[Ids, Ids, Ids]:
        """What may be drawn next [len(rows), T], its kinds, and how much of it pays to be fed [len(rows)], below T."""
        known = self._rows.known[rows]
        if self.device.type != "cpu" or not len(rows):
            nothing = np.zeros((len(rows), 1), dtype=np.int64)
            return nothing, nothing, nothing[:, 0]
        places = np.maximum(known[:, None] + np.arange(-_CONTEXT, 0), 0)
        enough = _WORTH * len(rows) / (len(rows) + 15)
        likely, kinds, worth = self._guesses.after(self._rows.ids[rows[:, None], places], enough)
        return likely, kinds, np.minimum(worth, self.max_length - known)

    def _pieces(self, rows: Sequence[int] | Ids, less: int = 0) -> list[_Piece]:
        """What rows lack but for the last `less` tokens.

        Pieces of like length together (little padding); those of one row stay in order, as all but its last are full.
        """
        pieces = [
            _Piece(row, start, min(start + SEGMENT_TOKENS, end), start + SEGMENT_TOKENS >= end and not less)
            for row in map(int, rows)
            for end in [int(self._rows.known[row]) - less]
            for start in range(int(self._rows.lengths[row]), end, SEGMENT_TOKENS)
        ]
        return sorted(pieces, key=lambda piece: (piece.start - piece.end, piece.start, piece.row))

    def _run(self, going: Ids, writing: Ids, counts: Ids, drawn: Ids, pieces: Sequence[_Piece]) -> Tensor:
        """One pass over the next `counts` tokens of rows that write, and over pieces of others, which then hold these.

        The logits after the last `drawn` of each of the former, then after each piece that is its row's last [., V].
        """
        rows = self._rows
        read = np.array([(piece.row, piece.start, piece.end - piece.start) for piece in pieces], dtype=np.int64)
        read = read.reshape(-1, 3)
        next_ones = np.column_stack([writing, rows.lengths[writing], counts])
        where, starts, counts = np.concatenate([next_ones, read]).T
        if len(writing) and self._shares and (self._sharing is None or (self._sharing.starts[writing] < 0).any()):
            self._sharing = Sharing(rows.ids, going, rows.lengths[going])
        layout = Layout(
            where,
            starts,
            counts,
            together=len(writing),
            block=self._block,
            device=self.device,
            sharing=self._sharing,
        )
        self._pool.reserve(int((starts + counts).max()))
        ends = np.cumsum(counts)
        drawn = np.concatenate([drawn, np.array([piece.last for piece in pieces], dtype=np.int64)])
        keep = np.repeat(ends - drawn, drawn) + np.arange(drawn.sum()) - np.repeat(np.cumsum(drawn) - drawn, drawn)
        ids = rows.ids[np.repeat(where, counts), layout.places]
        logits = self._forward(ids, layout, keep if len(keep) else ends[-1:] - 1)
        for piece in pieces:
            rows.lengths[piece.row] = piece.end
        return logits

    def _forward(self, ids: Ids, layout: Layout, keep: Ids) -> Tensor:
        """One pass over packed tokens [N]; the logits at the indices `keep`."""
        self._pool.layout = layout
        fast = models.fast_products() if len(ids) >= _ONEDNN_FROM and self.device.type == "cpu" else nullcontext()
        with plugged_in(self._config, "ipr"), fast:
            return self.model(
                input_ids=torch.from_numpy(ids).to(self.device)[None],
                position_ids=layout.positions[None],
                past_key_values=self._pool,
                use_cache=True,
                logits_to_keep=torch.from_numpy(keep).to(self.device),
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
    """Which session owns which row of the pool, the tokens of its conversation, and how many of them are held."""

    def __init__(self, slots: int, max_length: int):
        self.slots = slots
        self.ids: Ids = np.zeros((slots, max_length), dtype=np.int64)
        self.lengths: Ids = np.zeros(slots, dtype=np.int64)
        """Tokens whose key-values the pool holds."""
        self.known: Ids = np.zeros(slots, dtype=np.int64)
        """Tokens that are there: the turn's prompt and what was drawn after it."""
        self.starts: Ids = np.zeros(slots, dtype=np.int64)
        """Where the turn's prompt ends."""
        self.limits: Ids = np.zeros(slots, dtype=np.int64)
        """Of `known`."""
        self.seeds = np.zeros(slots, dtype=np.uint64)
        self.leaders: Ids = np.full(slots, -1)
        """The row that was fed what this one drew without being fed; -1 where it was fed itself."""
        self.hashes = np.zeros((slots, max_length + 1), dtype=np.uint64)
        """Of the first n tokens: equal for equal tokens, and else with a probability of about 2**-64."""
        self._powers = np.cumprod(np.full(max_length, _RANDOM, dtype=np.uint64))
        self._of: dict[Hashable, int] = {}
        """Session -> row, the session that was idle longest first."""
        self._free = list(range(slots))
        """A heap: lowest rows first, so that neighbours in a call are neighbours in the pool."""

    def take(self, session: Hashable, busy: Container[int]) -> int:
        """The session's row, or an empty one, if need be that of a session that is not busy; not all rows are."""
        if session in self._of:
            row = self._of[session] = self._of.pop(session)
            if row in busy:
                raise ValueError("a session has one turn at a time")
            return row
        if not self._free:
            self.close(next(other for other, row in self._of.items() if row not in busy))
        row = heappop(self._free)
        self.lengths[row] = 0
        if session is not None:
            self._of[session] = row
        return row

    @property
    def idle(self) -> bool:
        return not self._of

    def begin(self, row: int, held: int, prompt: Ids, seed: int, limit: int) -> None:
        """A turn of which the row holds so many tokens."""
        self.known[row] = held
        self.add(np.array([row]), prompt[None, held:], np.array([len(prompt) - held]))
        self.lengths[row], self.leaders[row] = held, -1
        self.starts[row], self.limits[row], self.seeds[row] = len(prompt), limit, seed

    def add(self, rows: Ids, tokens: Ids, counts: Ids) -> None:
        """After what is known come the first `counts` of tokens [len(rows), T]."""
        known, after = self.known[rows], self.hash_after(rows, tokens)
        which, step = np.nonzero(np.arange(tokens.shape[1]) < counts[:, None])
        self.ids[rows[which], known[which] + step] = tokens[which, step]
        self.hashes[rows[which], known[which] + step + 1] = after[which, step]
        self.known[rows] = known + counts

    def hash_after(self, rows: Ids, tokens: Ids) -> NDArray[np.uint64]:
        """Of what is known with the first, the first two, ... of tokens [len(rows), T] after it."""
        known = self.known[rows]
        places = np.minimum(known[:, None] + np.arange(tokens.shape[1]), len(self._powers) - 1)
        weighed = (tokens + 1).astype(np.uint64) * self._powers[places]
        return self.hashes[rows, known][:, None] + np.cumsum(weighed, 1)

    def written(self, row: int) -> Ids:
        """What was drawn in the turn."""
        return self.ids[row, self.starts[row] : self.known[row]]

    def close(self, session: Hashable) -> None:
        if session in self._of:
            self.free([self._of[session]])

    def free(self, rows: Iterable[int]) -> None:
        gone = set(rows) - set(self._free)
        self._of = {session: row for session, row in self._of.items() if row not in gone}
        for row in gone:
            heappush(self._free, row)  # what it holds may still be taken over

    def forget(self) -> None:
        """What rows hold that nobody owns."""
        self.lengths[self._free] = 0

    def held(self, row: int) -> Ids:
        return self.ids[row, : self.lengths[row]]

    def holder(self, ids: Ids) -> int:
        """The row that holds most of the beginning of `ids`."""
        same = self.ids[:, : len(ids)] == ids
        common = np.where(same.all(1), len(ids), same.argmin(1)) if len(ids) else self.lengths
        return int(np.minimum(common, self.lengths).argmax())


class _Seen:
    """What was drawn from after which tokens, so that others draw from the same without a pass.

    Kept are the likeliest tokens with the piece of [0, 1) that each of them is drawn for: what falls elsewhere is not
    known. A new one takes the place of an old one by its hash.
    """

    def __init__(self):
        self._hashes = np.zeros(_SEEN, dtype=np.uint64)
        self._rows: Ids = np.zeros(_SEEN, dtype=np.int64)
        self._tokens: Ids = np.zeros((_SEEN, _LIKELIEST), dtype=np.int64)
        self._low, self._high = np.zeros((_SEEN, _LIKELIEST)), np.zeros((_SEEN, _LIKELIEST))

    def forget(self) -> None:
        self._hashes[:] = 0

    def keep(
        self, hashes: NDArray[np.uint64], rows: Ids, drawn: Ids, logits: Tensor, cumulative: Tensor | None
    ) -> None:
        """What was drawn after the tokens `hashes` [n] that `rows` were fed, from these logits, by `_draw`."""
        places = self._places(hashes)
        self._hashes[places], self._rows[places] = hashes, rows
        if cumulative is None:  # nothing else is drawn
            self._tokens[places], self._low[places], self._high[places] = drawn[:, None], 0, 1
            return
        tokens = logits.topk(min(_LIKELIEST, logits.shape[1])).indices
        low = cumulative.gather(1, (tokens - 1).clamp_(min=0)).masked_fill_(tokens == 0, 0)
        whole = cumulative[:, -1:]
        found = (tokens, low / whole, cumulative.gather(1, tokens) / whole)
        for side, new in zip((self._tokens, self._low, self._high), found, strict=True):
            side[places, : tokens.shape[1]] = new.numpy()

    def draw(self, hashes: NDArray[np.uint64], u: NDArray[np.float64]) -> tuple[Ids, Ids]:
        """Tokens for uniforms u [n], and the rows that were fed what comes before; -1 for those that are not known."""
        places = self._places(hashes)
        which = (self._low[places] <= u[:, None]) & (u[:, None] < self._high[places])
        there = (self._hashes[places] == hashes) & which.any(1)
        tokens = self._tokens[places, which.argmax(1)]
        return np.where(there, tokens, -1), np.where(there, self._rows[places], -1)

    def _places(self, hashes: NDArray[np.uint64]) -> Ids:
        return (hashes >> np.uint64(40)).astype(np.int64) % _SEEN


class _Guesses:
    """What came after the same tokens the last time that they were read or written: the same 8, or else the same 3.

    Of how many tokens, and how often that was confirmed, is a guess's kind; how often those of its kind are right is
    what is expected of it.
    """

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        self._next = np.full((len(_CONTEXTS), 1 << 17), -1)
        self._confirmed = np.zeros_like(self._next)
        self._right = np.zeros(1 + len(_CONTEXTS) * (_CONFIRMED + 1))
        """The share that is right, of late, by kind; kind 0 is no guess at all."""

    def learn(self, ids: Ids) -> None:
        kernels.learn(self._next, self._confirmed, _CONTEXTS, _HASH, _CONFIRMED, ids)

    def after(self, ids: Ids, enough: float) -> tuple[Ids, Ids, Ids]:
        """ids [n, _CONTEXT] -> guesses of what follows and their kinds [n, T]; how many are all right with that chance.

        A first one is there anyway.
        """
        likely = np.zeros((len(ids), _MOST_GUESSES + 1), dtype=np.int64)
        kinds = np.zeros_like(likely)
        return (
            likely,
            kinds,
            kernels.guesses(self._next, self._confirmed, _CONTEXTS, _HASH, self._right, ids, enough, likely, kinds),
        )

    def judge(self, kinds: Ids, right: NDArray[np.bool_], tried: Ids) -> None:
        """Of the first guesses [n, T] whether they were right, as far as they were tried [n]."""
        counts = np.arange(kinds.shape[1]) < tried[:, None]
        kinds, right = kinds[counts], right[:, : counts.shape[1]][counts]
        n = np.bincount(kinds, minlength=len(self._right))
        hits = np.bincount(kinds, right, minlength=len(self._right))
        share = np.divide(hits, n, out=self._right.copy(), where=n > 0)
        self._right += (1 - 0.97**n) * (share - self._right)
        self._right[0] = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens start to end of a row that are fed in one pass."""

    row: int
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


def draw(logits: Tensor, temperature: float, seeds: NDArray[np.uint64], index: int | Ids) -> Ids:
    """One token a row: the argmax at temperature 0, else by inverse distribution function in float64.

    logits [B, V]. Row b's uniform follows from (seeds[b], index[b]) alone, `index` being the tokens' places in their
    turns.
    """
    return _draw(logits, temperature, uniforms(seeds, index))[0]


def _draw(logits: Tensor, temperature: float, u: NDArray[np.float64]) -> tuple[Ids, Tensor | None]:
    """See `draw`; with the cumulative probabilities [B, V] that were drawn from."""
    if temperature == 0:
        return logits.argmax(-1).cpu().numpy(), None
    scaled = logits.double() if temperature == 1 else logits.double() / temperature
    cumulative = torch.softmax(scaled, -1).cumsum_(-1)
    # The first token whose cumulative probability is above u; never one of probability 0.
    above = torch.from_numpy(u).to(logits.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, above, right=True)[:, 0]
    return drawn.clamp_(max=logits.shape[-1] - 1).cpu().numpy(), cumulative


def uniforms(seeds: NDArray[np.uint64], index: int | Ids) -> NDArray[np.float64]:
    """In [0, 1): element `index` of the SplitMix64 stream that starts at each seed (Steele et al. 2014)."""
    z = seeds + np.atleast_1d(index + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * np.float64(2**-53)


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
