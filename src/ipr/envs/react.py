"""The form in which an agent writes a turn: "Thought: ...\\nAction: ..." (ReAct). Read and written here only.

Decided here: the action is everything after the last "Action:" (any case), so that a model may think aloud as long as
it likes; an answer without "Action:" is malformed, and so is one with nothing after it. Left out: repairing anything.
"""

from __future__ import annotations

import re

_ACTION = re.compile(r"\baction\s*:", re.IGNORECASE)


def compose(thought: str, action: str) -> str:
    """A turn in ReAct form."""
    return f"Thought: {thought}\nAction: {action}"


def action_of(text: str) -> str | None:
    """The action of a turn, stripped; None when the turn is malformed."""
    parts = _ACTION.split(text)
    return (parts[-1].strip() or None) if len(parts) > 1 else None


def one_line(action: str) -> str:
    """An action of plain words as an engine reads it: first line, lower case, single blanks, no quotes or end stops."""
    line = action.strip().split("\n", 1)[0]
    return " ".join(line.lower().split()).strip("\"'`*[]<> ").rstrip(".!,;: \"'`")
