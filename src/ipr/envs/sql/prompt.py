"""What an InterCodeSQL agent is told, once, before the first observation."""

from __future__ import annotations

from ipr.types import Message

HELP = (
    "Answer with a line 'Thought: ...' and then 'Action: ', followed by one SQL statement in a ```sql block, or submit."
)
"""What a turn is answered that holds no action."""

_INSTRUCTION = """You answer a question about a MySQL database that you have not seen. Each turn, write:
Thought: why you act
Action: one SQL statement in a ```sql block, or submit
You may read only: SHOW TABLES, DESC table, SELECT. The rows are shown to you, cut where they are long. The rows of \
your last statement are the answer, in their columns and their order: when they are right, write Action: submit"""


def prompt() -> tuple[Message, ...]:
    # A user turn that the agent acknowledges: chat templates without a system role take it too.
    return Message("user", _INSTRUCTION), Message("assistant", "OK")
