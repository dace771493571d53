"""A catalogue: products by row, and the search over them; in memory, or in a folder mapped into memory.

Decided here: a product is searched by its title, description, first bullet point and options, all in lower case, as in
the original, and ties of the search go to the lesser ASIN. On disk a catalogue is `products.jsonl` (one product a
line), `rows.npy` (where each line starts), the index's arrays and `catalogue.json`; nothing of it is read before it is
needed, and processes share the pages. A folder that exists is complete: it is written aside and renamed.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ipr import store
from ipr.envs.webshop import search
from ipr.envs.webshop.goods import Product
from ipr.envs.webshop.pages import MOST_RESULTS
from ipr.types import IprError

BUILDER = 4
"""Changes whenever the same products would give other files."""


class Catalogue:
    """Products by row and by search. Rows are places in the catalogue's order, from 0."""

    def __init__(self, products: Sequence[Product], index: search.Index) -> None:
        self._products = products
        self._index = index
        # Remembered: agents of a goal search alike, and every step on a results page reads its hits again.
        self.search = lru_cache(maxsize=4096)(self._search)
        self.product = products.__getitem__ if isinstance(products, list) else lru_cache(8192)(products.__getitem__)

    def __len__(self) -> int:
        return len(self._products)

    def _search(self, query: str) -> tuple[int, ...]:
        """The rows of the best products for a query, at most 50."""
        return tuple(self._index.search(query, MOST_RESULTS))


def document(product: Product) -> str:
    """What is searched."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options)
    first = product.bullets[0] if product.bullets else ""
    return " ".join((product.title, product.description, first, options)).lower()


def in_memory(products: Iterable[Product]) -> Catalogue:
    """The invented shop's catalogue; ties of its search go to the first, which is how its pages were when the base
    model learned them."""
    kept = list(products)
    return Catalogue(kept, search.build(("", document(product)) for product in kept))


def on_disk(folder: Path, products: Callable[[Path], Iterable[Product]]) -> Catalogue:
    """The catalogue in a folder, built where the folder is not there yet.

    `products` is given the folder that is being written, in which it may leave more files; what it returns is read
    once, in order. Two processes may build the same at the same time; the first to end is kept.
    """
    if not folder.is_dir():
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            _write(aside, products(aside))
            os.rename(aside, folder)
        except OSError as error:
            if not folder.is_dir():
                fix = "free space or choose another folder"
                raise IprError(f"cannot write {folder}: {error.strerror or error}; {fix}") from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return read(folder)


def read(folder: Path) -> Catalogue:
    """A catalogue that was built."""
    try:
        size = store.read_json(folder / "catalogue.json")["products"]
        return Catalogue(_Products(folder), search.Index.open(folder, size))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IprError(f"{folder}: not a complete catalogue ({error}); delete the folder, it is built anew") from None


class Writer:
    """Writes JSON lines, and then where each starts."""

    def __init__(self, file: Path, starts: Path) -> None:
        self._file, self._at, self._starts = file.open("wb"), starts, array("q", [0])

    def write(self, value: Any) -> None:
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))

    def close(self) -> int:
        """Returns the number of lines."""
        self._file.close()
        np.save(self._at, np.frombuffer(self._starts, np.int64))
        return len(self._starts) - 1


def _write(folder: Path, products: Iterable[Product]) -> None:
    writer = Writer(folder / "products.jsonl", folder / "rows.npy")

    def documents() -> Iterator[tuple[str, str]]:
        for product in products:
            writer.write(astuple(product))
            yield product.asin, document(product)

    search.build(documents(), folder)
    store.write_json(folder / "catalogue.json", {"builder": BUILDER, "products": writer.close()})


class Lines(Sequence):
    """A mapped file of JSON lines, each parsed when it is asked for. `starts` says where they start."""

    def __init__(self, file: Path, starts: Path) -> None:
        self._starts = np.load(starts, mmap_mode="r")
        with file.open("rb") as opened:
            empty = len(self._starts) == 1  # an empty file cannot be mapped
            self._file = b"" if empty else mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: Any) -> Any:
        return json.loads(self._file[self._starts[row] : self._starts[row + 1]])


class _Products(Lines):
    """The products of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "products.jsonl", folder / "rows.npy")

    def __getitem__(self, row: Any) -> Product:
        asin, title, query, department, crumbs, description, bullets, attributes, options, *rest = super().__getitem__(
            row
        )
        tag, price, nouns = rest
        kept = tuple((name, tuple(values)) for name, values in options)
        return Product(
            asin, title, query, department, crumbs, description,
            tuple(bullets), tuple(attributes), kept, tag, price, tuple(nouns),
        )  # fmt: skip
