"""Text <-> tokens, over any engine: conversations are rendered here, and what is written becomes text again.

Decided here: the prompt's tokens are ours (`ChatTokens`), so every engine sees the same ones, and no server's chat
template has a say. What a turn may still write is known before it is asked for: a full context is answered here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing
from typing import Any

from ipr.engine import Engine, Generated, Request, generate
from ipr.profiling import count, timed
from ipr.tokens import ChatTokens
from ipr.types import Completion, Sampling, Turn


class ChatPolicy:
    """The model of `engine` in chats of `chat`'s template; no conversation grows over the engine's `max_length`."""

    def __init__(self, engine: Engine, chat: ChatTokens, name: str):
        self.engine, self.chat, self.name = engine, chat, name

    @property
    def slots(self) -> int:
        """More episodes at a time than these would push each other out."""
        return self.engine.slots

    def close_session(self, session: Hashable) -> None:
        self.engine.close_session(session)

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        """The next turn of every conversation.

        Raises ValueError where a session is named twice or a conversation does not end with a user message, IprError
        where the engine is a server that does not answer.
        """
        requests = [self._request(turn, sampling) for turn in turns]
        found = generate(self.engine, requests, sampling.temperature)
        return [self._completion(generated, sampling) for generated in found]

    def stream(self, waiting: deque[Turn], sampling: Sampling) -> Iterator[tuple[Turn, Completion]]:
        """See `ipr.types.Streaming`. Raises as `generate` does."""
        asked: dict[Request, Turn] = {}
        requests: deque[Request] = deque()

        def render() -> None:
            while waiting:
                turn = waiting.popleft()
                requests.append(self._request(turn, sampling))
                asked[requests[-1]] = turn

        render()
        with closing(self.engine.stream(requests, sampling.temperature)) as answers:
            for request, generated in answers:
                yield asked.pop(request), self._completion(generated, sampling)
                render()

    def _request(self, turn: Turn, sampling: Sampling) -> Request:
        with timed("tokenizer"):
            prompt = self.chat.prompt(turn.conversation)
        room = max(0, min(sampling.max_new_tokens, self.engine.max_length - len(prompt)))
        return Request(prompt, room, turn.seed, turn.session, turn.last)

    def _completion(self, generated: Generated, sampling: Sampling) -> Completion:
        count("tokens", len(generated.ids))
        if not generated.ids:
            return Completion("", (), "overflow")
        with timed("tokenizer"):
            text = self.chat.text(generated.ids)
        full = generated.finish == "length" and len(generated.ids) < sampling.max_new_tokens
        return Completion(text, generated.ids, "overflow" if full else generated.finish)


def end_tokens(chat: ChatTokens, generation_config: Any = None) -> list[int]:
    """Tokens that end a turn: the template's, and what tokenizer and model call the end. Sorted."""
    configured = getattr(generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return sorted({chat.end_id, *(i for i in (chat.tokenizer.eos_token_id, *several) if i is not None)})
