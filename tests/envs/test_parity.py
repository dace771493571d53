"""Random walks in our engine and in the stock one: the same text, admissible commands and victory at every step.

Needs the extra "parity". Both packages pin much, so a virtual environment of its own is best, from the project's root:
`python -m venv V; V/bin/pip install "textworld[pddl]==1.7.0" pytest pytest-timeout;
V/bin/pip install --no-deps alfworld==0.4.2; V/bin/python -m pytest -m parity tests/envs` (about three minutes).
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ipr.envs.alfworld import expert, games
from ipr.envs.alfworld.engine import BANNER, NOTHING, Game
from ipr.envs.alfworld.real import read
from ipr.types import derive_seed

pytestmark = pytest.mark.parity
pytest.importorskip("textworld")
pytest.importorskip("alfworld")

STEPS = 60
LOCATION = re.compile(r"^You arrive at loc \d+\. ")
"""What the wording of 2.1.1 says on arrival and the paper leaves out."""
LIKELY = ("take", "put", "move", "heat", "cool", "clean", "use", "slice")


def stock(file: Path) -> Any:
    """The stock engine on a game file."""
    arguments = list(sys.argv)  # its planner empties sys.argv
    import textworld  # pyright: ignore[reportMissingImports]
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler  # pyright: ignore[reportMissingImports]
    from textworld.envs.pddl import PddlEnv  # pyright: ignore[reportMissingImports]

    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
    env.load(str(file))
    sys.argv[:] = arguments
    return env


def walk(file: Path, commands: list[str], steps: int) -> tuple[int, bool]:
    """Plays the commands, then at random; fails at the first difference. Returns steps, and whether it won."""
    game, env = read(file), stock(file)
    rng = random.Random(derive_seed("parity", file.parent.name))
    arguments = list(sys.argv)
    theirs = env.reset()
    state, answer, won = game.start, None, False
    assert theirs.feedback == BANNER + game.first
    for t in range(steps):
        possible = list(theirs.admissible_commands)
        assert game.admissible(state) == possible
        if t < len(commands):
            command = commands[t]
        elif rng.random() < 0.1:
            command = _guess(game, rng)
        else:
            command = rng.choices(possible, [8 if c.startswith(LIKELY) else 2 for c in possible])[0]
        theirs, _, _ = env.step(command)
        state, answer = game.play(state, command)
        assert LOCATION.sub("", theirs.feedback) == (NOTHING if answer is None else answer), command
        assert bool(theirs.won) == game.won(state), command
        won = won or game.won(state)
    sys.argv[:] = arguments
    return steps, won


def _guess(game: Game, rng: random.Random) -> str:
    """A command that is seldom possible."""
    o, r = rng.choice(game.object_names), rng.choice(game.receptacle_names)
    put = game.wording.put.format(o=o, r=r)
    return rng.choice(
        [f"go to {r}", f"open {r}", f"take {o} from {r}", f"examine {o}", f"use {o}", put, "help", "xyzzy"]
    )


def modern(file: Path, folder: Path) -> Path:
    """A copy of a real game with the installed package's domain and grammar, which have the newer wording."""
    texts = games.stock_texts()
    assert texts
    data = json.loads(file.read_text())
    task = re.search(r'Your task is to: ([^"]*)\."', data["grammar"])
    assert task
    data |= {"pddl_domain": texts[0], "grammar": texts[1].replace("UNKNOWN GOAL", task[1])}
    folder.mkdir()
    (folder / "game.tw-pddl").write_text(json.dumps(data))
    return folder / "game.tw-pddl"


def one_of_each_type(real: Path) -> list[Path]:
    return [sorted((real / "train").glob(f"{task_type}-*/*/game.tw-pddl"))[7] for task_type in games.TYPES]


@pytest.mark.parametrize("wording", ["2.1.1", "0.4"])
def test_real_games(real: Path, tmp_path: Path, wording: str) -> None:
    wins = 0
    for k, file in enumerate(one_of_each_type(real)):
        turns = [turn["value"] for turn in json.loads((file.parent / "gt_traj.json").read_text())][1::2]
        played = modern(file, tmp_path / str(k)) if wording == "0.4" else file
        if wording == "0.4":
            turns = [re.sub(r"^put (.+) in/on (.+)$", r"move \1 to \2", t) for t in turns]
        wins += walk(played, turns, len(turns) + STEPS)[1]
    assert wins == len(games.TYPES)


def test_generated_games_play_in_the_stock_engine(tmp_path: Path) -> None:
    for task_id in [f"{split}/{k:06d}" for split in ("train", "unseen") for k in range(6)]:
        file = games.export(games.generate(task_id), tmp_path, "train")
        steps = expert.play(read(file), task_id, 20).steps
        commands = [s.action.rsplit("Action: ", 1)[1] for s in steps]
        assert walk(file, commands, len(commands) + STEPS // 2)[1]
