"""Search: Porter's pairs, Lucene's words and lengths, BM25 against a plain one, indexes in memory and on disk."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ipr.envs.webshop import search
from ipr.envs.webshop.analysis import terms, words
from ipr.envs.webshop.porter import stem
from tests.envs import lucene

# From the tables of Porter's paper, and words of the shop.
PAIRS = """
caresses caress ponies poni ties ti cats cat feed feed agreed agre plastered plaster bled bled motoring motor sing sing
conflated conflat troubled troubl sized size hopping hop tanned tan falling fall hissing hiss fizzed fizz failing fail
filing file happy happi sky sky relational relat conditional condit rational ration valenci valenc hesitanci hesit
digitizer digit conformabli conform radicalli radic differentli differ vileli vile analogousli analog
vietnamization vietnam predication predic operator oper feudalism feudal decisiveness decis hopefulness hope
callousness callous formaliti formal sensitiviti sensit sensibiliti sensibl triplicate triplic formative form
formalize formal electriciti electr electrical electr hopeful hope goodness good revival reviv allowance allow
inference infer airliner airlin gyroscopic gyroscop adjustable adjust defensible defens irritant irrit
replacement replac adjustment adjust dependent depend adoption adopt homologou homolog communism commun activate activ
angulariti angular homologous homolog effective effect bowdlerize bowdler probate probat rate rate cease ceas
controll control roll roll generalizations gener oscillators oscil apology apolog possibly possibl shoes shoe
dresses dress is is by by
"""


def test_the_published_stems() -> None:
    flat = PAIRS.split()
    assert len(flat) > 150
    assert [(w, stem(w)) for w in flat[::2]] == list(zip(flat[::2], flat[1::2], strict=True))


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ('16" x 16", wi-fi', ["16", "x", "16", "wi", "fi"]),
        ("women's 1,000 U.S.A. 5:30 a:b x_y", ["women's", "1,000", "U.S.A", "5", "30", "a:b", "x_y"]),
        ("3d..5 100% ''hi'' don't'", ["3d", "5", "100", "hi", "don't"]),
        ("caf\xe9 \xbd cup Valentine\u2018s", ["caf\xe9", "cup", "Valentine\u2018s"]),
        ("\u6f22\u5b57 \u30ab\u30bf\u30ab\u30ca", ["\u6f22", "\u5b57", "\u30ab\u30bf\u30ab\u30ca"]),
        (
            "Sock\u00ae \u2714\ufe0fsoft \u2605\u2605 5\u2122",
            ["Sock", "\u00ae", "\u2714\ufe0f", "soft", "\u2605", "\u2605", "5", "\u2122"],
        ),
        (
            "\U0001f44d\U0001f3fd \U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467!",
            ["\U0001f44d\U0001f3fd", "\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467"],
        ),
        ("\U0001f1fa\U0001f1f8\U0001f1e9\U0001f1ea\U0001f1eb", ["\U0001f1fa\U0001f1f8", "\U0001f1e9\U0001f1ea"]),
        ("#\ufe0f\u20e3 3\u20e3x *", ["#\ufe0f\u20e3", "3\u20e3x"]),
        ("\u263a\ufe0e \u2022 \u25cf \u27a4 \u3010a\u3011", ["\u263a", "a"]),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f", ["\U0001f3f4\U000e0067\U000e0062\U000e007f"]),
        (
            "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \uff13\uff24 \u24b6b",
            ["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\uff13\uff24", "\u24b6b"],
        ),
        ("a" * 300, ["a" * 255, "a" * 45]),
        ("", []),
    ],
)
def test_words(text: str, cut: list[str]) -> None:
    assert words(text) == cut


def test_ascii_texts_are_cut_the_same_by_both_expressions() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        text = "".join(rng.choice("ab3_.,:;'- ") for _ in range(12))
        assert words(text) == words(text + " \u00bd"), text


def test_emoji_are_terms_and_count_in_the_length() -> None:
    """The second text is longer than the first by two terms, so that the same words weigh less in it."""
    assert terms("\u2705 Shoes\u2122") == ["\u2705", "shoe", "\u2122"]
    index = indexed(["red shoe \u2705\u2122", "red shoe !!"])
    assert index.search("shoe", 9) == [1, 0]
    assert index.search("\u2705", 9) == [0]


def indexed(texts: list[str], folder: Path | None = None) -> search.Index:
    return search.build((("", text) for text in texts), folder)


def test_terms() -> None:
    assert terms("The Women's running shoes are for running") == ["women", "run", "shoe", "run"]
    assert terms("the and of") == []


def test_terms_and_the_best_are_those_of_lucene() -> None:
    """As the official shop's engine answered (`tests.envs.lucene`)."""
    rows = [json.loads(line) for line in lucene.RECORD.read_text().splitlines()]
    index = search.build(lucene.documents())
    assert len(rows) == 650
    for row in rows:
        if "text" in row:
            assert terms(row["text"]) == row["terms"], ascii(row["text"])
        else:
            assert index.search(row["query"], 50) == row["best"], row["query"]


