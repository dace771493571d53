"""What a result is called by: digests of all that decides it, and of nothing else. They are computed here alone.

Decided here: an identity is a dictionary of named parts, so that a refusal can say what differs, and its digest. In it
is what can change an observation, a prompt, a token or a reward: what is in the files of data and model (never where
they are), the prompt, limits, sampling and number types, the code of a method, a loss or a backend that a package adds
(an environment has a version), and the releases of the libraries that cut text into tokens and run the model. Left out:
what only says how much is computed at once (workers, slots, shards, micro batches) and on which device, which moves
nothing but roundings; and servers, trackers and caches, which move nothing.
A file is read once: its digest is kept with its path, size and times, but not where it has changed a moment ago.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ipr import algorithms
from ipr.config import RunConfig, TrainConfig, flat
from ipr.types import EnvSpec, IprError, Job, Sampling, plugged_modules

RULES = 1
"""Of rendering, drawing, scoring and training; changes whenever `ipr` itself makes something else of the same."""
LIBRARIES = ("tokenizers", "torch", "transformers")
"""Their releases (major and minor version) decide: templates, tokens and models, and what dropout draws."""

_NOTHING: Any = {
    "endpoint": True,
    "track": True,
    "data": True,
    "alerts": True,
    "run": True,
    "machine": True,
    "rollout": {"endpoint", "vllm", "workers", "scheduler", "slots", "shard"},
    "algorithm": {"cache"},
    "model": {"device"},
    "sft": {"micro_batch_tokens", "checkpoint_every"},
    "train": {"micro_batch_tokens", "checkpoint_every"},
}
"""Keys of the config that decide nothing."""
MEANT = ("env.data", "env.experts", "env.max_steps", "env.server", "env.shots", "model.path")
"""Keys that stand for something else, which counts: the content of a place, a prompt, a limit."""


def digest(value: Any) -> str:
    """Of anything that JSON can hold; the order of keys is nothing."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The parts in which two identities differ, each as "name: before -> now"."""
    keys = [key for key in dict(before) | dict(now) if before.get(key) != now.get(key)]
    return [f"{key}: {_short(before.get(key))} -> {_short(now.get(key))}" for key in keys]


# What is read ---------------------------------------------------------------------------------------------------------


def contents(files: Mapping[str, Path]) -> str:
    """Of the bytes of files, each under a name that does not tell where it is. Raises IprError where one is missing."""
    return digest(_digests(files))


def folder(path: Path) -> dict[str, Path]:
    """All files of a folder, for `contents`."""
    return {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}


def file(path: Path) -> str:
    """Of one file's bytes. Raises IprError where it is missing."""
    return _digests({"": path})[""]


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    fresh: list[tuple[str, str, str]] = []
    places = {name: str(path.resolve()) for name, path in files.items()}
    known = _remembered([*places.values()])
    for name, path in files.items():
        try:
            about = path.stat()
            mark = f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
            if (place := places[name]) in known and known[place][0] == mark:
                found[name] = known[place][1]
                continue
            with path.open("rb") as opened:
                found[name] = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise IprError(f"{path}: {error.strerror or error}; restore it") from None
        if time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) > _SETTLED:
            fresh.append((place, mark, found[name]))
    if fresh:
        with contextlib.suppress(*_NO_MEMO), _memo() as memo:
            memo.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", fresh)
    return found


_SETTLED = 2_000_000_000
"""Nanoseconds: a file that changed within these may change again and look the same."""


