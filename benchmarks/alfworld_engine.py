"""Steps a second of our ALFWorld engine and, where it is installed, of the stock engine, and their ratio.

    python benchmarks/alfworld_engine.py [--games 50]

Both play the expert's commands of the same generated games, from load to victory; loading and resetting are timed
apart. The stock engine needs the packages textworld[pddl] and alfworld (extra "parity").
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from ipr.envs.alfworld import expert, games
from ipr.envs.alfworld.real import read
from ipr.envs.alfworld.world import Household


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=50, help="games to play")
    count = parser.parse_args().games
    ids = games.task_ids("train")[:count]
    start = time.perf_counter()
    played = {i: expert.play(games.game(i), i) for i in ids}
    print(f"generated and won by the expert: {1000 * (time.perf_counter() - start) / count:.2f} ms a game")
    ours = _ours(played)
    with tempfile.TemporaryDirectory() as folder:
        files = {i: games.export(games.generate(i), Path(folder), "train") for i in ids[:5]}
        start = time.perf_counter()
        for file in files.values():
            read(file)
        print(f"ours: load {1000 * (time.perf_counter() - start) / len(files):.2f} ms, {ours:,.0f} steps/s")
        theirs = _theirs(files)
    if theirs:
        print(f"ratio: {ours / theirs:,.0f}")


def _ours(played: dict) -> float:
    """Steps a second through the environment: the model's raw text read, played, answered."""
    env, steps, start = Household(games), 0, time.perf_counter()
    for _ in range(20):
        for task_id, trajectory in played.items():
            env.reset(task_id)
            for step in trajectory.steps:
                env.step(step.action)
            steps += len(trajectory.steps)
    rate = steps / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(10_000):
        env.restore(env.snapshot())
    print(f"ours: snapshot and restore {(time.perf_counter() - start) / 10_000 * 1e6:.2f} microseconds")
    return rate


def _theirs(files: dict[str, Path]) -> float | None:
    arguments = list(sys.argv)  # the stock engine's planner empties sys.argv
    try:
        import textworld  # pyright: ignore[reportMissingImports]
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler  # pyright: ignore[reportMissingImports]
        from textworld.envs.pddl import PddlEnv  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("stock: textworld and alfworld are not installed, so there is no ratio")
        return None
    loading, playing, steps = 0.0, 0.0, 0
    for task_id, file in files.items():
        commands = [s.action.rsplit("Action: ", 1)[1] for s in expert.play(read(file), task_id).steps]
        start = time.perf_counter()
        env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
        env.load(str(file))
        env.reset()
        loading += time.perf_counter() - start
        start = time.perf_counter()
        for command in commands:
            env.step(command)
        playing += time.perf_counter() - start
        steps += len(commands)
    sys.argv[:] = arguments
    print(f"stock: load and reset {1000 * loading / len(files):.0f} ms, {steps / playing:.1f} steps/s")
    return steps / playing


if __name__ == "__main__":
    main()
