"""The environments by name. To add one: a module with `spec(data, max_steps)`, and a line in `_SPECS`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ipr.types import EnvSpec, IprError, Message

_SPECS = {"alfworld": "ipr.envs.alfworld", "sql": "ipr.envs.sql", "webshop": "ipr.envs.webshop"}
"""Environment -> the module whose `spec` makes it; imported when it is asked for."""
_LOOKED_AT = 200
"""Episodes among which an example is looked for."""


def names() -> list[str]:
    """The environments that there are."""
    return sorted(_SPECS)


def _module(name: str) -> ModuleType:
    if name not in _SPECS:
        close = difflib.get_close_matches(name, _SPECS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names())}"
        raise IprError(f"unknown environment '{name}'; {hint}")
    return import_module(_SPECS[name])


def check_data(name: str, folder: Path) -> dict[str, Any]:
    """Plays all that a folder of the real data set holds; what is found, as the environment's own `check_data` says."""
    return _module(name).check_data(folder)


def get(name: str, data: str | Path | None = None, max_steps: int | None = None, shots: int = 0) -> EnvSpec:
    """An environment. `data` is a folder of the real data set, None the generated world; `shots` 1 adds an example."""
    module = _module(name)
    if max_steps is not None and max_steps < 1:
        raise IprError(f"max_steps is {max_steps}; give 1 or more")
    make: Callable[[Path | None, int | None], EnvSpec] = module.spec
    folder = None if data is None else Path(data)
    spec = make(folder, max_steps)
    if not shots:
        return spec
    # The example is played with the environment's own step limit, so that it is always the same one.
    return replace(spec, prompt=(*spec.prompt, *_example(make(folder, None), "pretrain" if data is None else "train")))


def _example(spec: EnvSpec, split: str) -> list[Message]:
    """The first expert episode of `split` that is short and earns everything, as turns that end with the agent's."""
    played = (spec.expert(task_id) for task_id in spec.task_ids(split)[:_LOOKED_AT])
    found = next((t for t in played if t.reward >= 1 and not t.invalid and len(t.steps) <= spec.max_steps // 2), None)
    if found is None:
        raise IprError(
            f"{spec.name}: none of the first {_LOOKED_AT} episodes of '{split}' is short and solved; use env.shots=0"
        )
    first, *turns = (*found.history(0), *found.continuation(0))
    return [
        Message("user", f"Here is an example of a solved task.\n\n{first.content}"),
        *turns,
        Message("user", f"{found.steps[-1].observation}\n\nThis ends the example. Next comes a new task for you."),
        Message("assistant", "OK"),
    ]
