"""The shop's search: BM25 with Lucene's arithmetic, in numpy, over arrays that may lie on disk.

    score(q, d) = sum over terms t of q: w - w / (1 + tf / (k1 (1 - b + b |d| / avgdl))),  w = idf(t)
    idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))

Decided here: every posting's summand is worked out when the index is built (float32, as Lucene computes it, with the
document's length kept as Lucene keeps it: one lossy byte), so that a query only adds them up. A term that the query
repeats counts as often; ties go to the lesser name, as in the original (Pyserini's default), of equal names to the
document that comes first. An index is five arrays; on disk each is a plain .npy file, mapped into memory and so shared
by all processes. Left out: changing an index once built.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ipr.envs.webshop.analysis import terms, words

K1, B = 0.9, 0.4
"""BM25's parameters, as the original search engine (Pyserini) sets them."""
BLOCK = 20_000
"""Documents that are read before their postings are put away; bounds the memory of building."""

_FILES = ("terms", "offsets", "docs", "impacts", "ranks")


class Index:
    """An inverted index. `terms`: sorted 64-bit hashes; term i's postings are docs[offsets[i]:offsets[i + 1]]. `ranks`:
    where each document comes among equally good ones."""

    def __init__(self, size: int, arrays: dict[str, np.ndarray]) -> None:
        self.size = size
        """Documents."""
        # A plain array view of a memory map costs less per slice than the map itself.
        found = (np.asarray(arrays[name]) for name in _FILES)
        self._terms, self._offsets, self._docs, self._impacts, self._ranks = found

    @classmethod
    def open(cls, folder: Path, size: int) -> Index:
        return cls(size, {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FILES})

    def search(self, query: str, most: int) -> list[int]:
        """The best documents, best first, at most so many; only such that hold a term of the query."""
        scores = np.zeros(self.size)
        found = False
        for term, count in Counter(terms(query)).items():
            i = int(np.searchsorted(self._terms, key := np.uint64(_hash(term))))
            if i < len(self._terms) and self._terms[i] == key:
                postings = slice(self._offsets[i], self._offsets[i + 1])
                scores[self._docs[postings]] += count * self._impacts[postings]
                found = True
        return _best(scores.astype(np.float32), self._ranks, most) if found else []


def _best(scores: np.ndarray, ranks: np.ndarray, most: int) -> list[int]:
    """Places of the highest positive scores, highest first, ties by rank."""
    if most < len(scores):
        least = np.partition(scores, len(scores) - most)[len(scores) - most]
        places = np.flatnonzero(scores >= least) if least > 0 else np.flatnonzero(scores > 0)
    else:
        places = np.flatnonzero(scores > 0)
    order = np.lexsort((ranks[places], -scores[places]))[:most]
    return places[order].tolist()


def build(documents: Iterable[tuple[str, str]], folder: Path | None = None) -> Index:
    """The index of some documents (name, text), read once, one after the other. With a folder it is written there
    (about 8 bytes a posting) and mapped, and little more than names and vocabulary are held in memory."""
    lengths: list[np.ndarray] = []
    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    spare: list[Path] = []

    def keep(array: np.ndarray) -> np.ndarray:
        if folder is None:
            return array
        spare.append(folder / f"part-{len(spare)}.npy")
        np.save(spare[-1], array)
        return np.load(spare[-1], mmap_mode="r")

    names: list[str] = []

    def texts() -> Iterator[str]:
        for name, text in documents:
            names.append(name)
            yield text

    vocabulary = _Vocabulary()
    for block, sizes in _read(texts(), vocabulary):
        blocks.append((keep(block[0]), keep(block[1]), keep(block[2])))
        lengths.append(sizes)
    arrays = _merge(blocks, np.concatenate([*lengths, np.zeros(0, np.int64)]), vocabulary.hashes(), folder)
    ranks = arrays["ranks"] = _maker(folder)("ranks", len(names), np.int32)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    for array in arrays.values():
        if isinstance(array, np.memmap):
            array.flush()
    for file in spare:
        file.unlink()
    return Index(len(names), arrays)


class _Vocabulary:
    """Numbers of terms, in order of appearance."""

    MOST = 2_000_000
    """Words remembered as written, with the number of their term; then forgotten and learned anew."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}
        self.written: dict[str, int] = {}

    def learn(self, word: str) -> int:
        """The number of a word's term, -1 for a stop word."""
        if len(self.written) >= self.MOST:
            self.written.clear()
        found = terms(word)
        number = self.number.setdefault(found[0], len(self.number)) if found else -1
        self.written[word] = number
        return number

    def hashes(self) -> np.ndarray:
        return np.fromiter((_hash(term) for term in self.number), np.uint64, len(self.number))