def _remembered(places: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Path -> mark and digest, of the files that were read before; none where that cannot be told."""
    known: dict[str, tuple[str, str]] = {}
    with contextlib.suppress(*_NO_MEMO), _memo() as memo:
        for first in range(0, len(places), 500):
            asked = places[first : first + 500]
            rows = memo.execute(f"SELECT * FROM files WHERE path IN ({','.join('?' * len(asked))})", asked)
            known |= {path: (mark, digest) for path, mark, digest in rows}
    return known


_NO_MEMO = (OSError, sqlite3.Error, MemoryError)
"""Where what was read before is not to be had. (SQLite's limit of memory is the whole process's, see `envs.sql`.)"""


@contextlib.contextmanager
def _memo() -> Iterator[sqlite3.Connection]:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ipr" / "digests.sqlite"
    place.parent.mkdir(parents=True, exist_ok=True)
    table = "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, mark TEXT, digest TEXT) WITHOUT ROWID"
    with contextlib.closing(sqlite3.connect(place, timeout=10)) as memo, memo:
        memo.execute(table)
        yield memo


# Models ---------------------------------------------------------------------------------------------------------------

VOCABULARIES = ("tokenizer.json", "*.model", "vocab*", "*.tiktoken", "tekken.json")
"""Files of a model folder, one of which every tokenizer has."""
_TOKENIZER = (
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
)
_SAVED = ("_from_model_config", "_name_or_path", "base_model_name_or_path", "name_or_path", "transformers_version")
"""Keys of a model's JSON files that say where it comes from or what saved it."""


def weights(folder: Path, base: str = "") -> str:
    """Of a model folder's weights and config and, for an adapter, `base`: the weights that it was trained on."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin"):
            found.update(bytes.fromhex(file(path)))
        elif path.name in ("config.json", "adapter_config.json"):
            config = _json(path)
            config.pop("base_model_name_or_path", None)  # a place, not a content: `base` is its content
            if isinstance(modules := config.get("target_modules"), list):
                modules.sort()  # peft writes a set
            found.update(json.dumps(config, sort_keys=True).encode())
    found.update(base.encode())
    return found.hexdigest()


def model(folder: Path, base: str = "", whole: Path | None = None) -> str:
    """Of all in a model folder that decides its answers: `weights`, tokenizer, chat template, generation config.

    `whole` is the folder of an adapter's base, whose generation config counts.
    """
    found: dict[str, Any] = {"weights": weights(folder, base)}
    for path in (p for name in _TOKENIZER for p in folder.glob(name) if p.is_file()):
        found[path.name] = _plain(path) if path.name == "tokenizer_config.json" else file(path)
    generation = (whole or folder) / "generation_config.json"
    found["generation"] = _plain(generation) if generation.is_file() else None
    return digest(found)


def _plain(path: Path) -> dict[str, Any]:
    return {key: value for key, value in _json(path).items() if key not in _SAVED}


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise IprError(f"{path}: {error}; restore it from the model's source") from None


# Playing --------------------------------------------------------------------------------------------------------------


def games(spec: EnvSpec) -> dict[str, Any]:
    """What decides what an environment says: its version, the content of its data, whatever else it names."""
    # As they come back from a file.
    return {"env": spec.name, "version": spec.version} | json.loads(json.dumps(dict(spec.deciding())))


def of_games(spec: EnvSpec) -> str:
    """Which games there are, whatever version plays them: task ids of two data sets may be the same, they are not."""
    return digest({key: value for key, value in games(spec).items() if key in ("env", "data")})[:16]


def prompted(spec: EnvSpec, sampling: Sampling) -> dict[str, Any]:
    """What decides an episode, beside who plays: games, prompt, step limit, sampling."""
    return games(spec) | {
        "prompt": digest([m.as_dict() for m in spec.prompt])[:16],
        "max_steps": spec.max_steps,
        "temperature": sampling.temperature,
        "max_new_tokens": sampling.max_new_tokens,
    }


def hosted(spec: EnvSpec, sampling: Sampling, name: str, url: str, config: RunConfig) -> dict[str, Any]:
    """Of the episodes of a hosted model, which is what its server calls it."""
    asked = {"model": name, "endpoint": url, "parameters": config.endpoint.parameters}
    return prompted(spec, sampling) | asked | {"rules": RULES}


def playing(spec: EnvSpec, sampling: Sampling, model: str, config: RunConfig) -> dict[str, Any]:
    """Of the episodes of the model with the digest `model`."""
    return prompted(spec, sampling) | {
        "model": model,
        "max_length": config.model.max_length,
        "dtype": config.model.dtype,
        "date": config.model.date,
        "backend": config.rollout.backend,
        "kv_dtype": config.rollout.kv_dtype,
        **_code("backend", config.rollout.backend),
        **_versions(),
    }


def of_jobs(jobs: Iterable[Job]) -> str:
    """Of the episodes of a shard, for whoever plays them."""
    return hashlib.sha256("".join(f"{job.prefix.key()}{job.seed}" for job in jobs).encode()).hexdigest()[:16]


def of_outcome(scorer: str, job: Job) -> bytes:
    """Of one outcome in the file that runs share; `scorer` is the digest of `playing`."""
    return hashlib.sha256(f"{scorer}\x1f{job.prefix.key()}\x1f{job.seed}".encode()).digest()[:16]


# Runs and trainings ---------------------------------------------------------------------------------------------------


def deciding(config: RunConfig) -> dict[str, Any]:
    """The keys of a config that decide results, and their values; what others stand for is in `run`."""
    return {key: value for key, value in flat(config, _NOTHING).items() if key not in MEANT}


def of_config(config: RunConfig) -> str:
    """Of the keys of a config that decide results, before anything is read that they name."""
    return digest(deciding(config))[:16]


def run(config: RunConfig, spec: EnvSpec, model: str) -> dict[str, Any]:
    """Of a run's tables, figures and weights, from the model with the digest `model`."""
    experts = None if config.env.experts is None else file(Path(config.env.experts))
    prompt = digest([m.as_dict() for m in spec.prompt])[:16]
    facts = {"prompt": prompt, "max_steps": spec.max_steps, "experts": experts, "model": model}
    loss = algorithms.get(config.algorithm.name).training.loss
    named = {"method": config.algorithm.name, "loss": loss, "backend": config.rollout.backend}
    code = {key: value for what, name in named.items() for key, value in _code(what, name).items()}
    return deciding(config) | games(spec) | facts | code | _versions()


def of_training(rows: Iterable[bytes], loss: str, config: TrainConfig, seed: int, start: Sequence[Any]) -> str:
    """Of a training from `start`: what its examples, loss, knobs and seed make of it, however it is cut."""
    knobs = config.model_dump(exclude=_NOTHING["train"])
    found = hashlib.sha256(digest([loss, knobs, seed, start, _versions() | _code("loss", loss)]).encode())
    for row in rows:
        found.update(row)
    return found.hexdigest()[:32]


def _code(what: str, name: str) -> dict[str, str]:
    """Of the module that an installed package names for it, or of all in it where it is a package; nothing of ours."""
    module = plugged_modules(what).get(name)
    with contextlib.suppress(ImportError):  # told where it is used
        if module and (found := find_spec(module)) and found.origin:
            place = Path(found.origin)
            files = folder(place.parent) if found.submodule_search_locations else {place.name: place}
            return {f"{what}.code": contents({k: v for k, v in files.items() if "__pycache__" not in k})}
    return {}


def _versions() -> dict[str, Any]:
    return {name: ".".join(version(name).split(".")[:2]) for name in LIBRARIES} | {"rules": RULES}


def _short(value: Any) -> str:
    """Digests by their beginnings."""
    digested = isinstance(value, str) and len(value) > 15 and not set(value) - set("0123456789abcdef")
    return value[:12] if digested else repr(value)
