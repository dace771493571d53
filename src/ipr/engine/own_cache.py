"""Any causal language model of transformers by its own cache: for those whose attention ours cannot replace.

Decided here: whether our engine can play a model is found by doing it (`lacks`), not by its name. What it cannot play
is written one request after the other by the model's own forward: slower, the same tokens for the same seeds. A
session's cache is kept as long as its next prompt goes on from it, and only where reading in pieces gives what reading
at once gives (`_goes_on`); else every token reads everything anew. Left out: batches, forks, drafts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipr.engine import Answers, Generated, Request, kv, sampling
from ipr.engine.batching import TransformersEngine
from ipr.models import plug
from ipr.profiling import timed
from ipr.types import IprError

_TRIAL = ([5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 7, 13, 9, 10])


@dataclass(slots=True)
class _Read:
    """What a session's cache holds."""

    ids: list[int]
    cache: Any
    """None where nothing was read."""
    positions: int
    """See `plug.positions`."""


class OwnCacheEngine:
    """An `Engine`; of more sessions than `slots` the one that was idle longest is read anew."""

    def __init__(self, model: Any, ends: Sequence[int], *, max_length: int, slots: int):
        self.model, self.ends, self.max_length, self.slots = model.eval(), list(ends), max_length, slots
        self._config = plug.own_config(model)
        self._keeps = _goes_on(model)
        if self._keeps and (room := kv.free(model.device)) is not None:
            self.slots = kv.fitting(slots, room, max_length, model, model.dtype)
        self._sessions: dict[Hashable, _Read] = {}
        """That which was idle longest first."""

    def close_session(self, session: Hashable) -> None:
        self._sessions.pop(session, None)

    def stream(self, waiting: deque[Request], temperature: float) -> Answers:
        """See `Engine.stream`."""
        while waiting:
            request = waiting.popleft()
            if not request.max_new_tokens:
                yield request, Generated((), "length")
                continue
            if (length := len(request.prompt) + request.max_new_tokens) > self.max_length:
                raise ValueError(f"{length} tokens do not fit into {self.max_length}")
            with timed("model"):
                answer = self._write(request, temperature)
            yield request, answer

    @torch.inference_mode()
    def _write(self, request: Request, temperature: float) -> Generated:
        known, seeds = list(request.prompt), np.array([request.seed], dtype=np.uint64)
        # Taken out: what is half done must not be built upon.
        read = self._sessions.pop(request.session, None) or _Read([], None, 0)
        while True:
            now = plug.positions(self._config, len(known))
            if not (now == read.positions and len(read.ids) < len(known) and known[: len(read.ids)] == read.ids):
                read = _Read([], None, now)
            logits, cache = plug.go_on(self.model, known[len(read.ids) :], read.cache, keep=self._keeps)
            if self._keeps:
                read = _Read(list(known), cache, now)
            u = sampling.uniforms(seeds, len(known) - len(request.prompt))
            known.append(int(sampling.draw(logits[-1:], temperature, u)[0][0]))
            ended = known[-1] in self.ends
            if ended or len(known) == len(request.prompt) + request.max_new_tokens:
                break
        if request.session is not None and not request.last:
            self._sessions[request.session] = read
            if len(self._sessions) > self.slots:
                self._sessions.pop(next(iter(self._sessions)))
        return Generated(tuple(known[len(request.prompt) :]), "stop" if ended else "length")


@torch.inference_mode()
def lacks(model: Any, max_length: int) -> str | None:
    """Why our engine cannot play this model with conversations of so many tokens; None where it can: tried on a few.

    Raises what the model itself raises where it cannot even be run, and IprError where what it gives is no number.
    """
    config = plug.own_config(model)
    rows = [[i % config.get_text_config().vocab_size for i in row] for row in _TRIAL]
    with plug.short_windows(model, max_length):
        alone = [plug.go_on(model, row, None, keep=False)[0][-1] for row in rows]
        if any(logits.isnan().any() for logits in alone):
            raise sampling.no_numbers(f"this {config.model_type} model", alone[0].dtype)
        if not plug.pluggable(model):
            return f"no attention of ours can take the place of {config.model_type}'s own"
        if plug.scaled(config, max_length):
            return f"its positions are scaled by a conversation's length ({plug.rope(config)[0]})"
        try:
            engine = TransformersEngine(model, [], max_length=len(_TRIAL[0]), slots=2)
            found = engine.read(rows)
        except IprError as error:
            return str(error)
        except Exception as error:  # whatever it is, the model's own cache is left
            return f"our attention fails in it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    if all(map(_near, found, alone)):
        return None
    return "its own attention gives other results than ours"


@torch.inference_mode()
def looks_ahead(model: Any) -> bool:
    """Whether what the model says of a token depends on later ones, as an encoder's does (BERT, XLNet)."""
    given = [plug.go_on(model, row, None, keep=False)[0] for row in _TRIAL]
    same = next(i for i, (a, b) in enumerate(zip(*_TRIAL, strict=False)) if a != b)
    return not _near(given[0][:same], given[1][:same])


@torch.inference_mode()
def _goes_on(model: Any) -> bool:
    """Whether reading in pieces, by the model's own cache, gives what reading at once gives."""
    row = [i % plug.own_config(model).get_text_config().vocab_size for i in _TRIAL[0]]
    whole, _ = plug.go_on(model, row, None, keep=False)
    try:
        cache: Any = None
        for piece in (row[:3], row[3:6], row[6:7], row[7:]):
            logits, cache = plug.go_on(model, piece, cache, keep=True)
            if cache is None:
                return False
    except Exception:  # of a cache of its own kind, which is not asked for again
        return False
    return _near(logits[-1], whole[-1])


def _near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= torch.finfo(b.dtype).eps ** 0.5 / 2 * b.abs().max())