_Block = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Postings sorted by term, then document: term numbers, documents, frequencies."""


def _read(texts: Iterable[str], vocabulary: _Vocabulary) -> Iterable[tuple[_Block, np.ndarray]]:
    """Blocks of postings, each with its documents' lengths in terms."""
    first, numbers, lengths = 0, [], []

    def block() -> tuple[_Block, np.ndarray]:
        sizes = np.array(lengths, np.int64)
        term = np.fromiter(numbers, np.int64, len(numbers))
        doc = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
        pairs, frequency = np.unique(term * len(sizes) + doc, return_counts=True)
        term, doc = np.divmod(pairs, len(sizes))
        return (term.astype(np.int32), (doc + first).astype(np.int32), frequency.astype(np.int32)), sizes

    get, learn = vocabulary.written.get, vocabulary.learn
    for text in texts:
        before = len(numbers)
        for word in words(text):
            number = get(word)
            if number is None:
                number = learn(word)
            if number >= 0:
                numbers.append(number)
        lengths.append(len(numbers) - before)
        if len(lengths) == BLOCK:
            yield block()
            first, numbers, lengths = first + BLOCK, [], []
    if lengths:
        yield block()


def _merge(blocks: list[_Block], lengths: np.ndarray, hashes: np.ndarray, folder: Path | None) -> dict[str, np.ndarray]:
    """The index's arrays, filled block by block."""
    frequency = np.zeros(len(hashes), np.int64)
    for terms_of, _, _ in blocks:
        frequency += np.bincount(terms_of, minlength=len(hashes))
    order = np.argsort(hashes)
    offsets = np.zeros(len(hashes) + 1, np.int64)
    np.cumsum(frequency[order], out=offsets[1:])
    place = np.empty(len(hashes), np.int64)  # where the next posting of a term goes
    place[order] = offsets[:-1]

    count = int(np.count_nonzero(lengths))
    idf = np.log(1 + (count - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
    norms = _norms(lengths, count)
    new = _maker(folder)
    arrays = {
        "terms": new("terms", len(hashes), np.uint64),
        "offsets": new("offsets", len(offsets), np.int64),
        "docs": new("docs", int(offsets[-1]), np.int32),
        "impacts": new("impacts", int(offsets[-1]), np.float32),
    }
    arrays["terms"][:], arrays["offsets"][:] = hashes[order], offsets
    for terms_of, docs, tf in blocks:
        starts = np.flatnonzero(np.diff(terms_of, prepend=-1))
        runs = np.diff(starts, append=len(terms_of))
        ranks = np.arange(len(terms_of)) - np.repeat(starts, runs)
        at = place[terms_of] + ranks
        place[terms_of[starts]] += runs
        w = idf[terms_of]
        arrays["docs"][at] = docs
        arrays["impacts"][at] = w - w / (np.float32(1) + tf.astype(np.float32) * norms[docs])
    return arrays


def _maker(folder: Path | None) -> Callable[[str, int, type], np.ndarray]:
    def new(name: str, size: int, kind: type) -> np.ndarray:
        if folder is None or not size:  # an empty file cannot be mapped
            array = np.zeros(size, kind)
            if folder is not None:
                np.save(folder / f"{name}.npy", array)
            return array
        return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(size,))

    return new


def _norms(lengths: np.ndarray, count: int) -> np.ndarray:
    """1 / (k1 (1 - b + b |d| / avgdl)) of each document, in float32 as Lucene has it."""
    average = np.float32(lengths.sum() / max(count, 1))
    k1, b, one = np.float32(K1), np.float32(B), np.float32(1)
    kept = kept_length(lengths).astype(np.float32)
    return one / (k1 * ((one - b) + b * kept / (average or one)))


def kept_length(lengths: np.ndarray) -> np.ndarray:
    """A document's length as one byte of Lucene's gives it back: exact below 40, then four significant bits."""
    over = np.maximum(np.asarray(lengths, np.int64) - 24, 0)
    shift = np.maximum(np.frexp(over.astype(np.float64))[1] - 4, 0)  # bits beyond the first four
    return np.minimum(lengths, 24) + ((over >> shift) << shift)


def _hash(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
