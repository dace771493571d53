"""The two wordings of the data: what was recorded with one, said in the other.

Decided here: what differs and can be met in a record is the command that puts something down, the answer to it, and
what is said on arrival (see `engine.Wording`). The first two are translated; the third is dropped, since older records
say "You arrive at loc 5." where newer ones name the receptacle, and what follows says it again. Left out: `help`.
"""

from __future__ import annotations

import re

_PUT = re.compile(r"\b(?:put|move) (the )?(\w+ \d+) (?:in/on|to) (the )?(\w+ \d+)\b")
_ARRIVE = re.compile(r"\bYou arrive at \w+ \d+\. (?=On the |The )")


def reword(text: str, put: str) -> str:
    """A turn or an observation with `put`, a wording's template such as "move {o} to {r}", and without the arrival."""

    def said(found: re.Match[str]) -> str:
        the_o, o, the_r, r = found.groups(default="")
        return put.format(o=the_o + o, r=the_r + r)

    return _PUT.sub(said, _ARRIVE.sub("", text))
