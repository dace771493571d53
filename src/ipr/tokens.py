"""Text becomes tokens here and nowhere else: conversation -> (ids, mask).

Decided here: every turn is tokenized on its own, with what the tokenizer's chat template puts around it. So the ids of
a history are a prefix of the ids of every longer one (key-value caches of a prefix are exact), and the mask is known
without searching: the agent's words and its end-of-turn token are 1, everything else is 0.

What stands around a turn is learned once, from prompts as a server renders them: conversations that end with a user
message, up to where the agent begins to write. A template whose prompts are not the beginnings of later ones is
refused, because a rollout would then not be append-only; so is one that changes the words of a message. One that trims
a message, or drops an agent's `<think>` block, is asked what it prints of each: what is played and trained is what a
server with this template reads. Nothing that is said becomes a marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ipr.types import IprError, Message, trimmed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAID = (
    "You are in a room and see a  desk 1.\n\nYour task is to: look\tat it.",
    "Thought: I see a  desk 1.\n\nAction: look\tat desk 1",
    "Error 1054: Unknown column 'b' in \"field list\"\n  at line 2",
    "Thought: I ask again.\nAction: SELECT a -- all\n  FROM desk WHERE b < 1 & c > 2",
    "Nothing happens.",
    "Thought: I am done.\nAction: stop",
    "OK.",
)
"""What is said in an episode, user and agent in turn: every kind of blank inside, none at the ends."""

_ODD = (
    "\n a \n",
    " a\t",
    "<think>\na\n</think>\n\nb",
    "a</think>b",
    "<tool_response>\na\n</tool_response>",
    "a /think",
    "a /no_think",
    '"a"',
    "'a'",
    "a <answer>b</answer> c",
    "",
    '{"a": 1}',
    "[1]",
)
"""What some templates print otherwise, or leave out."""

_BEGINNINGS = ("I", "Thought:", "go", "1", "a")
"""Of an agent's words."""

_LONG = (
    *(f"{i}\n\n\n\n{text}    \n\n{i}\t\t{text}" for i, text in enumerate(_SAID[:5] * 20)),
    "\n".join(f"{i} looks at it, and says nothing." for i in range(2000)),
)
"""More than an episode has: turns, words in one of them, blanks and empty lines."""

_GUIDE = " (docs/your-model.md)"
_DEPENDS = ("renders a turn depending on other turns", "use one that prints each turn alike, whatever follows")

_DATED = "{% macro strftime_now(format) %}"
_CODES = ("-d", "-m", *"aAbBcdDeFHIjmMpSTxXyY")
"""Of strftime's formats."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A conversation's T ids, with their mask and messages."""

    ids: list[int]
    mask: list[int]
    """1 where the id was written by the agent, else 0."""
    message: list[int]
    """The place of the id's message in the conversation."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a template puts around the words of a message: open + words + close."""

    before: str
    """What comes before, as far as it can decide how the text after it is cut into tokens."""
    open: str
    close: str


