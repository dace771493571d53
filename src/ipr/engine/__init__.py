"""Token ids in, token ids out: what every engine is asked and answers, and our own one. README.md beside this file says
how ours works.

Decided here: one request and one answer for our engine (`batching`), for vLLM and for a server, so who renders chats
(`ipr.policies.chat`) knows none of them. Left out: messages, texts, templates, a run's settings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One turn that is to be written. Two of the same content are two requests."""

    prompt: Sequence[int]
    """Ids, not empty."""
    max_new_tokens: int
    """The turn ends with so many at the latest. 0 is answered with none; else they fit behind the prompt into the
    engine's `max_length`."""
    seed: int = 0
    """Alone decides the sampled tokens, together with the prompt; never what is decoded beside it. In [0, 2**64)."""
    session: Hashable = None
    """An engine may keep the key-values of a session's earlier turns; None: keep nothing."""
    last: bool = False
    """Nobody will come back to this session after this turn."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The answer to a request."""

    ids: tuple[int, ...]
    """What was written, with the token that ends the turn."""
    finish: Literal["stop", "length"]
    """"stop": a token that ends a turn was written; "length": as many as were asked for, and none that ends it."""


Answers = Generator[tuple[Request, Generated], None, None]


class Engine(Protocol):
    """Anything that writes on from token ids."""

    max_length: int
    """Most tokens of a prompt and what is written after it."""
    slots: int
    """Requests that are written at the same time; others wait."""

    @property
    def ends(self) -> Sequence[int]:
        """Tokens that end a turn."""
        ...

    def stream(self, waiting: deque[Request], temperature: float) -> Answers:
        """Takes requests from the left of `waiting` as it has room; yields each with its answer as soon as it is there.

        Whoever iterates may add requests meanwhile. It ends where none is left; closed before, what is half done is
        dropped. A session has one request at a time, else ValueError. Temperature 0 is greedy.
        """
        ...

    def close_session(self, session: Hashable) -> None:
        """Forget a session's key-values (nothing happens for an unknown one)."""
        ...


def generate(engine: Engine, requests: Sequence[Request], temperature: float) -> list[Generated]:
    """The answers to all, in their order. Raises ValueError where a session is named twice."""
    named = [request.session for request in requests if request.session is not None]
    if len(set(named)) < len(named):
        raise ValueError("a session has one turn in a call")
    found = dict(engine.stream(deque(requests), temperature))
    return [found[request] for request in requests]
