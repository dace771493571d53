"""The experts' thoughts, which only tests read."""

from __future__ import annotations

import re

_ACTION = re.compile(r"\baction\s*:", re.IGNORECASE)
_THOUGHT = re.compile(r"^\s*thought\s*:", re.IGNORECASE)


def thought_of(text: str) -> str:
    """The thought of a turn, stripped; "" when there is none."""
    head = _ACTION.split(text, maxsplit=1)[0]
    found = _THOUGHT.match(head)
    return head[found.end() :].strip() if found else ""
