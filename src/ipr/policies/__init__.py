"""Who acts: text <-> tokens over any engine (`chat`), by a backend of the registry below; any chat endpoint (`openai`);
given words, for tests (`scripted`). Imports none of them itself.

A backend is a module with three functions, and a line in `BACKENDS` or an entry point; nothing else asks which it is:

    load(path, name, config)    the model of a folder or hub name as a policy called `name`
    check(config, folder)       raises IprError, before a run starts, for what would stop it later (also where it cannot
                                play behind `rollout.workers`); else says in some words where it plays. The run's folder
                                may not be there yet, and is None where there is no run
    rest()                      leaves a GPU's memory to others until it is played again
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipr.types import IprError, plugged

if TYPE_CHECKING:
    from ipr.config import RunConfig
    from ipr.types import Policy


@dataclass(frozen=True)
class Backend:
    """What runs a model."""

    module: str
    """Imported when it is needed: some take seconds, or are not installed."""
    endpoint: bool = False
    """It is a server, at `rollout.endpoint` or by `rollout.vllm`."""


BACKENDS = {
    "transformers": Backend("ipr.policies.local"),
    "vllm": Backend("ipr.policies.vllm", endpoint=True),
}
"""Ours; a package's is a module that has the three functions and its `Backend` as `backend`."""


def load(path: str, name: str, config: RunConfig) -> Policy:
    """The model of a folder or hub name as a policy called `name`, by the backend that the config names."""
    return _module(config).load(path, name, config)


def check(config: RunConfig, folder: Path | None = None) -> str:
    """Where the config's backend plays. Raises IprError for what would stop a run in `folder` later."""
    return _module(config).check(config, folder)


def rest() -> None:
    """Leave a GPU's memory to others until it is played again."""
    for name in _used:
        if module := sys.modules.get(name):
            module.rest()


def backend(config: RunConfig) -> Backend:
    """What the config names. Raises IprError for one that is not there, or that is no server where one is named."""
    name = config.rollout.backend
    found = BACKENDS[name] if name in BACKENDS else plugged("backend", name, BACKENDS)
    for key in ("endpoint", "vllm"):
        if getattr(config.rollout, key) is not None and not found.endpoint:
            others = " or ".join(other for other, one in BACKENDS.items() if one.endpoint)
            raise IprError(f"rollout.{key} is a server; set rollout.backend={others} too, or leave it out")
    return found


def _module(config: RunConfig) -> Any:
    module = importlib.import_module(backend(config).module)
    _used.add(module.__name__)
    return module


_used: set[str] = set()
"""Modules of backends that this process has asked for something."""
