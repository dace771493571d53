"""How far a statement goes along a grammar: the first word with which no statement of the grammar goes on.

Decided here: a grammar is read as it stands, first alternative first, and what may be repeated or left out is taken
where it is there (a parsing expression grammar); every rule is tried at a place once. The farthest word that was looked
at in vain is where an LALR parser of the same grammar, as MySQL has one, stops too.

A grammar has a line "name = ..." a rule, with "|" between alternatives, "(...)", "?" and "*" behind what may be left
out or repeated, and "%" behind what may be repeated with commas; names in lower case are rules, all else words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

Words = Sequence[frozenset[str]]
_PART = re.compile(r"\s*(?:'([^']+)'|(\w+)|([()|?*%]))")


class _Run:
    """One statement's."""

    __slots__ = ("far", "known", "words")

    def __init__(self, words: Words) -> None:
        self.words = words
        self.far = 0
        self.known: dict[tuple[str, int], int] = {}


Match = Callable[[_Run, int], int]
"""From a place to that behind what matches there, or -1."""


class Grammar:
    """A grammar, ready to recognise."""

    def __init__(self, text: str, start: str) -> None:
        lines = [line for line in re.sub(r"\n +", " ", text).splitlines() if line]
        self._trees = {name.strip(): _tree(rule) for name, rule in (line.split("=", 1) for line in lines)}
        self._firsts: dict[str, tuple[frozenset[str], bool]] = dict.fromkeys(self._trees, (frozenset(), False))
        while True:
            found = {name: self._first(tree) for name, tree in self._trees.items()}
            if found == self._firsts:
                break
            self._firsts = found
        self._rules = {name: self._made(tree) for name, tree in self._trees.items()}
        self._start = self._made(("name", start))

    def stops(self, words: Words) -> int | None:
        """The place of the first word that is wrong there; None for a statement of the grammar."""
        run = _Run(words)
        return run.far if self._start(run, 0) < 0 else None

    def _first(self, tree: Any) -> tuple[frozenset[str], bool]:
        """With what it can begin, and whether it can be nothing."""
        kind, *parts = tree
        match kind:
            case "name":
                return self._firsts.get(parts[0], (frozenset(parts), False))
            case "either":
                found = [self._first(part) for part in parts]
                return frozenset().union(*(f for f, _ in found)), any(nothing for _, nothing in found)
            case "then":
                first: frozenset[str] = frozenset()
                for part in parts:
                    more, nothing = self._first(part)
                    first |= more
                    if not nothing:
                        return first, False
                return first, True
            case "%":
                return self._first(parts[0])
        return self._first(parts[0])[0], True

    def _made(self, tree: Any) -> Match:
        kind, *parts = tree
        match kind:
            case "name":
                return self._rule(parts[0]) if parts[0] in self._trees else _word(parts[0])
            case "either":
                return _either([(self._made(p), *self._first(p)) for p in parts])
            case "then":
                return _then([self._made(p) for p in parts])
            case "?":
                return _maybe(self._made(parts[0]))
            case "*":
                return _many(self._made(parts[0]))
        return self._made(("then", parts[0], ("*", ("then", ("name", ","), parts[0]))))

    def _rule(self, name: str) -> Match:
        def match(run: _Run, at: int) -> int:
            key = (name, at)
            found = run.known.get(key)
            if found is None:
                found = run.known[key] = self._rules[name](run, at)
            return found

        return match


def _word(word: str) -> Match:
    def match(run: _Run, at: int) -> int:
        if word in run.words[at]:
            return at + 1
        run.far = max(run.far, at)
        return -1

    return match


def _then(parts: list[Match]) -> Match:
    def match(run: _Run, at: int) -> int:
        for part in parts:
            at = part(run, at)
            if at < 0:
                return -1
        return at

    return match


def _either(parts: list[tuple[Match, frozenset[str], bool]]) -> Match:
    """Looks only at alternatives that can begin with the word."""
    chosen: dict[frozenset[str], list[Match]] = {}

    def match(run: _Run, at: int) -> int:
        kinds = run.words[at]
        ways = chosen.get(kinds)
        if ways is None:
            ways = chosen[kinds] = [part for part, first, nothing in parts if nothing or not first.isdisjoint(kinds)]
        for way in ways:
            found = way(run, at)
            if found >= 0:
                return found
        run.far = max(run.far, at)
        return -1

    return match


def _maybe(part: Match) -> Match:
    def match(run: _Run, at: int) -> int:
        found = part(run, at)
        return at if found < 0 else found

    return match


def _many(part: Match) -> Match:
    def match(run: _Run, at: int) -> int:
        while True:
            found = part(run, at)
            if found < 0:
                return at
            at = found

    return match


def _tree(rule: str) -> Any:
    parts = [m.groups() for m in _PART.finditer(rule)]
    tree, rest = _alternatives(parts)
    assert not rest, rule
    return tree


def _alternatives(parts: list[Any]) -> tuple[Any, list[Any]]:
    ways: list[Any] = [["then"]]
    while parts and parts[0][2] != ")":
        (sign, name, mark), *parts = parts
        if mark == "(":
            inner, parts = _alternatives(parts)
            assert parts[0][2] == ")", parts
            parts = parts[1:]
            ways[-1].append(inner)
        elif mark == "|":
            ways.append(["then"])
        elif mark:
            ways[-1].append((mark, ways[-1].pop()))
        else:
            ways[-1].append(("name", sign or name))
    made = [way[1] if len(way) == 2 else tuple(way) for way in ways]
    return made[0] if len(made) == 1 else ("either", *made), parts
