"""Who acts: text <-> tokens over any engine (`chat`), by a backend of the registry below; any chat endpoint (`openai`);
given words, for tests (`scripted`). Imports none of them itself.

A backend is a module with three functions, and a line in `BACKENDS`; nothing else asks which one it is:

    load(path, name, config)    the model of a folder or hub name as a policy called `name`
    check(config)               raises IprError, before a run starts, for what would stop it later (also where it cannot
                                play behind `rollout.workers`); else says in some words where it plays
    rest()                      leaves a GPU's memory to others until it is played again
"""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipr.types import IprError

if TYPE_CHECKING:
    from ipr.config import RunConfig
    from ipr.types import Policy


@dataclass(frozen=True)
class Backend:
    """What runs a model."""

    module: str
    """Imported when it is needed: some take seconds, or are not installed."""
    endpoint: bool = False
    """It can be a server, at `rollout.endpoint`."""
    default: bool = False
    """What was written down without a backend is of this one."""


BACKENDS = {
    "transformers": Backend("ipr.policies.local", default=True),
    "vllm": Backend("ipr.policies.vllm", endpoint=True),
}


def load(path: str, name: str, config: RunConfig) -> Policy:
    """The model of a folder or hub name as a policy called `name`, by the backend that the config names."""
    return _module(config).load(path, name, config)


def check(config: RunConfig) -> str:
    """Where the config's backend plays. Raises IprError for what would stop a run later."""
    return _module(config).check(config)


def deciding(config: RunConfig) -> dict[str, str]:
    """What of the backend decides results: it draws its own random numbers and rounds otherwise, so its name, but for
    the default one.
    """
    return {} if backend(config).default else {"backend": config.rollout.backend}


def rest() -> None:
    """Leave a GPU's memory to others until it is played again."""
    for one in BACKENDS.values():
        if module := sys.modules.get(one.module):
            module.rest()


def backend(config: RunConfig) -> Backend:
    """What the config names. Raises IprError for one that is not there, or that is no server where one is named."""
    name = config.rollout.backend
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(BACKENDS)}"
        raise IprError(f"rollout.backend: no '{name}'; {hint}")
    if config.rollout.endpoint is not None and not BACKENDS[name].endpoint:
        others = " or ".join(other for other, found in BACKENDS.items() if found.endpoint)
        raise IprError(f"rollout.endpoint is a server; set rollout.backend={others} too, or leave it out")
    return BACKENDS[name]


def _module(config: RunConfig) -> Any:
    return importlib.import_module(backend(config).module)
