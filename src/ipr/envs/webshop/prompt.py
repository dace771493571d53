"""What a WebShop agent is told, once, before the first observation."""

from __future__ import annotations

from ipr.types import Message

_INSTRUCTION = """You shop in a web shop in text form. Find a product that fits the instruction, choose its options \
and buy it. Each turn, write two lines:
Thought: why you act
Action: one action
Actions: search[words], click[button].
Any page can search. A button is what the page shows between [SEP] marks: a product's code, an option's value, \
Next >, < Prev, Back to Search, Description, Features, Reviews, Buy Now. Anything else leaves the page as it is. \
Buy Now ends the task."""


def prompt() -> tuple[Message, ...]:
    # A user turn that the agent acknowledges: chat templates without a system role take it too.
    return Message("user", _INSTRUCTION), Message("assistant", "OK")
