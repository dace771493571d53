"""Any causal language model of transformers as a policy: tokens in, tokens out, key-values kept between the turns.

Decided here: the key-values of all sessions lie in one pool, a row a session. A turn feeds only what its row does not
hold yet, so a fork costs a copy: a new session takes over the longest beginning that any row holds, and what several
new ones begin with is run once. Nobody waits for anybody: each pass feeds the next token of every row that writes and
the new tokens of those whose turn has come (`stream`). All tokens of a pass are packed into one sequence, with an
attention of our own (`attention`). Tokens are drawn from counter-based uniforms, so a sample depends on (conversation,
seed) and not on its neighbours in the batch. On a CPU, of rows that have come to the same tokens one is fed and the
others draw from what it got (`Seen`), rows that write read together what they have in common (`Sharing`), and after
each row's last token what will probably be drawn next is fed in the same pass (`Guesses`): a guess that is right saves
a pass, a wrong one is overwritten, and no token depends on it.

Memory is bounded by slots * max_length tokens; of more sessions than slots the one that was idle longest loses its row
and is run again from its text when it comes back. Left out: models whose attention cannot be plugged in, or that carry
a state which is no key-value (they are refused); beams, top-k and top-p (no stage uses them).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipr import models
from ipr.config import ModelConfig, RolloutConfig
from ipr.engine.attention import SEGMENT_TOKENS, Ids, Layout, Pool, Sharing, common_length
from ipr.engine.kernels import TILE
from ipr.engine.rows import (
    Guesses,
    Rows,
    Seen,
    Texts,
    accept,
    chances,
    different,
    follow,
    guess,
    keep,
    uniforms,
)
from ipr.models import plug
from ipr.models.plug import pluggable, plugged_in
from ipr.profiling import count as counted
from ipr.profiling import timed
from ipr.tokens import ChatTokens
from ipr.types import Completion, IprError, Sampling, Turn

T = TypeVar("T")

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
_NONE: Ids = np.zeros(0, dtype=np.int64)
_PASSES_BETWEEN = 8
"""Passes that new sessions wait while others write: to begin some changes what all share, which takes a while."""
_ONEDNN_FROM = 32
"""Tokens of a pass from which oneDNN's matrix products are faster than MKL's (see `plug.fast_products`)."""


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
        self.ends = np.array(sorted(ends(getattr(model, "generation_config", None), self.chat)))
        """Tokens that end a turn."""
        self._texts = Texts.empty(slots, self.max_length)
        self._rows = Rows(self._texts)
        self._guesses = Guesses.empty()
        self._block = 1 if self.device.type == "cpu" else slots
        self._seen = Seen.empty() if self.device.type == "cpu" else None
        self._shares = self.device.type == "cpu" and (kv_dtype or model.dtype) == model.dtype == torch.float32
        self._pool = Pool(slots, self.max_length, kv_dtype, self.device, TILE if self._shares else 1)
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
        held = common_length(self._texts.held(row), prompt[:-1])
        if self._sharing and held < self._sharing.starts[row]:
            self._sharing = None
        limit = min(len(prompt) + most, self.max_length)
        self._texts.begin(row, held, prompt, seed, limit, self._guesses)
        return held

    def _completion(self, row: int, sampling: Sampling) -> Completion:
        ids = self._texts.written(row).tolist()
        counted("tokens", len(ids))
        with timed("tokenizer"):
            text = self.chat.text(ids)
        finish = "stop" if ids[-1] in self.ends else "length" if len(ids) == sampling.max_new_tokens else "overflow"
        return Completion(text, tuple(ids), finish)

    @torch.inference_mode()
    def _begin(self, fresh: Iterable[int]) -> None:
        """Give empty rows the beginnings of their prompts: from rows that hold them, or run once for several."""
        texts = self._texts
        if self._seen:  # of equal prompts the others follow
            fresh = {int(texts.hashes[row, texts.known[row]]): row for row in sorted(fresh, reverse=True)}.values()
        left = sorted(fresh, key=lambda row: (-texts.known[row], row))
        while left:
            first: list[int] = []
            later: list[int] = []
            for row in left:
                prompt = texts.ids[row, : texts.known[row] - 1]
                self._take_over(row, texts.holder(prompt))
                held = int(texts.lengths[row])
                # Of those that have still much in common the longest is run first.
                if any(
                    common_length(texts.ids[other, : len(prompt)], prompt) - held >= _WORTH_SHARING for other in first
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
        texts = self._texts
        if self._seen:
            ended, followed = follow(texts, going, self._seen, temperature > 0, self.ends)
            counted("followed", followed)
            if ended.any():
                return going[ended].tolist()
            # Rows with equal tokens would draw from the same distribution: one is fed, the others follow it.
            going = different(texts, going)
            for row in going[(texts.leaders[going] >= 0) & (texts.lacking(going) > 1)].tolist():
                self._take_over(row, int(texts.leaders[row]))
            texts.leaders[going] = -1
        if self._sharing and 2 * len(going) <= self._sharing.size:
            self._sharing = None  # the others have gone
        lacking = texts.lacking(going)
        order = np.argsort(lacking, kind="stable")
        going, lacking = going[order], lacking[order]
        near = (lacking <= self._near) & (np.cumsum(lacking) <= self._pass_written)
        writing, reading = going[near], going[lacking > self._near]
        enough = _WORTH * len(writing) / (len(writing) + 15) if self.device.type == "cpu" else np.inf
        likely, kinds, worth = guess(texts, writing, self._guesses, enough)
        fed = lacking[near] + worth
        pieces, _ = _fitting(self._pieces(reading), _PASS_TOKENS - int(fed.sum()))
        logits = self._run(going, writing, fed, worth + 1, pieces)
        read = np.array([piece.row for piece in pieces if piece.last], dtype=np.int64)
        drawing, worth = np.concatenate([writing, read]), np.concatenate([worth, np.zeros_like(read)])
        if not len(drawing):
            return []
        # Rows that write draw a token after each that was guessed too.
        drawn, cumulative = _draw(logits, temperature, chances(texts, drawing, worth))
        if self._seen:
            drawn_from = np.empty((len(drawn), 0)) if cumulative is None else cumulative.numpy()
            keep(texts, drawing, self._seen, likely, worth, drawn, drawn_from)
        ended = accept(texts, drawing, self._guesses, likely, kinds, worth, drawn, self.ends)
        return drawing[ended].tolist()

    def _take_over(self, row: int, other: int) -> None:
        """The key-values that another row holds of this one's tokens; the last of these is to be fed anyway."""
        texts = self._texts
        held, length = texts.lengths[row], common_length(texts.held(other), texts.ids[row, : texts.known[row] - 1])
        if length > held:
            self._pool.copy(other, row, held, length)
            texts.lengths[row] = length

    def _pieces(self, rows: Sequence[int] | Ids, less: int = 0) -> list[_Piece]:
        """What rows lack but for the last `less` tokens.

        Pieces of like length together (little padding); those of one row stay in order, as all but its last are full.
        """
        pieces = [
            _Piece(row, start, min(start + SEGMENT_TOKENS, end), start + SEGMENT_TOKENS >= end and not less)
            for row in map(int, rows)
            for end in [int(self._texts.known[row]) - less]
            for start in range(int(self._texts.lengths[row]), end, SEGMENT_TOKENS)
        ]
        return sorted(pieces, key=lambda piece: (piece.start - piece.end, piece.start, piece.row))

    def _run(self, going: Ids, writing: Ids, counts: Ids, drawn: Ids, pieces: Sequence[_Piece]) -> Tensor:
        """One pass over the next `counts` tokens of rows that write, and over pieces of others, which then hold these.

        The logits after the last `drawn` of each of the former, then after each piece that is its row's last [., V].
        """
        texts = self._texts
        read = np.array([(piece.row, piece.start, piece.end - piece.start) for piece in pieces], dtype=np.int64)
        read = read.reshape(-1, 3)
        next_ones = np.column_stack([writing, texts.lengths[writing], counts])
        where, starts, counts = np.concatenate([next_ones, read]).T
        if len(writing) and self._shares and (self._sharing is None or (self._sharing.starts[writing] < 0).any()):
            self._sharing = Sharing(texts.ids, going, texts.lengths[going])
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
        wanted = np.repeat(ends - drawn, drawn) + np.arange(drawn.sum()) - np.repeat(np.cumsum(drawn) - drawn, drawn)
        ids = texts.ids[np.repeat(where, counts), layout.places]
        logits = self._forward(ids, layout, wanted if len(wanted) else ends[-1:] - 1)
        for piece in pieces:
            texts.lengths[piece.row] = piece.end
        return logits

    def _forward(self, ids: Ids, layout: Layout, keep: Ids) -> Tensor:
        """One pass over packed tokens [N]; the logits at the indices `keep`."""
        self._pool.layout = layout
        fast = plug.fast_products() if len(ids) >= _ONEDNN_FROM and self.device.type == "cpu" else nullcontext()
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
        models.load_tokenizer(path, model.date),
        name,
        max_length=model.max_length,
        slots=rollout.slots,
        kv_dtype=torch.bfloat16 if rollout.kv_dtype == "bfloat16" else None,
    )


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