def exact_length(length: int) -> int:
    """Lucene's byte of a length, decoded, by the description: 24 exact values, then 4 significant bits."""
    over = length - 24
    if over < 16:
        return length
    shift = over.bit_length() - 4
    return 24 + ((over >> shift) << shift)


def test_lengths_are_kept_in_a_byte() -> None:
    lengths = [*range(3000), 10**5, 10**6]
    kept = search.kept_length(np.array(lengths)).tolist()
    assert kept == [exact_length(n) for n in lengths]
    assert (kept[39], kept[40], kept[41], kept[42]) == (39, 40, 40, 42)
    assert len(set(kept[:3000])) == 100


def plain(texts: list[str], query: str, most: int) -> list[int]:
    """BM25 as it is written down, slowly."""
    docs = [Counter(terms(text)) for text in texts]
    lengths = [sum(doc.values()) for doc in docs]
    count = sum(n > 0 for n in lengths)
    average = sum(lengths) / count
    found = []
    for i, doc in enumerate(docs):
        total = 0.0
        for term in terms(query):
            if doc[term]:
                df = sum(term in other for other in docs)
                idf = math.log(1 + (count - df + 0.5) / (df + 0.5))
                norm = 0.9 * (0.6 + 0.4 * exact_length(lengths[i]) / average)
                total += idf * doc[term] / (doc[term] + norm)
        if total:
            found.append((-np.float32(round(total, 5)), i))
    return [i for _, i in sorted(found)[:most]]


@pytest.fixture
def texts() -> list[str]:
    rng = random.Random(1)
    vocabulary = [f"w{i}" for i in range(100)]
    weights = [1 / (i + 1) for i in range(100)]
    return [" ".join(rng.choices(vocabulary, weights, k=rng.randint(0, 80))) for _ in range(150)]


def test_the_best_are_those_of_plain_bm25(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = indexed(texts)
    monkeypatch.setattr(search, "BLOCK", 37)  # several blocks, the last not full
    blocks, disk = indexed(texts), indexed(texts, tmp_path)
    opened = search.Index.open(tmp_path, len(texts))
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["docs", "impacts", "offsets", "ranks", "terms"]
    rng = random.Random(3)
    for _ in range(30):
        query = " ".join(rng.choices([f"w{i}" for i in range(110)], k=rng.randint(1, 6)))
        best = whole.search(query, 20)
        assert best == blocks.search(query, 20) == disk.search(query, 20) == opened.search(query, 20)
        assert best == plain(texts, query, 20), query


def test_ties_go_by_name_then_to_the_first_document() -> None:
    texts = ["red shoe", "blue hat", "red shoe", "red shoe"]
    index = indexed(texts)
    assert index.search("shoes", 2) == [0, 2]
    assert index.search("shoes", 9) == [0, 2, 3]
    index = search.build(zip(["B2", "B0", "B10", "B1"], texts, strict=True))
    assert index.search("shoes", 2) == [3, 2]
    assert index.search("shoes", 9) == [3, 2, 0]


def test_nothing_to_find(tmp_path: Path) -> None:
    index = indexed(["red shoe", "", "the"])
    for query in ("", "the", "hats", "\x00", "\ud83d"):
        assert index.search(query, 50) == []
    assert index.search("SHOE'S", 50) == [0]
    assert indexed([]).search("shoe", 5) == []
    indexed([], tmp_path)
    assert search.Index.open(tmp_path, 0).search("shoe", 5) == []
