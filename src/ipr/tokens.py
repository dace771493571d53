"""Text becomes tokens here and nowhere else: conversation -> (ids, mask).

Decided here: every chat message is tokenized on its own, between the markers of the tokenizer's chat template. So the
ids of a history are a prefix of the ids of every longer one (key-value caches of a prefix are exact), and the mask is
known without searching: the agent's words and its end-of-turn token are 1, everything else is 0.

The markers are learned from the chat template once and checked against it; a template whose rendering of a turn
depends on what comes later (some strip earlier thoughts) is refused, because a rollout would then not be append-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ipr.types import IprError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Tokenized:
    """ids and mask of a conversation, both of length T; mask[i] = 1 where ids[i] was written by the agent."""

    ids: list[int]
    mask: list[int]


class ChatTokens:
    """Renders conversations for one tokenizer.

    A conversation is bos, then per message: opening marker, content, closing marker. The agent's turn ends with
    `end_ids` (the first token of its closing marker, e.g. <|im_end|>), which the agent itself writes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer: Any = tokenizer
        self.name = str(tokenizer.name_or_path)
        if not tokenizer.chat_template:
            raise IprError(f"tokenizer of {self.name} has no chat template; use a chat model or set one")
        marks = _learn_marks(tokenizer)
        self._user_open, self._user_close, self._agent_open, agent_close, self._bos = marks
        close_ids = self._encode(agent_close)
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        ends = [i for i, token in enumerate(close_ids) if token in special]
        if not ends:
            raise IprError(f"chat template of {self.name} has no special token at the end of the agent's turn")
        self.end_id: int = close_ids[ends[0]]
        """The token that ends the agent's turn; generation stops at it."""
        self._before_end, self._after_end = close_ids[: ends[0]], close_ids[ends[0] + 1 :]
        self._user = lru_cache(maxsize=65536)(self._user_uncached)
        self._agent = lru_cache(maxsize=65536)(self._words)
        self._check_template()

    def prompt(self, conversation: Sequence[Message]) -> list[int]:
        """ids of a conversation that ends with a user message, up to where the agent begins to write."""
        if conversation[-1].role != "user":
            raise ValueError("a prompt ends with a user message")
        return self.conversation(conversation).ids

    def observation(self, text: str) -> list[int]:
        """ids between the agent's end-of-turn token and where it writes again, for the environment's answer `text`."""
        return self._after_end + list(self._user(text))

    def agent(self, text: str) -> list[int]:
        """ids of the agent's words, with the end-of-turn token."""
        return [*self._agent(text), *self._before_end, self.end_id]

    def conversation(self, conversation: Sequence[Message]) -> Tokenized:
        """ids and mask of a whole conversation: user and agent in turn, user first."""
        ids, mask = list(self._bos), [0] * len(self._bos)
        for i, message in enumerate(conversation):
            if message.role == "system" or (message.role == "user") != (i % 2 == 0):
                raise ValueError("a conversation is user and assistant in turn, user first")
            if message.role == "user":
                new = list(self._user(message.content)) if i == 0 else self.observation(message.content)
                mask += [0] * len(new)
            else:
                new = self.agent(message.content)
                mask += [1] * len(new)
            ids += new
        return Tokenized(ids, mask)

    def text(self, ids: Sequence[int]) -> str:
        """The agent's words for the ids that it wrote (the end-of-turn token left out)."""
        words = [i for i in ids if i != self.end_id]
        return self.tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def _user_uncached(self, text: str) -> list[int]:
        return self._encode(self._user_open) + self._words(text) + self._encode(self._user_close + self._agent_open)

    def _words(self, text: str) -> list[int]:
        # A marker in an environment's answer, or quoted by the agent, is text: it must not end a turn.
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def _check_template(self) -> None:
        turns = [("user", "first words"), ("assistant", "Thought: a\nAction: b 1"), ("user", "ok"), ("assistant", "c")]
        official = _render(self.tokenizer, [*turns, ("user", "bye")], generate=True)
        decoded = self.tokenizer.decode(
            self.prompt([Message(r, c) for r, c in [*turns, ("user", "bye")]]),  # type: ignore[arg-type]
            clean_up_tokenization_spaces=False,
        )
        # Sentencepiece tokenizers put a space before every piece of text, which is harmless.
        if "".join(decoded.split()) != "".join(official.split()):
            raise IprError(
                f"chat template of {self.name} renders a turn depending on other turns or the"
                f" tokenizer loses text (got {decoded!r}, the template says {official!r}); use another template"
            )


def coloured(chat: ChatTokens, conversation: Sequence[Message]) -> str:
    """The conversation for a terminal, with the trained tokens in green and a bar between tokens."""
    rendered = chat.conversation(conversation)
    pieces = [chat.tokenizer.decode([i]) for i in rendered.ids]
    return "".join(
        f"\x1b[{32 if trained else 90}m{piece}\x1b[0m\x1b[2m|\x1b[0m"
        for piece, trained in zip(pieces, rendered.mask, strict=True)
    )


def _render(tokenizer: Any, turns: Sequence[tuple[str, str]], generate: bool) -> str:
    conversation = [{"role": role, "content": content} for role, content in turns]
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=generate))


def _learn_marks(tokenizer: Any) -> tuple[str, str, str, str, list[int]]:
    """The text that the template puts around a user's and an agent's message, and the ids before everything."""
    u, v, a = "UUUU", "VVVV", "AAAA"
    one = _render(tokenizer, [("user", u)], generate=False)
    one_open = _render(tokenizer, [("user", u)], generate=True)
    two = _render(tokenizer, [("user", u), ("assistant", a)], generate=False)
    three = _render(tokenizer, [("user", u), ("assistant", a), ("user", v)], generate=False)
    try:
        before, user_close = one.split(u)
        agent_open = one_open.removeprefix(one)
        agent_close = two.split(a)[1]
        user_open = three.removeprefix(two).split(v)[0]
    except (ValueError, IndexError):
        raise IprError(f"chat template of {tokenizer.name_or_path} changes or repeats the messages' text") from None
    # bos, or a default system prompt, which stands before the first user message only.
    head = before.removesuffix(user_open)
    return user_open, user_close, agent_open, agent_close, tokenizer.encode(head, add_special_tokens=False)
