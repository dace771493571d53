"""The published data: a folder with `items_shuffle*.json`, `items_ins_v2*.json` and, for human goals,
`items_human_ins.json`.

Decided here: the files are read once, product by product, into a catalogue on disk (see `catalogue`), in a cache folder
named by the contents of the files, the tagger of nouns and the builder's version, so that a changed file is read anew.
Goals are the human instructions where there are any, else the synthetic ones: every combination of a product's options.
The original draws prices and price limits unseeded; here each has a seed of its own (ASIN and instruction), so they are
the same everywhere, though not the original's.

The official order is that of the products, shuffled with seed 233. By it, as in the original, goals 0 to 499 are
"test", the next 1,000 "dev", the rest "train"; with fewer than 2,000 goals test is a quarter of them at most, and with
fewer than 4,000 so is dev. Where IPR's `train_indices.json` and `test_indices.json` lie in the folder, they say what is
train and test, and dev is of the others. Its test file has 200 goals, of which 12 are in its train file: they are the
split "official-200", and parted into "clean-188" and "both-12". "seen" and "unseen" part what of test is not in train
by whether the goal's product has a train goal. Left out: images and reviews.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ipr import identity, store
from ipr.envs.checker import Difference, differences
from ipr.envs.published import both, numbers
from ipr.envs.webshop import nouns
from ipr.envs.webshop.catalogue import BUILDER, Catalogue, Lines, Writer, on_disk
from ipr.envs.webshop.expert import play, reader
from ipr.envs.webshop.goods import Goal, Product
from ipr.types import IprError, Trajectory, derive_seed

SHUFFLE_SEED = 233
"""The original's, for the order of goals."""
TEST, DEV = 500, 1000
"""Goals of the first two splits."""
TENS = [10.0 * i for i in range(1, 100)]
"""Price limits that there are, in dollars."""
NO_LIMIT = 1_000_000.0
"""The limit of what is too dear for one; the instruction then names none."""
TOLD, NONE = "@", "none"
"""What parts a goal's id from a price limit that a record tells ("goal/000012@40.00"), and where it tells none."""
UNKNOWN_PRICE = 100.0
"""What a product without a price costs."""

Human = dict[str, list[dict[str, Any]]]