class ChatTokens:
    """Renders conversations for one tokenizer. Raises IprError where it, or its chat template, cannot be used."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer: Any = tokenizer
        self.name = str(tokenizer.name_or_path)
        if not tokenizer.chat_template:
            raise IprError(f"tokenizer of {self.name} has no chat template; use a chat model or set one{_GUIDE}")
        # Runs of blanks are text (GPT-NeoX), and so is what stands for letters that the tokenizer lacks.
        unknown = tokenizer.unk_token if tokenizer.unk_token != tokenizer.eos_token else None
        self._markers = {
            i: token.content
            for i, token in self.tokenizer.added_tokens_decoder.items()
            if len(token.content) > 1 and not token.content.isspace() and token.content != unknown
        }
        self._known = lru_cache(maxsize=8)(self._encode)
        self._expected = lru_cache(maxsize=4)(self._markers_of)
        end = self._learn()
        self.end_id: int = self._encode(end)[0]
        """The token that ends the agent's turn (e.g. <|im_end|>), which it writes itself; generation stops at it."""
        self._verbatim = all(self._printed(text, place) == text for text in _ODD for place in range(3))
        self._user = lru_cache(maxsize=65536)(self._user_uncached)
        self._agent = lru_cache(maxsize=65536)(self._agent_uncached)
        self._check()

    def prompt(self, conversation: Sequence[Message]) -> list[int]:
        """ids of a conversation that ends with a user message, up to where the agent begins to write."""
        if conversation[-1].role != "user":
            raise ValueError("a prompt ends with a user message")
        return self.conversation(conversation).ids

    def observation(self, text: str) -> list[int]:
        """ids between the agent's end-of-turn token and where it writes again, for the environment's answer `text`."""
        return list(self._user(text, False))

    def agent(self, text: str) -> list[int]:
        """ids of the agent's words, with the end-of-turn token."""
        return list(self._agent(text))

    def conversation(self, conversation: Sequence[Message]) -> Tokenized:
        """A whole conversation: user and agent in turn, user first."""
        ids: list[int] = []
        mask: list[int] = []
        places: list[int] = []
        for i, message in enumerate(conversation):
            if message.role == "system" or (message.role == "user") != (i % 2 == 0):
                raise ValueError("a conversation is user and assistant in turn, user first")
            if message.role == "user":
                new = self._user(message.content, i == 0)
                mask += [0] * len(new)
            else:
                new = self._agent(message.content)
                mask += [1] * len(new)
            ids += new
            places += [i] * len(new)
        return Tokenized(ids, mask, places)

    def text(self, ids: Sequence[int]) -> str:
        """The agent's words for the ids that it wrote (the end-of-turn token left out)."""
        written = [i for i in ids if i != self.end_id]
        return trimmed(self.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _user_uncached(self, text: str, first: bool) -> list[int]:
        place = 0 if first else 2
        return self._turn(self._frame(place), self._said(text, place))

    def _agent_uncached(self, text: str) -> list[int]:
        return self._turn(self._answer, self._said(text, 1))

    def _said(self, text: str, place: int) -> str:
        """`text` as the template prints it there; what it does not take (some refuse an empty answer) as it is."""
        printed = None if self._verbatim else self._printed(text, place)
        return text if printed is None else printed

    def _turn(self, frame: _Frame, words: str) -> list[int]:
        ids = self._after(frame.before, frame.open + words + frame.close)
        if [i for i in ids if i in self._markers] == self._expected(frame):
            return ids
        # A marker in an environment's answer, or quoted by the agent, is text: it must not end a turn.
        opened, closed = self._after(frame.before, frame.open), self._after("\n", frame.close)
        return [*opened, *self._without_markers(words), *closed]

    def _without_markers(self, text: str) -> list[int]:
        """ids of a text in which markers, special or not, are cut after their first letter until none is read."""
        ids = self._after("\n", text)
        marker = next((self._markers[i] for i in ids if i in self._markers), None)
        if marker is None or len(text) < 2:
            return ids
        first, *others = text.split(marker)
        if not others:  # read after the tokenizer's normalization only
            middle = len(text) // 2
            return self._without_markers(text[:middle]) + self._without_markers(text[middle:])
        pieces = [first + marker[0], *(marker[1:] + other + marker[0] for other in others)]
        pieces[-1] = pieces[-1][:-1]
        return [i for piece in pieces for i in self._without_markers(piece)]

    def _markers_of(self, frame: _Frame) -> list[int]:
        return [i for i in self._after(frame.before, frame.open + frame.close) if i in self._markers]

    def _after(self, before: str, text: str) -> list[int]:
        """ids of `text` behind `before`: no blank that sentencepiece puts before a text, no line break of a marker."""
        given, ids = self._known(before), self._encode(before + text)
        return ids[len(given) :] if ids[: len(given)] == given else self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def _learn(self) -> str:
        """Set what stands around a first message, an answer and a next message; returns the end-of-turn token's text.

        A prompt of one message is FIRST ask; with an answer and another message, FIRST ask lead ANSWER close NEXT ask.
        """
        first, answer, following = _SAID[:3]
        one, two = self._render([first]), self._render([first, answer, following])
        if one.count(first) != 1 or two.count(answer) != 1 or two.count(following) != 1:
            raise self._refused(
                "changes the words of a message, or repeats them, and line breaks and blanks are part of what is said",
                "use one that prints messages as they are",
            )
        head, ask = one.split(first)
        same = _same(one, two)
        if len(head + first) <= same < len(one):
            raise self._refused(
                f"shows {one[same:]!r} before the agent writes and leaves it out of the turn once it is written",
                "take it out of the template's prompt for an answer, or keep it in every turn",
            )
        lead, rest = two[len(one) :].split(answer) if same == len(one) else ("", "")
        if not rest.endswith(following + ask):
            raise self._refused(*_DEPENDS)
        if lead.strip():
            raise self._refused(
                f"puts {lead!r} before the agent's words once they are written, which the agent was not shown",
                "put it into the template's prompt for an answer, or leave it out of every turn",
            )
        close = rest.removesuffix(following + ask)
        # With nothing after it the turn ends with the same token: the next message's marker is no end.
        last = self._render([first, answer], generate=False).rpartition(answer)[2]
        ends = self._named(close[: _same(close, last)])
        # A whole conversation may end with a token of its own (OLMo-3); the agent's turn then ends as the user's does.
        if not ends and self._named(last) and self._named(close)[:1] == self._named(ask)[:1]:
            ends = self._named(close)[:1]
        if not ends:
            raise self._refused("has no special token at the end of the agent's turn", "put one there")
        before, end, after = close.partition(ends[0])
        self._first = _Frame("", head, ask)
        self._answer = _Frame(ask, lead, before + end)
        self._next = _Frame(end, after, ask)
        return end

    def _named(self, text: str) -> list[str]:
        """The markers in a text."""
        return [self._markers[i] for i in self._encode(text) if i in self._markers]

    def _printed(self, text: str, place: int) -> str | None:
        """What the template prints of a message at place 0, 1 or 2; None where it refuses it, leaves it out or prints
        something else around it.
        """
        said, frame = [*_SAID[:place], text, *_SAID[place + 1 : 3]], self._frame(place)
        start = "".join(self._framed(i, said[i]) for i in range(place)) + frame.open
        stop = frame.close + "".join(self._framed(i, said[i]) for i in range(place + 1, 3))
        try:
            whole = self._render(said)
        except IprError:
            return None
        room = len(whole) - len(start) - len(stop)
        fits = room >= 0 and whole.startswith(start) and whole.endswith(stop)
        return whole[len(start) : len(start) + room] if fits else None

    def _check(self) -> None:
        """The template's prompts of an episode are ours, and the tokenizer gives back what it reads."""
        ours = ""
        for i, text in enumerate(_SAID):
            ours += self._framed(i, text)
            if i % 2 == 0 and self._render(_SAID[: i + 1]) != ours:
                raise self._refused(*_DEPENDS)
            if (read := self.text(self.agent(text))) != text:
                raise IprError(
                    f"tokenizer of {self.name} loses text ({text!r} becomes {read!r}); use a model whose tokenizer"
                    f" keeps blanks and line breaks{_GUIDE}"
                )
        ask, lead = self._answer.before, self._answer.open
        shown = self._known(ask)
        if any(self._encode(ask + lead + word)[: len(shown)] != shown for word in _BEGINNINGS):
            ending = "a blank" if ask[-1].isspace() else repr(ask[-1])
            raise self._refused(
                f"has a prompt that ends in {ending}, which becomes part of the agent's first word",
                "take it out of the template's prompt for an answer, and leave it in the turn",
            )
        ours = "".join(self._framed(i, text) for i, text in enumerate(_LONG))
        if self._render(_LONG) != ours:
            raise self._refused(
                "prints a long conversation otherwise than a short one, or empty lines otherwise than they are",
                "use one that cuts and folds nothing",
            )
        for text in _ODD:
            self._check_odd(text)

    def _check_odd(self, text: str) -> None:
        """The template prints it alike at every place; what it refuses, no server with it reads."""
        for n in (1, 3, 5):
            try:
                whole = self._render([text] * n)
            except IprError:
                continue
            if whole != "".join(self._framed(i, self._said(text, min(i, 2 - i % 2))) for i in range(n)):
                raise self._refused(
                    f"leaves out the message {text!r}, or prints it otherwise at one place than at another",
                    "take out what asks for its words (if message.content), or for its place",
                )

    def _frame(self, i: int) -> _Frame:
        """What stands around the i-th message of a conversation."""
        return self._answer if i % 2 else self._next if i else self._first

    def _framed(self, i: int, text: str) -> str:
        """The i-th message of a conversation with what stands around it."""
        frame = self._frame(i)
        return frame.open + text + frame.close

    def _render(self, said: Sequence[str], generate: bool = True) -> str:
        """The template's text of what is said, user first; with `generate` up to where the agent writes."""
        from jinja2 import TemplateError

        turns = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate))
        except TemplateError as error:
            raise self._refused(f"refuses a user and an agent in turn ({error})", "use another one") from None
        except Exception as error:  # whatever a template can do
            told = f"fails for a user and an agent in turn ({type(error).__name__}: {str(error).partition('. ')[0]})"
            raise self._refused(told, "mend it, or use another one") from None

    def _refused(self, why: str, fix: str) -> IprError:
        return IprError(f"chat template of {self.name} {why}; {fix}{_GUIDE}")


def coloured(chat: ChatTokens, conversation: Sequence[Message]) -> str:
    """The conversation for a terminal, with the trained tokens in green and a bar between tokens."""
    rendered = chat.conversation(conversation)
    pieces = [chat.tokenizer.decode([i]) for i in rendered.ids]
    return "".join(
        f"\x1b[{32 if trained else 90}m{piece}\x1b[0m\x1b[2m|\x1b[0m"
        for piece, trained in zip(pieces, rendered.mask, strict=True)
    )


def with_date(template: str, today: str) -> str:
    """A chat template in which today is `today` (year-month-day), wherever and whenever it is rendered.

    A template asks for the date by `strftime_now(FORMAT)`; a macro of that name goes before what is built in. One that
    has a date already keeps it.
    """
    if "strftime_now" not in template or template.startswith(_DATED):
        return template
    day = datetime.fromisoformat(today)
    filled = "".join(f"|replace('%{code}', '{day.strftime('%' + code)}')" for code in _CODES)
    # The line break is not printed: chat templates are read with trim_blocks.
    return f"{_DATED}{{{{ format{filled} }}}}{{% endmacro %}}\n{template}"


def _same(a: str, b: str) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
