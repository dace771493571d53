"""The environment of a run, with the expert trajectories that its config names.

Decided here: given experts take the place of the environment's own, and the train split is the tasks that have one, so
that nothing else need know. Of several trajectories of a task the best counts, the first of equals. Trajectories of
other splits are left out: what a run is measured on is never trained on.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ipr import envs, store
from ipr.config import EnvConfig, RunConfig
from ipr.rollout import replay
from ipr.types import EnvSpec, IprError, Message, Trajectory, derive_seed

LOOKED_AT = 20
"""Games of which the length of an episode is judged."""


def environment(config: EnvConfig) -> EnvSpec:
    """The environment that a config names. Raises IprError where its experts' file has none for the train split."""
    spec = envs.get(config.name, config.data, config.max_steps, config.shots, config.server)
    if config.experts is None:
        return spec
    best: dict[str, Trajectory] = {}
    for t in map(Trajectory.trimmed, store.load(Path(config.experts), Trajectory)):
        if t.task_id not in best or t.reward > best[t.task_id].reward:
            best[t.task_id] = t
    place = {task_id: k for k, task_id in enumerate(spec.task_ids("train"))}
    # "TASK@WHAT" is a task as a record told it (`EnvSpec.adopted`).
    tasks = {task_id: task_id if task_id in place else task_id.partition("@")[0] for task_id in best}
    ids = sorted((i for i in tasks if tasks[i] in place), key=lambda i: (place[tasks[i]], i))
    if not ids:
        raise IprError(
            f"{config.experts}: none of its trajectories is of a train task of {config.name};"
            " import it for this environment: ipr data import"
        )

    def task_ids(split: str) -> list[str]:
        return ids if split == "train" else spec.task_ids(split)

    def expert(task_id: str) -> Trajectory:
        return best[task_id] if task_id in best else spec.expert(task_id)

    return replace(spec, task_ids=task_ids, expert=expert)


def without_expert(config: EnvConfig, known: Collection[str]) -> list[str]:
    """The train problems that no expert in `known` has shown, whatever file the experts are of."""
    ids = envs.get(config.name, config.data, config.max_steps, config.shots, config.server).task_ids("train")
    shown = {*known, *(task_id.partition("@")[0] for task_id in known)}  # "TASK@WHAT": see `EnvSpec.adopted`
    return [task_id for task_id in ids if task_id not in shown]


def new_problems(config: RunConfig, others: Sequence[str], iteration: int) -> list[str]:
    """Of the train problems without an expert as many as are explored, others in each iteration while there are some.

    `others` are all of these, as `without_expert` gives them.
    """
    ids = list(others)
    random.Random(derive_seed(config.seed, "problems")).shuffle(ids)
    return share(ids, config.algorithm.explore_tasks, iteration)


def share(ids: Sequence[str], few: int | None, iteration: int) -> list[str]:
    """An iteration's `few` of the problems (None: all), others in each while there are enough."""
    few = min(few or len(ids), len(ids))
    first = (iteration - 1) * few % max(len(ids), 1)
    return [*ids[first:], *ids[:first]][:few]


def no_games(config: EnvConfig, spec: EnvSpec, split: str) -> IprError:
    """What to do where a split has no games, as with few data."""
    sizes = {name: len(spec.task_ids(name)) for name in ("train", "dev", "seen", "unseen")}
    there = ", ".join(f"{name} {size}" for name, size in sizes.items())
    tests = ",".join(name for name in ("seen", "unseen") if sizes[name])
    fix = (
        f"evaluate on what there is (eval.splits=[{tests}])"
        if split in ("seen", "unseen") and tests
        else "give more data"
    )
    if config.name == "webshop" and config.data and (Path(config.data) / "items_human_ins.json").is_file():
        fix += ", or take all products (items_shuffle.json), or the synthetic goals (move items_human_ins.json away)"
    return IprError(f"{config.name}: split '{split}' of env.data={config.data} has no games ({there}); {fix}")


def conversations(spec: EnvSpec, split: str) -> list[list[Message]]:
    """The expert's conversations in the first games of a split, prompt included, the shortest first.

    Where the environment has no expert, what is said first. Their use: whether a model's context has room for them.
    """
    ids = spec.task_ids(split)[:LOOKED_AT]
    try:
        played = [spec.expert(task_id) for task_id in ids]
    except IprError:
        return [[*spec.told(ids[0]), Message("user", spec.make().reset(ids[0]))]]
    talks = [[*spec.told(t.task_id), *t.history(0), *t.continuation(0)] for t in played]
    return sorted(talks, key=lambda talk: sum(len(m.content) for m in talk))


def check(config: EnvConfig, most: int | None = None) -> None:
    """Plays given experts again, `most` of them or all. Raises IprError naming the first that is not given back."""
    if config.experts is None:
        return
    spec = environment(config)
    ids = spec.task_ids("train")[: config.tasks]
    chosen = [spec.expert(i) for i in ids[:: max(1, len(ids) // most) if most else 1]]
    longest = max(len(t.steps) for t in chosen)
    # An expert may be longer than an episode of the agent, as those of real games are.
    roomy = replace(spec, max_steps=longest)
    for t in chosen:
        if problem := replay(roomy if len(t.steps) > spec.max_steps else spec, t):
            raise IprError(f"{config.experts}: {t.task_id}: {problem[0]}; import it again: ipr data import")
