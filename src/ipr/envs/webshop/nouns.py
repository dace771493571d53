"""The nouns of a title, on which the reward's title score rests.

Decided here: a tagger is a function, title -> nouns in lower case, in order, duplicates kept, that runs once for each
product when a catalogue is built. The original uses spaCy with an English model; where the user has both installed,
so do we. Otherwise `rule` stands in: the words of letters that are no function words, no common adjectives, verbs or
measures, and do not end like an adjective or adverb. It needs no model and is the same everywhere; its title scores are
near to, not equal to, the tagger's. `name` says which one is meant, and is part of a catalogue's key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, cached_property
from importlib import metadata
from importlib.util import find_spec
from typing import Any

Tagger = Callable[[str], list[str]]

MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_trf")
"""spaCy's English models, the original's first."""

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_OTHERS = """
    a about above across after all an and any are as at be been before below best between both but by can do does each
    easy every few for free from full get great has have her high his how i if in inside into is it its just keep less
    like long low made make makes many me more most much my new no non not of off old on one only or our out outside
    over own perfect per please set she short so some such than that the their them then there these they this those
    through to too top ultra under until up us use used using very was we well what when where which while who will
    with without you your

    amazing anti authentic basic beautiful big black blue bold brand bright brown casual cheap classic clean clear
    cold comfortable comfy cool cozy cute daily dark deep different double dry durable elegant extra fancy fast fine
    fit flat fresh genuine gentle gold good gray green grey handmade happy hard healthy heavy hot huge large light
    lightweight loose luxury male mini modern multi natural nice official orange organic original pink plain plus
    portable premium pro professional proof pure purple quick real red regular rich round safe simple single slim
    small smart smooth soft solid special square standard steady strong super sweet tall thick thin tight tiny triple
    true unique unisex vintage warm wet white wide wild wireless yellow young

    cm count dozen feet foot ft gram grams inch inches kg lb lbs liter liters mm ml ounce ounces oz pcs pound pounds
    large medium small xl xxl
"""
_OTHER = frozenset(_OTHERS.split())
_ENDINGS = ("able", "ible", "less", "ful", "ous", "ly", "ish", "proof", "free", "ized", "ated", "ted", "red", "ned")


def rule(title: str) -> list[str]:
    """The documented stand-in (see the module)."""
    found = (word.lower().split("'")[0].split("\u2019")[0] for word in _WORD.findall(title))
    return [word for word in found if len(word) > 1 and word not in _OTHER and not _adjective(word)]


def _adjective(word: str) -> bool:
    return len(word) > 5 and word.endswith(_ENDINGS)


def name(tagger: Tagger) -> str:
    """What a tagger is called in a catalogue's key."""
    return getattr(tagger, "name", getattr(tagger, "__qualname__", type(tagger).__qualname__))


@cache
def default() -> Tagger:
    """spaCy's tagger where it is installed with a model, else the rule."""
    if find_spec("spacy") is None:
        return rule
    model = next((model for model in MODELS if find_spec(model) is not None), None)
    return rule if model is None else Spacy(model)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a folder on the path
        return ""


class Spacy:
    """Words that spaCy tags as nouns or proper nouns."""

    def __init__(self, model: str) -> None:
        # Its tags decide rewards, and change with either.
        self.name = ":".join(("spacy", model, _version(model), _version("spacy")))
        self._model = model

    @cached_property
    def _nlp(self) -> Any:
        """Loading takes seconds, and only building needs it."""
        import spacy  # pyright: ignore[reportMissingImports]

        return spacy.load(self._model)

    def __call__(self, title: str) -> list[str]:
        return [token.text.lower() for token in self._nlp(title) if token.pos_ in ("NOUN", "PROPN")]
