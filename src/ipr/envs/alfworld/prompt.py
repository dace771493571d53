"""What an ALFWorld agent is told, once, before the first observation."""

from __future__ import annotations

from ipr.types import Message

_INSTRUCTION = """You are in a household and solve a task step by step. Each turn, write two lines:
Thought: why you act
Action: one action
Actions: go to R, open R, close R, take O from R, {put}, clean O with R, heat O with R, cool O with R, \
slice O with O, use O, examine X, look, inventory.
R is a receptacle and O an object, with their numbers. What is not possible is answered with "Nothing happens.\""""


PUT = "put {o} in/on {r}"
"""The template for putting something down, of the generated world and of data 2.1.1."""


def prompt(put: str = PUT) -> tuple[Message, ...]:
    """The instruction; `put` is the wording's template for putting something down."""
    words = _INSTRUCTION.format(put=put.format(o="O", r="R"))
    # A user turn that the agent acknowledges: chat templates without a system role take it too.
    return Message("user", words), Message("assistant", "OK")