class Folder:
    """The goals and the catalogue of a folder of published files."""

    def __init__(self, folder: Path, cache: Path | None = None, tagger: nouns.Tagger | None = None) -> None:
        """`cache`: where built catalogues lie, else ~/.cache/ipr/webshop. `tagger`: else the default (see `nouns`)."""
        self.files = files(folder)
        self._named = {split: folder / f"{split}_indices.json" for split in ("train", "test")}
        self._published = both(self._named.values())
        self._tagger = tagger or nouns.default()
        self._cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ipr" / "webshop"
        parts = [str(BUILDER), nouns.name(self._tagger), *(identity.file(file) for file in self.files)]
        self.key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
        """Names the built catalogue."""

    @cached_property
    def _catalogue(self) -> Catalogue:
        return on_disk(self._cache / self.key, lambda aside: _products(self.files, self._tagger, aside))

    def read(self) -> dict[str, Path]:
        """What is read, by name: the published files, and the index files where both are there."""
        return {file.name: file for file in (*self.files, *(self._named.values() if self._published else ()))}

    def catalogue(self) -> Catalogue:
        return self._catalogue

    @cached_property
    def _entries(self) -> tuple[Lines, np.ndarray, np.ndarray]:
        """Entries (instructions), how many goals there are up to and with each, and the official order of goals."""
        self.catalogue()
        folder = self._cache / self.key
        lines = Lines(folder / "goals.jsonl", folder / "goal_rows.npy")
        ends = np.load(folder / "goal_ends.npy")
        order = list(range(int(ends[-1]) if len(ends) else 0))
        random.Random(SHUFFLE_SEED).shuffle(order)
        if not order:
            fix = ", or move it away for the synthetic goals" if len(self.files) > 2 else ""
            raise IprError(
                f"{self.files[-1]} names no goal for a product of {self.files[0]}; give files of one set{fix}"
            )
        return lines, ends, np.array(order)

    @lru_cache(maxsize=8)  # noqa: B019 - one object a run
    def task_ids(self, split: str) -> list[str]:
        if split not in self._splits:
            raise IprError(f"webshop has no split '{split}'; there are {', '.join(self._splits)}")
        return [f"goal/{k:06d}" for k in self._splits[split]]

    @cached_property
    def _splits(self) -> dict[str, list[int]]:
        """The goals of every split, by their numbers in the official order."""
        lines, ends, order = self._entries
        test, dev = min(TEST, len(order) // 4), min(DEV, len(order) // 4)
        found: dict[str, list[int]] = {"train": [*range(test + dev, len(order))], "dev": [], "test": [*range(test)]}
        if published := self._published:
            found |= {s: numbers(file, len(order), "goal", _WHOLE) for s, file in self._named.items()}
        taken = {*found["train"], *found["test"]}
        found["dev"] = (
            [k for k in range(test, len(order)) if k not in taken][:dev] if published else [*range(test, test + dev)]
        )
        both = set(found["train"])
        clean = [k for k in found["test"] if k not in both]
        rows = [lines[i][0] for i in np.searchsorted(ends, order[clean], side="right")]
        trained = set(self._rows_of(order[found["train"]]))
        found |= {
            name: [k for k, row in zip(clean, rows, strict=True) if (row in trained) == (name == "seen")]
            for name in ("seen", "unseen")
        }
        if published:
            shared = [k for k in found["test"] if k in both]
            parts = {"official": found["test"], "clean": clean, "both": shared}
            found |= {f"{name}-{len(goals)}": goals for name, goals in parts.items()}
        return found

    def _rows_of(self, goals: np.ndarray) -> list[int]:
        lines, ends, _ = self._entries
        return [lines[i][0] for i in np.unique(np.searchsorted(ends, goals, side="right"))]

    @lru_cache(maxsize=8192)  # noqa: B019
    def goal(self, task_id: str) -> Goal:
        entry, number = self._entry(task_id)
        row, k, instruction, attributes, options = entry
        product = self.catalogue().product(row)
        wanted = tuple(_combination(product, number)) if options is None else tuple(options)
        _, _, told = task_id.partition(TOLD)
        limit = _limit(product, k) if not told else NO_LIMIT if told == NONE else float(told)
        return _goal(product, instruction, tuple(attributes), wanted, limit)

    def adopted(self, task_id: str, said: str) -> str:
        """The goal with the price limit that a recorded first page tells: the original's are drawn at every start."""
        found = [limit for _, limit in _SAID.findall(said)]
        limit = f"{float(found[-1]):.2f}" if found else NONE
        ours = self.goal(task_id).price_upper
        return task_id if (NONE if ours == NO_LIMIT else f"{ours:.2f}") == limit else f"{task_id}{TOLD}{limit}"

    def product(self, task_id: str) -> Product:
        """The product that a goal was made from."""
        return self.catalogue().product(self._entry(task_id)[0][0])

    def _entry(self, task_id: str) -> tuple[list[Any], int]:
        """The entry of a goal, and the goal's number among those of the entry."""
        lines, ends, order = self._entries
        found = re.fullmatch(rf"goal/([0-9]{{6,9}})(?:{TOLD}(?:[0-9]{{1,6}}\.[0-9]{{2}}|{NONE}))?", task_id)
        if not found or int(found[1]) >= len(order):
            raise IprError(
                f"'{task_id}' is no goal of this data; ids run from goal/000000 to goal/{len(order) - 1:06d}"
            )
        place = int(order[int(found[1])])
        entry = int(np.searchsorted(ends, place, side="right"))
        return lines[entry], place - int(ends[entry - 1] if entry else 0)

    def task_type(self, task_id: str) -> str:
        """The department of the goal's product."""
        return self.product(task_id).category

    def expert(self, task_id: str, max_steps: int) -> Trajectory:
        """Reads the instruction and buys (see `expert.reader`)."""
        goal = self.goal(task_id)
        return play(self.catalogue(), goal, task_id, lambda: reader(goal.instruction, max_steps), max_steps)


_SAID = re.compile(
    r"(Instruction: \[SEP\] (?:(?! \[SEP\]).)*), and price lower than ([0-9]{1,6}(?:\.[0-9]{1,2})?) dollars"
    r"(?= \[SEP\])",
    re.DOTALL,
)


def unpriced(text: str) -> str:
    """A page without the price limit that its instruction names."""
    return _SAID.sub(r"\1", text)


# Goals ---------------------------------------------------------------------------------------------------------------


def _limit(product: Product, k: int) -> float:
    """The price limit of a product's instruction k: the higher of two tens, drawn of the four next above its price."""
    limits = [ten for ten in TENS if ten > product.price][:4]
    if len(limits) < 2:
        return NO_LIMIT
    return max(random.Random(derive_seed("webshop", "limit", product.asin, k)).sample(limits, 2))


def _goal(product: Product, instruction: str, attributes: tuple[str, ...], options: tuple, limit: float) -> Goal:
    said = "" if limit == NO_LIMIT else f", and price lower than {limit:.2f} dollars"
    pairs = [f"{o[0]}: {o[1]}" for o in options if not isinstance(o, str)]
    named = f" with {', and '.join(pairs)}" if pairs else ""
    return Goal(
        instruction=f"{instruction}{named}{said}",
        asin=product.asin,
        query=product.query,
        product_category=product.product_category,
        attributes=attributes,
        options=options,
        price_upper=limit,
        nouns=product.nouns,
    )


def _combination(product: Product, number: int) -> Iterator[tuple[str, str]]:
    """A combination of options by number: names in the order of the alphabet, the last one's values change first."""
    groups = sorted(product.options)
    for i, (name, values) in enumerate(groups):
        yield name, values[number // prod(len(v) for _, v in groups[i + 1 :]) % len(values)]


# Reading -------------------------------------------------------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    """Products, attributes and, where there is one, human instructions of a folder."""
    if not folder.is_dir():
        raise IprError(f"{folder}: no such folder; give the one with items_shuffle.json of the WebShop data")
    products = sorted(folder.glob("items_shuffle*.json"), key=lambda p: (len(p.name), p.name))
    if not products:
        raise IprError(f"{folder} holds no items_shuffle*.json; give the folder of the WebShop data")
    kind = products[0].stem.removeprefix("items_shuffle")
    attributes = [p for p in (folder / f"items_ins_v2{kind}.json", folder / "items_ins_v2.json") if p.is_file()]
    if not attributes:
        raise IprError(f"{folder} holds no items_ins_v2{kind}.json, which belongs to {products[0].name}; fetch it too")
    human = folder / "items_human_ins.json"
    return [products[0], attributes[0], *([human] if human.is_file() else [])]


_WHOLE = (
    "it belongs to all products with their human instructions (items_shuffle.json, items_ins_v2.json,"
    " items_human_ins.json); fetch them, or remove it"
)


def _products(found: list[Path], tagger: nouns.Tagger, aside: Path) -> Iterator[Product]:
    """The products in the files' order; leaves the goals' entries in the folder."""
    file, told, *_ = found
    about = _by_asin(told, dict, raw=True)
    human: Human = _by_asin(found[2], list) if len(found) > 2 else {}
    instructions = {asin: list(_human(found[2], asin, entries)) for asin, entries in human.items()}
    synthetic = not any(instructions.values())
    writer = Writer(aside / "goals.jsonl", aside / "goal_rows.npy")
    seen: set[str] = set()
    counts: list[int] = []
    for number, (_, record) in enumerate(members(file)):
        try:
            asin = record["asin"]
            if asin == "nan" or len(asin) > 10 or asin in seen:
                continue
            own = json.loads(about.get(asin, "{}"))
            product = _product(record, own.get("attributes"), tagger)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise IprError(
                f"{file}: product {number} is not of the published form ({why}); fetch the file anew"
            ) from None
        entries = _synthetic(own) if synthetic else instructions.get(asin, [])
        for k, (instruction, attributes, options) in enumerate(entries):
            writer.write([len(seen), k, instruction, attributes, options])
            counts.append(prod(len(values) for _, values in product.options) if options is None else 1)
        seen.add(asin)
        yield product
    writer.close()
    np.save(aside / "goal_ends.npy", np.cumsum(np.array(counts, np.int64)))


def _by_asin(file: Path, kind: type, raw: bool = False) -> dict[str, Any]:
    """The entries of a file by ASIN, or their texts, which take less memory."""
    found = {}
    for asin, value in members(file, raw):
        if not asin or (value[:1] != "{" if raw else not isinstance(value, kind)):
            raise IprError(f"{file}: entry {len(found)} is not of the published form; fetch the file anew")
        found[asin] = value
    return found


Instruction = tuple[str, list[str], list[str] | None]
"""Text, attributes, options (None: each combination of the product's)."""


def _synthetic(own: dict[str, Any]) -> list[Instruction]:
    """A product's synthetic instruction, where it has one."""
    if own.get("instruction") and own.get("instruction_attributes"):
        return [(own["instruction"], own["instruction_attributes"], None)]
    return []


def _human(file: Path, asin: str, entries: list[dict[str, Any]]) -> Iterator[Instruction]:
    """A product's human instructions; such without attributes are left out, as in the original."""
    for entry in entries:
        try:
            if entry["instruction_attributes"]:
                said = entry["instruction"].strip(".")
                yield said, _texts(entry, "instruction_attributes"), _texts(entry, "instruction_options")
        except (KeyError, TypeError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise IprError(f"{file}: {asin} is not of the published form ({why}); fetch the file anew") from None


def _texts(entry: dict[str, Any], key: str) -> list[str]:
    value = entry[key]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"'{key}' is no list of texts")
    return value


def _product(record: dict[str, Any], attributes: list[str] | None, tagger: nouns.Tagger) -> Product:
    """A record of the products' file as a product."""
    title, bullets = record["name"], record["small_description"]
    bullets = [b for b in (bullets if isinstance(bullets, list) else [bullets]) if b is not None]
    described = record["full_description"] or ""
    for text in (title, record["category"], record["product_category"], described, *bullets):
        if not isinstance(text, str):
            raise TypeError(f"{text!r:.40} is no text")
    prices = [float(n) for n in map(_number, (record.get("pricing") or "").split("$")[1:]) if n][:2] or [UNKNOWN_PRICE]
    price = prices[0]
    if len(prices) == 2:
        price = random.Random(derive_seed("webshop", "price", record["asin"])).uniform(*prices)
    options = {  # names that are the same in lower case are one option: the first's place, the last's values
        name.lower(): tuple(v["value"].strip().replace("/", " | ").lower() for v in values)
        for name, values in (record.get("customization_options") or {}).items()
        if values is not None
    }
    return Product(
        asin=record["asin"],
        title=title,
        query=record["query"].lower().strip(),
        category=record["category"],
        product_category=record["product_category"],
        description=described,
        bullets=tuple(bullets),
        attributes=tuple(attributes or ()),
        options=tuple(options.items()),
        price_tag=" to ".join(f"${price}" for price in prices),
        price=price,
        nouns=tuple(tagger(title)),
    )


def _number(text: str) -> str:
    return re.sub(r"[^\d.]", "", text)


CHUNK = 1 << 24
"""Characters read at a time."""
LONGEST = 1 << 26
"""Characters; no single record is longer, so one that does not end within them is broken."""


def members(file: Path, raw: bool = False) -> Iterator[tuple[str, Any]]:
    """The members of a file that holds one JSON array or object, one after the other: key ("" in an array) and value,
    or the value's text. Only a part of the file is in memory."""
    decoder = json.JSONDecoder()
    try:
        with file.open(encoding=store.encoding_of(file)) as opened:
            buffer, at = "", 0

            def peek() -> str:
                nonlocal buffer, at
                while True:
                    while at < len(buffer) and buffer[at] in " \t\r\n,:":
                        at += 1
                    if at < len(buffer):
                        return buffer[at]
                    buffer, at = opened.read(CHUNK), 0
                    if not buffer:
                        raise ValueError("it ends too early")

            def value() -> tuple[Any, str]:
                nonlocal buffer, at
                peek()
                while True:
                    try:
                        found, end = decoder.raw_decode(buffer, at)
                        text, at = buffer[at:end] if raw else "", end
                        return found, text
                    except ValueError:
                        more = opened.read(CHUNK) if len(buffer) - at < LONGEST else ""
                        if not more:
                            raise
                        buffer, at = buffer[at:] + more, 0

            opening = peek()
            if opening not in "[{":
                raise ValueError("it is neither a list nor an object")
            at += 1
            while peek() not in "]}":
                key = value()[0] if opening == "{" else ""
                found, text = value()
                yield key, text if raw else found
    except OSError as error:
        raise IprError(f"{file}: {error.strerror}; give the folder of the WebShop data") from None
    except ValueError as error:
        raise IprError(f"{file} is not readable JSON ({error}); fetch the file anew") from None


# Checking ------------------------------------------------------------------------------------------------------------


def check_data(
    folder: Path, most: int = 2000, cache: Path | None = None, say: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """Builds the catalogue of a folder and lets the expert play the first `most` goals in the official order.

    What the environment does not give back of an expert's episode is in `differences`. `reward_1` counts purchases with
    the full reward, `not_bought` episodes without a purchase. `say` is told what is being done.
    """
    from ipr.envs.webshop.world import Shop

    data, tell = Folder(folder, cache), say or (lambda _: None)
    tell(f"catalogue {data.key}")
    size, ids = len(data.catalogue()), [i for split in ("test", "dev", "train") for i in data.task_ids(split)]
    env, rewards, steps, seconds, bought, found = Shop(data), [], 0, 0.0, 0, list[Difference]()
    for task_id in ids[:most]:
        played = data.expert(task_id, 10)
        rewards.append(played.reward)
        bought += played.ending == "terminated"
        start = time.process_time()
        found += differences(env, played)
        seconds, steps = seconds + time.process_time() - start, steps + len(played.steps)
    return {
        "products": size,
        "goals": len(rewards),
        "of": len(ids),
        "mean_reward": sum(rewards) / len(rewards),
        "reward_1": sum(reward == 1 for reward in rewards),
        "steps_per_s": round(steps / seconds) if seconds else 0,
        "not_bought": len(rewards) - bought,
        "differences": [difference._asdict() for difference in found],
    }
