"""A run's folder as an IPR run leaves it, without playing: its tables and its records."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from ipr import algorithms, evaluate, store
from ipr import config as configs
from ipr.runs.run import Run, stage_name
from ipr.runs.summary import summarise
from ipr.types import PreferencePair, Step, StepReward, Trajectory

WORDS = (
    "cabinet",
    "drawer",
    "mug",
    "lamp",
    "fridge",
    "shelf",
    "plate",
    "egg",
    "apple",
    "knife",
    "desk",
    "sofa",
    "towel",
)
HOSTILE = '</script><img src=x onerror="document.title=1"><!-- {{ 7 * 7 }} \u2028 "\' & é'


def lay(
    folder: Path,
    problems: int = 6,
    iterations: int = 2,
    games: int = 8,
    seed: int = 0,
    better: float = 0.2,
    words: Sequence[str] = WORDS,
    overrides: Sequence[str] = (),
) -> Run:
    """`problems` experts of 5 steps, explored from every prefix in every iteration; `games` of each split.

    `better`: how much an iteration adds to the chance of solving a game.
    """
    settings = [f"algorithm.iterations={iterations}", f"seed={seed}", "eval.bootstrap=200", "algorithm.tau=0.1"]
    run = Run.open(folder, configs.load(None, [*settings, *overrides]), "smoke")
    draw = random.Random(seed)
    at = random.Random(1)  # a game is as hard for every seed

    def said(k: int = 8) -> str:
        return " ".join(draw.choices(words, k=k))

    def step(t: int) -> Step:
        return Step(f"Thought: {said(12)}\nAction: go to {said(2)} {t}", f"You see {said(10)}.")

    def played(task_id: str, first: str, given: Sequence[Step], who: str, wins: float) -> Trajectory:
        reward = float(draw.random() < wins)
        steps = (*given, *(step(t) for t in range(len(given), draw.randint(5, 9))))
        ending = "terminated" if reward else "truncated"
        return Trajectory(task_id, first, steps, reward, ending, who, draw.getrandbits(62), len(given))

    experts = []
    for k in range(problems):
        steps = tuple(step(t) for t in range(5))
        experts.append(Trajectory(f"train/{k:06d}", f"A room with {said(20)}", steps, 1.0, "terminated", "expert"))
    store.save(run.folder / "experts.parquet", experts, Trajectory)
    hard = {f"{split}/{k:06d}": at.random() for split in ("dev", "seen", "unseen") for k in range(games)}
    for k in range(-1, iterations + 1):
        stage, name = run.stage(k), stage_name(k)
        records: dict = {"train": {"updates": 3, "history": [{"loss": 2 / (u + 1)} for u in range(3)]}}
        if k > 0:
            explored = [
                played(e.task_id, e.first_observation, e.steps[:t], stage_name(k - 1), 0.5)
                for e in experts
                for t in range(len(e.steps))
            ]
            prefixes = {t.prefix(t.start + 1) for t in [*explored, *experts]}
            prefixes |= {e.prefix(t + 1) for e in experts for t in range(len(e.steps))}
            rewards = {}
            for prefix in sorted(prefixes, key=lambda p: p.key()):
                samples = tuple(float(draw.random() < 0.5) for _ in range(5))
                rewards[prefix] = StepReward(prefix, sum(samples) / 5, 5, samples, 5)
            pairs = algorithms.make(run.config.algorithm).examples(experts, explored, rewards).pairs
            store.save(stage / "explored.parquet", explored, Trajectory)
            store.save(stage / "step_rewards.parquet", rewards.values(), StepReward)
            store.save(stage / "pairs.parquet", pairs, PreferencePair)
            records["explore"] = {"episodes": len(explored), "joined": 0}
            figures = evaluate.contrast(rewards, experts, explored)
            records["reward"] = {"rollouts": {"played": 5 * len(rewards)}, "step_reward": figures}
            levels = [p.level for p in pairs]
            made = {level: levels.count(level) for level in ("outcome", "step")}
            records["pairs"] = made | {"demonstrations": 0, "own": 0, "dropped": {}}
            more = {"reward_margin": 0.1, "accuracy": 0.5}
            records["train"]["history"] = [row | more for row in records["train"]["history"]]
        facts, tests = {}, []
        for split in ("dev", "seen", "unseen"):
            ids = [i for i in hard if i.startswith(split)]
            episodes = [played(i, f"The room of {i}", (), name, 0.2 + 0.4 * hard[i] + better * max(k, 0)) for i in ids]
            store.save(stage / "eval" / f"{split}.parquet", episodes, Trajectory)
            facts[split] = evaluate.metrics(episodes, task_type=str, resamples=200)
            tests += episodes if split != "dev" else []
        records["evaluate"] = facts | {"test": evaluate.metrics(tests, task_type=lambda i: i[:6], resamples=200)}
        if k < 0:
            records.pop("train")
        for task, record in records.items():
            store.write_json(stage / f"{task}.json", record | {"seconds": 1.0})
    run.note(complete=True)
    store.write_json(run.folder / "summary.json", summarise(run, "complete"))
    return run
