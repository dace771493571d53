"""The environments by name. To add one: a module with `spec(data, max_steps)`, and a line in `_SPECS`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ipr.types import EnvSpec, IprError

_SPECS = {"alfworld": "ipr.envs.alfworld", "sql": "ipr.envs.sql", "webshop": "ipr.envs.webshop"}
"""Environment -> the module whose `spec` makes it; imported when it is asked for."""


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


def get(name: str, data: str | Path | None = None, max_steps: int | None = None) -> EnvSpec:
    """An environment. `data` is a folder of the real data set, None the generated world."""
    module = _module(name)
    if max_steps is not None and max_steps < 1:
        raise IprError(f"max_steps is {max_steps}; give 1 or more")
    make: Callable[[Path | None, int | None], EnvSpec] = module.spec
    return make(None if data is None else Path(data), max_steps)
