"""What a rollout costs: over N samples of a step, its own new tokens, and the history it starts from.

    python benchmarks/rollout_cost.py [--model embedded] [--tasks 8] [--plot docs/rollout-cost.png] [--json FILE]

One thread, seconds of the process. N = 1 to 20 samples of 2 turns are played after histories of more and more turns,
and whole episodes of more and more turns. A straight line is fitted to each row of points; how much of their variance
it explains (R2) is printed. Over N its slope is what the rollouts cost, and where it begins what is paid once for all
N: reading the history. What a rollout's new token costs by that slope is shown over the length of the history, beside
what it costs with `model.generate`, which reads the history for every turn; the ratio printed is how much dearer the
longest history makes a new token.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rollouts import Chat, Generate, Setup, batched

from ipr import credit, envs
from ipr.policies import local
from ipr.policies.chat import ChatPolicy
from ipr.rollout import play
from ipr.types import Job, Policy, Prefix, Sampling, derive_seed

SLOTS, NEW, TURNS = 128, 56, 2
COUNTS, HISTORIES, EPISODES = (1, 2, 5, 8, 11, 14, 17, 20), (0, 5, 10, 15), (1, 4, 8, 12, 16, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="alfworld", choices=envs.names())
    parser.add_argument("--model", default="embedded", help="folder or hub name")
    parser.add_argument("--tasks", type=int, default=8, help="problems that are played")
    parser.add_argument("--plot", type=Path, default=Path("docs/rollout-cost.png"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = argparse.Namespace(
        **vars(options), workers=1, slots=SLOTS, shard=1024, kv="model", max_steps=None, max_new_tokens=NEW
    )
    setup = Setup(envs.get(options.env), settings)
    chat = Chat(setup)

    def seconds(policy: Policy, jobs: list[Job], max_steps: int) -> tuple[float, float]:
        """Seconds, and new tokens, of all jobs."""
        start = time.process_time()
        spec = envs.get(options.env, max_steps=max_steps)
        played = batched(SLOTS)(spec, policy, jobs, Sampling(1.0, NEW))
        took = time.process_time() - start
        return took, sum(len(ours.chat.agent(step.action)) for t in played for step in t.steps[t.start :])

    def fresh() -> ChatPolicy:
        return local.policy(chat.model, chat.tokenizer, "", max_length=setup.max_length, slots=SLOTS)

    ours = fresh()
    task_ids = setup.spec.task_ids("train")[: 4 * options.tasks]
    whole = [Job(Prefix(i), derive_seed(0, i)) for i in task_ids]
    played = play(setup.spec, ours, whole, Sampling(1.0, NEW), slots=SLOTS)
    long = [t for t in played if len(t.steps) >= HISTORIES[-1] + TURNS][: options.tasks]
    found: dict[str, Any] = {"N": COUNTS, "history": []}
    for t in HISTORIES:
        points = []
        for n in COUNTS:
            jobs = [j for p in long for j in credit.sample_jobs(p.prefix(t), 0, range(n))]
            points.append(seconds(fresh(), jobs, t + TURNS))
        took, tokens = np.array(points).T
        theirs = seconds(Generate(chat), [Job(p.prefix(t), p.seed) for p in long], t + TURNS)  # type: ignore[arg-type]
        prompts = [ours.chat.prompt((*setup.spec.prompt, *p.history(t))) for p in long]
        slope, once, r2 = line(tokens, took)
        found["history"].append(
            {
                "turns": t,
                "length": float(np.mean([len(ids) for ids in prompts])),
                "seconds": took.tolist(),
                "tokens": tokens.tolist(),
                "seconds_per_token": slope,
                "seconds_once": once / len(long),
                "r2": line(np.array(COUNTS), took)[2],
                "generate_seconds_per_token": theirs[0] / theirs[1],
            }
        )
        last = found["history"][-1]
        print(
            f"after {t:2} turns ({last['length']:.0f} tokens): {slope * 1e3:.3f} ms a new token, {r2:.3f} of it a line;"
            f" once for all N {last['seconds_once'] * 1e3:.1f} ms; over N R2 {last['r2']:.3f};"
            f" model.generate {last['generate_seconds_per_token'] * 1e3:.2f} ms a new token"
        )
    rows = [seconds(fresh(), whole, limit) for limit in EPISODES]
    found["episodes"] = {
        "turns": EPISODES,
        "tokens": [tokens / len(whole) for _, tokens in rows],
        "seconds": [took / len(whole) for took, _ in rows],
    }
    slope, once, r2 = line(np.array(found["episodes"]["tokens"]), np.array(found["episodes"]["seconds"]))
    found["episodes"] |= {"slope": slope, "intercept": once, "r2": r2}
    print(f"whole episodes of 1 to 20 turns: {once * 1e3:.1f} ms + {slope * 1e3:.3f} ms a new token, R2 {r2:.3f}")
    first, last = found["history"][0], found["history"][-1]
    for name, key in (("ours", "seconds_per_token"), ("model.generate", "generate_seconds_per_token")):
        found[f"dearer {name}"] = last[key] / first[key]
        print(f"{name}: a new token is {last[key] / first[key]:.2f} times as dear after the longest history")
    draw(found, options.plot)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope and beginning of the straight line through the points, and how much of their variance it explains."""
    slope, at0 = np.polyfit(x, y, 1)
    return slope, at0, 1 - np.square(y - slope * x - at0).sum() / np.square(y - y.mean()).sum()


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.8, len(found["history"])))
    for one, shade in zip(found["history"], shades, strict=True):
        label = f"after {one['turns']} turns, R² {one['r2']:.3f}"
        left.plot(found["N"], one["seconds"], "o-", color=shade, label=label)
    left.set(title=f"N samples of {TURNS} turns", xlabel="N", ylabel="seconds in all")
    episodes = found["episodes"]
    x = np.array([0, *episodes["tokens"]])
    middle.plot(episodes["tokens"], episodes["seconds"], "o", color="#1f6f8b")
    fitted = episodes["intercept"] + episodes["slope"] * x
    middle.plot(x, fitted, color="#99a8b2", label=f"line, R² {episodes['r2']:.3f}")
    middle.set(title="whole episodes of 1 to 20 turns", xlabel="own new tokens", ylabel="seconds a rollout")
    for key, label, color in (
        ("generate_seconds_per_token", "model.generate", "#c0653b"),
        ("seconds_per_token", "ours", "#1f6f8b"),
    ):
        points = [(one["length"], 1e3 * one[key]) for one in found["history"]]
        right.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    right.set(title="one new token after a history", xlabel="tokens of history", ylabel="milliseconds")
    for axis in (left, middle, right):
        axis.set(xlim=(0, None), ylim=(0, None))
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
