"""What of a statement stands outside of quotes, for whoever reads it before sqlglot does, or instead."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MARK = re.compile(r"['\"`;,()]")
_ENDS = {"'": re.compile(r"\\.|'", re.DOTALL), '"': re.compile(r'\\.|"', re.DOTALL), "`": re.compile("`")}


class Quotes:
    """Reads a text that may come in pieces."""

    open = ""
    """The quote that is open where the text ends so far."""
    start = 0
    """Where the last quote begins in its piece."""

    def outside(self, text: str) -> Iterator[tuple[int, str]]:
        """Place and mark of every ";", ",", "(" and ")" outside of quotes. A doubled quote closes and opens again."""
        at = 0
        while found := (_ENDS[self.open] if self.open else _MARK).search(text, at):
            at = found.end()
            if self.open:
                self.open = "" if found[0] == self.open else self.open
            elif found[0] in _ENDS:
                self.open, self.start = found[0], found.start()
            else:
                yield found.start(), found[0]
