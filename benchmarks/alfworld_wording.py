"""Share of ALFWorld games won by an agent made for one wording of the data in games of the other, and with translation.

    python benchmarks/alfworld_wording.py [--games 100] [--data json_2.1.1] [--model MODEL] [--steps 20]

The agent is our scripted expert, or a model that learned the wording of data 2.1.1. The games of the new wording are
those of 2.1.1 with the three texts changed in which the versions differ (see `ipr.envs.alfworld.wording`). Figures:
docs/alfworld-wording.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipr.envs import get
from ipr.envs.alfworld import games, real
from ipr.envs.alfworld.engine import NOTHING, Game
from ipr.envs.alfworld.expert import Expert
from ipr.envs.alfworld.prompt import prompt
from ipr.envs.alfworld.wording import reword
from ipr.envs.alfworld.world import Games, Household
from ipr.types import Job, Outcome, Prefix, Sampling

OLD, NEW = "put {o} in/on {r}", "move {o} to {r}"
TEXTS = (
    (OLD, NEW),
    ("You put the {o.name} in/on the {r.name}.", "You move the {o.name} to the {r.name}."),
    ("{lend.name}", "{r.name}"),
)


class Renewed:
    """Games of the old wording, said in the new one."""

    def __init__(self, source: Games, data: Callable[[str], dict[str, Any]]) -> None:
        self.task_ids, self.task_type, self._data = source.task_ids, source.task_type, data

    def game(self, task_id: str) -> Game:
        data = self._data(task_id)
        for old, new in TEXTS:
            data["grammar"] = data["grammar"].replace(old, new)
        return Game(data, task_id)


class Translated(Household):
    """What the agent says is put in the game's wording, what the game answers in the agent's."""

    agent = OLD

    def command(self, text: str) -> Outcome:
        outcome = super().command(reword(text, self._game.wording.put))
        return replace(outcome, observation=reword(outcome.observation, self.agent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=100, help="games of each test split")
    parser.add_argument("--data", type=Path, help="folder json_2.1.1; else generated games")
    parser.add_argument("--model", help="a model that learned the old wording, instead of the expert")
    parser.add_argument("--steps", type=int, default=20, help="step limit")
    options = parser.parse_args()
    old: Games = games if options.data is None else real.Folder(options.data)
    new = Renewed(old, games.generate if options.data is None else _file(options.data))
    ids = [i for split in ("seen", "unseen") for i in old.task_ids(split)[: options.games]]
    kinds = Counter(old.task_type(i) for i in ids)
    print(f"{len(ids)} games, {kinds['look_at_obj_in_light']} of them without putting anything down")
    rows = [("old", old, False), ("new", new, False), ("new, translated", new, True)]
    for name, source, translated in rows:
        make = Translated if translated else Household
        if options.model:
            won = _model(options.model, lambda s=source, m=make: m(s), source, ids)
            print(f"model of the old wording in games of the {name} wording: {_share(won, ids, old)}")
        else:
            for words, said in (("old", OLD), ("new", NEW)) if name == "new" else (("old", OLD),):
                won = {i: _expert(make(source), source, i, said, options.steps) for i in ids}
                print(f"expert of the {words} wording in games of the {name} wording: {_share(won, ids, old)}")


def _file(folder: Path) -> Callable[[str], dict[str, Any]]:
    import json

    return lambda task_id: json.loads((folder / task_id / "game.tw-pddl").read_text())


def _expert(env: Household, source: Games, task_id: str, put: str, steps: int) -> float:
    expert = Expert(env.reset(task_id), put)
    for _ in range(steps):
        expert.act()
        outcome = env.command(expert.last_command)
        if outcome.terminated:
            return 1.0
        expert.see(outcome.observation if outcome.valid else NOTHING)
    return 0.0


def _model(path: str, make: Callable[[], Household], source: Games, ids: list[str]) -> dict[str, float]:
    from ipr import models, rollout
    from ipr.config import ModelConfig
    from ipr.policies import local

    spec = replace(get("alfworld"), make=make, task_ids=source.task_ids, prompt=prompt(OLD))
    policy = local.policy(
        models.load_model(path, ModelConfig()), models.load_tokenizer(path), "model", max_length=2048, slots=128
    )
    jobs = [Job(Prefix(i)) for i in ids]
    return {t.task_id: t.reward for t in rollout.play(spec, policy, jobs, Sampling(0.0, 96))}


def _share(won: dict[str, float], ids: list[str], source: Games) -> str:
    light = [i for i in ids if source.task_type(i) == "look_at_obj_in_light"]
    there = sum(won[i] for i in light)
    return f"{100 * sum(won.values()) / len(ids):.1f} % won, {there:.0f} of {len(light)} without putting anything down"


if __name__ == "__main__":
    main()
