"""Best-of-N of a stage, beside its figures and not among them: it plays N times as much. No flow runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ipr import evaluate, profiling, store
from ipr.data.experts import environment
from ipr.runs.run import Run
from ipr.runs.summary import samples_file
from ipr.types import IprError, Job, Prefix, Trajectory, derive_seed
from tasks.common import play
from tasks.reward import reward_model, reward_model_file


def best_of(run: Run, iteration: int, n: int, temperature: float) -> dict[str, Any]:
    """Play every test game n times; the figures, which are also added to `<stage>/best_of.json`.

    Mean reward of one sample, of each game's best by its outcome (an oracle picks: an upper bound), and of its best by
    the run's step reward model, where it has one; episodes, tokens written and seconds that it took.
    """
    if n < 2 or temperature <= 0:
        raise IprError(f"--best-of {n} --temperature {temperature:g}: give 2 or more, and a temperature above 0")
    spec, stage = environment(run.config.env), run.stage(iteration)
    tests = [ids for split, ids in evaluate.heldout(run.config.eval.sizes, spec).items() if split != "dev"]
    ids = list(dict.fromkeys(i for some in tests for i in some))
    jobs = [Job(Prefix(i), derive_seed(run.config.seed, "best of", i, k)) for i in ids for k in range(n)]
    name = f"{n}-at-{temperature:g}"
    start = profiling.now()
    played = play(run, iteration, f"best-of-{name}", iteration, temperature)(jobs)
    spent = profiling.since(start)
    groups = [played[k : k + n] for k in range(0, len(played), n)]

    def figures(value: Callable[[Trajectory], float]) -> dict[str, Any]:
        return _mean([max(group, key=value).reward for group in groups], run.config.eval.bootstrap)

    found = {
        "n": n,
        "temperature": temperature,
        "games": len(ids),
        "one": _mean([fmean(t.reward for t in group) for group in groups], run.config.eval.bootstrap),
        "oracle": figures(lambda t: t.reward),
        "model": None,
    }
    if reward_model_file(run).exists():
        values = reward_model(run, {t.task_id: t.first_observation for t in played}).read([_end(t) for t in played])
        found["model"] = figures(lambda t: values[_end(t)])
    found |= {"episodes": len(played), "tokens": spent["tokens"], "seconds": round(spent["seconds"], 1)}
    path = stage / "best_of.json"
    others = (
        [row for row in store.read_json(path) if (row["n"], row["temperature"]) != (n, temperature)]
        if path.exists()
        else []
    )
    store.write_json(path, [*others, found])
    store.save(samples_file(run, iteration, n, temperature), played, Trajectory)  # last: who finds it has the figures
    run.drop_shards(iteration)
    return found


def _end(trajectory: Trajectory) -> Prefix:
    return trajectory.prefix(len(trajectory.steps))


def _mean(values: Sequence[float], resamples: int) -> dict[str, Any]:
    return {"reward": fmean(values), "interval": evaluate.of_mean(np.array(values), resamples)}
