"""Plays given words: fakes the agent so that the world and the loops around it can be tested for real."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from ipr.types import Completion, Message, Sampling, Turn

Script = Callable[[tuple[Message, ...], int], str]
"""(conversation, the turn's seed) -> the agent's words."""


class ScriptedPolicy:
    """`script` is a function, or a mapping from a text that stands in an episode's first observation to its actions.

    The last action of a mapping's list is repeated when the episode goes on. Remembers what it was asked, for tests.
    """

    def __init__(self, script: Script | Mapping[str, Sequence[str]], name: str = "scripted"):
        self.name = name
        self._script = script if callable(script) else _by_text(script)
        self.batches: list[list[Turn]] = []
        """The turns of every call."""
        self.closed: list[Hashable] = []
        """The sessions that were closed, in order."""

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        self.batches.append(list(turns))
        return [Completion(self._script(turn.conversation, turn.seed), (), "stop") for turn in turns]

    def close_session(self, session: Hashable) -> None:
        self.closed.append(session)


def _by_text(actions: Mapping[str, Sequence[str]]) -> Script:
    def script(conversation: tuple[Message, ...], seed: int) -> str:
        for i, message in enumerate(conversation):
            for text, words in actions.items():
                if message.role == "user" and text in message.content:
                    taken = sum(m.role == "assistant" for m in conversation[i:])
                    return words[min(taken, len(words) - 1)]
        raise LookupError(f"the script knows nothing that stands in {conversation!r}")

    return script
