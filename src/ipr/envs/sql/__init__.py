"""InterCodeSQL: questions to a database, generated or Spider's. See `world`, `engine`, `questions`, `expert`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ipr.envs.react import compose
from ipr.envs.sql import expert, questions
from ipr.envs.sql.prompt import prompt
from ipr.envs.sql.real import Folder
from ipr.envs.sql.world import Console, Questions, as_published
from ipr.types import Environment, EnvSpec, IprError, Trajectory

MAX_STEPS = 10
"""Step limit."""


def spec(data: Path | None = None, max_steps: int | None = None, server: str | None = None) -> EnvSpec:
    """The environment: generated questions, or those of Spider's folder, on SQLite or on a `server`."""
    limit = MAX_STEPS if max_steps is None else max_steps
    source: Questions = questions
    if server is not None:
        from ipr.envs.sql.server import ServedFolder

        if data is None:
            raise IprError("env.server plays the questions of a folder; give env.data, with ic_spider_dev.json")
        source = ServedFolder(data, server)
        source.check()
    elif data is not None:
        source = Folder(data)
        source.check()

    def play_expert(task_id: str) -> Trajectory:
        return expert.play(source, task_id, limit)

    def oracle(env: Environment) -> float:
        """What submitting the last result now brings; 0 before the first query."""
        assert isinstance(env, Console)
        return env.value()

    return EnvSpec(
        name="sql",
        make=lambda: Console(source),
        task_ids=source.task_ids,
        prompt=prompt(),
        max_steps=limit,
        expert=play_expert,
        task_type=source.task_type,
        lowest=-1.0,  # all rows in the reverse order
        oracle=oracle,
        version=("generated-6" if data is None else "real-8") + ("-server" if server else ""),
        deciding=source.deciding,
        published=as_published,
    )


def check_data(folder: Path) -> dict[str, Any]:
    """Plays every gold query of a folder through a scripted agent: SHOW TABLES, DESC, the query, submit.

    `full_reward` of `questions` earned 1.0. Of these, `refused` have a gold query that MySQL 8 refuses from an agent
    (most show columns that are not grouped): its rows are taken as SQLite gives them, for which Spider wrote it, and
    another statement can earn them. Questions that cannot be played are counted in `broken`, and `messages` names
    each, or its file, with its fix.
    """
    source = Folder(folder)
    console = Console(source)
    played = full = steps = broken = refused = 0
    messages: dict[str, None] = {}
    start = time.process_time()
    for task_id in source.all_ids():
        try:
            question = source.question(task_id)
            console.reset(task_id)
            table = next(iter(source.database(question).tables.values()), "none")
            for statement in ("SHOW TABLES", f"DESC `{table}`", question.gold):
                console.step(compose("I look.", f"```sql\n{statement}\n```"))
            strict = console.result()
            outcome = console.step(compose("That is the answer.", "submit"))
        except IprError as error:
            broken += 1
            messages[str(error)] = None
            continue
        played += 1
        steps += 4
        if strict is not None and strict.rows is None:
            refused += 1
            full += 1
            continue
        full += outcome.reward == 1.0
        if outcome.reward != 1.0:
            messages[f"{question.where}: the gold query of {task_id} earns {outcome.reward}; correct or remove it"] = (
                None
            )
    seconds = time.process_time() - start
    return {
        "questions": played,
        "full_reward": full,
        "refused": refused,
        "steps_per_s": round(steps / seconds) if seconds else 0,
        "broken": broken,
        "messages": list(messages),
    }
