"""The environments by name: those of this package, and those of installed packages (docs/environments.md).

A package of yours names its environment in the entry-point group `ipr.environments`: NAME = "module", a module with
`spec(data, max_steps) -> EnvSpec` and, where it has a real data set to play, `check_data(folder)`. Decided here:
nothing of an environment is imported before it is asked for; one that is broken is one line when it is asked for, and
never in the way of the others. Ours are no entry points, so that a checkout need not be installed again; a package
cannot take one of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from ipr import identity
from ipr.types import EnvSpec, IprError, Message, Trajectory, suggestion

GROUP = "ipr.environments"
_BUILT_IN = {"alfworld": "ipr.envs.alfworld", "sql": "ipr.envs.sql", "webshop": "ipr.envs.webshop"}
"""Environment -> the module whose `spec` makes it."""
_SERVED = ("sql",)
"""Environments that play on a database server where they are given one."""
_LOOKED_AT = 200
"""Episodes among which an example is looked for."""


def names() -> list[str]:
    """The environments that there are, those of installed packages among them, broken or not."""
    return sorted({*_BUILT_IN, *_named_by_packages()})


def origin(name: str) -> str:
    """Where an environment comes from: "built in", or its package, for people."""
    return "built in" if name in _BUILT_IN else " and ".join(_package(p) for p in _named_by_packages()[name])


def refused() -> list[str]:
    """One line for every name of ours that an installed package gives to an environment of its own; ours stays."""
    return [
        f"package {_package(point)} names an environment '{name}', which is built in and stays; rename it in the"
        f" package's entry points ({GROUP})"
        for name, points in _named_by_packages().items()
        if name in _BUILT_IN
        for point in points
    ]


def check_data(name: str, folder: Path) -> dict[str, Any] | None:
    """Plays all that a folder of the real data set holds; what is found, as the environment's own `check_data` says.

    None where the environment has none, or finds nothing recorded there. `broken` counts what could not be played, and
    `messages` names it, a line each.
    """
    check: Callable[[Path], dict[str, Any] | None] | None = getattr(_module(name), "check_data", None)
    if check is None:
        return None
    try:
        return check(folder)
    except IprError:
        raise
    except Exception as error:  # as in `_made`
        if name in _BUILT_IN:
            raise
        raise _broken(name, f"check_data({folder}) raises {_line(error)}") from error


def get(
    name: str,
    data: str | Path | None = None,
    max_steps: int | None = None,
    shots: int = 0,
    server: str | None = None,
) -> EnvSpec:
    """An environment. `data` is a folder of the real data set, None the generated world; `shots` 1 adds an example.

    `server` is a database server's address, for the one environment that can play on one.

    Raises IprError, in one line, for an unknown name and for whatever is wrong with a package's environment.
    """
    module = _module(name)
    if max_steps is not None and max_steps < 1:
        raise IprError(f"max_steps is {max_steps}; give 1 or more")
    folder = None if data is None else Path(data)
    if server is not None and name not in _SERVED:
        raise IprError(f"env.server={server} is of no use to {name}; only {', '.join(_SERVED)} plays on a server")
    more = {} if server is None else {"server": server}
    spec = _made(name, module, folder, max_steps, more)
    if folder is not None and spec.deciding is dict:
        spec = replace(spec, deciding=lambda: {"data": identity.contents(identity.folder(folder))})
    if not shots:
        return spec
    # The example is played with the environment's own step limit, so that it is always the same one.
    split = "pretrain" if data is None and name in _BUILT_IN else "train"
    plain = _made(name, module, folder, None, more)

    known: dict[tuple[Message, ...], tuple[Message, ...]] = {}

    def shown(task_id: str | None) -> tuple[Message, ...]:
        prompt = spec.prompt if task_id is None else spec.told(task_id)
        if prompt not in known:
            known[prompt] = (*prompt, *_example(plain, split, task_id))
        return known[prompt]

    return replace(spec, prompt=shown(None), prompts=None if spec.prompts is None else shown)


def _example(spec: EnvSpec, split: str, task_id: str | None) -> list[Message]:
    """The first expert episode of `split` that is short and earns everything, as turns that end with the agent's: one
    with the prompt of the task `task_id`, else another one in its words; None: whatever comes first."""
    ids = spec.task_ids(split)
    alike = ids if task_id is None else (i for i in ids if spec.told(i) == spec.told(task_id))
    found = _short(spec, alike) or _short(spec, ids)
    if found is None:
        raise IprError(
            f"{spec.name}: none of the first {_LOOKED_AT} episodes of '{split}' is short and solved; use env.shots=0"
        )
    turns = [*found.history(0), *found.continuation(0), Message("user", found.steps[-1].observation)]
    if task_id is not None and spec.told(found.task_id) != spec.told(task_id):
        turns = [Message(turn.role, spec.reword(turn.content, task_id)) for turn in turns]
    first, *turns, last = turns
    return [
        Message("user", f"Here is an example of a solved task.\n\n{first.content}"),
        *turns,
        Message("user", f"{last.content}\n\nThis ends the example. Next comes a new task for you."),
        Message("assistant", "OK"),
    ]


def _short(spec: EnvSpec, ids: Iterable[str]) -> Trajectory | None:
    """The first expert episode that is short and earns everything."""
    played = (spec.expert(task_id) for task_id in islice(ids, _LOOKED_AT))
    return next((t for t in played if t.reward >= 1 and not t.invalid and len(t.steps) <= spec.max_steps // 2), None)


def _made(name: str, module: ModuleType, folder: Path | None, max_steps: int | None, more: dict[str, str]) -> EnvSpec:
    """What a module's `spec` gives; of a package's module, whatever it raises is named."""
    if name in _BUILT_IN:
        return module.spec(folder, max_steps, **more)
    try:
        spec = module.spec(folder, max_steps)
    except IprError:
        raise
    except Exception as error:
        raise _broken(name, f"spec(data, max_steps) of {module.__name__} raises {_line(error)}") from error
    if not isinstance(spec, EnvSpec):
        raise _broken(name, f"spec(data, max_steps) of {module.__name__} gives {type(spec).__name__}, no EnvSpec")
    if spec.name != name:
        raise _broken(name, f"its EnvSpec is named '{spec.name}'")
    return spec


def _module(name: str) -> ModuleType:
    if name in _BUILT_IN:
        return import_module(_BUILT_IN[name])
    points = _named_by_packages().get(name, [])
    if not points:
        raise IprError(f"unknown environment '{name}'; {suggestion(name, names())}")
    if len(points) > 1:
        raise IprError(f"environment '{name}' is in packages {origin(name)}; uninstall one of them: pip uninstall")
    try:
        module = import_module(points[0].value)
    except Exception as error:  # as in `_made`
        raise _broken(name, f"module {points[0].value} cannot be imported: {_line(error)}") from error
    if not callable(getattr(module, "spec", None)):
        raise _broken(name, f"module {points[0].value} has no spec(data, max_steps)")
    return module


def _named_by_packages() -> dict[str, list[EntryPoint]]:
    """Environment -> the entry points of that name, one unless packages clash."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _broken(name: str, what: str) -> IprError:
    return IprError(f"environment '{name}' (package {origin(name)}): {what}; mend or uninstall that package")


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
