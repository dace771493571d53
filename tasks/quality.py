"""The quality of a run's step rewards against the environment's oracle (see `ipr.credit.quality`). No flow runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipr import credit, rollout, store
from ipr.credit.quality import Candidate, agreement, candidates, drawn_always, first, plot, rescored
from ipr.data.experts import environment
from ipr.runs.run import Run, stage_name
from ipr.types import IprError, StepReward, Trajectory
from tasks.common import SCORER, experts, play
from tasks.reward import read, reward_model, reward_model_file


def quality(run: Run, samples: Sequence[int], taus: Sequence[float], scorers: Sequence[str]) -> dict[str, Any]:
    """Write quality.json and plots/quality.png of a run; returns what the former holds.

    `samples` and `taus` may be empty: those that suit the run. Without `scorers` the run's own step rewards are taken;
    a stage's name makes its model the scorer, which plays what is not stored yet (`quality/<stage>.parquet`).
    """
    settings, spec = run.config.algorithm, environment(run.config.env)
    if spec.oracle is None:
        raise IprError(f"environment {spec.name} has no oracle to compare with; give EnvSpec.oracle")
    samples = sorted(set(samples)) or sorted(
        {n for n in (1, 2, 3, 5, 10, 20) if n < settings.samples} | {settings.samples}
    )
    taus = sorted(set(taus)) or sorted({0.0, settings.tau, 0.5})
    if samples[0] < 1 or taus[0] < 0:
        raise IprError(f"--samples {samples[0]} --tau {taus[0]:g}: give N of 1 or more and tau of 0 or more")
    if not scorers and samples[-1] > settings.samples:
        raise IprError(
            f"--samples {samples[-1]}: the run has {settings.samples} returns of a step reward; give at most that, or"
            f" --scorer {stage_name(SCORER)}, which plays the others"
        )
    found, played = _candidates(run)
    values = rollout.values(spec, [r.prefix for c in found for r in (c.ahead, c.behind)])
    by_scorer = {
        name: rescored(found, _scored(run, _stage(run, name), found, played, max(*samples, settings.samples)))
        for name in scorers
    } or {stage_name(SCORER): found}
    resamples = run.config.eval.bootstrap
    rows = [{"scorer": "-"} | agreement(found, values, None, 0.0, resamples=resamples)]
    note = ""
    for name, few in by_scorer.items():
        curtailed = any("curtailed" in (c.ahead.source, c.behind.source) for c in few)
        fair = drawn_always(few) if curtailed else samples[-1]
        for tau, n in ((tau, n) for tau in taus for n in samples):
            if n <= fair:
                of = first(few, fair) if curtailed else few
                rows.append({"scorer": name} | agreement(of, values, n, tau, resamples=resamples))
            elif (n, tau) == (settings.samples, settings.tau):
                whole = agreement(few, values, n, tau, curtailed_at=tau, resamples=resamples)
                rows.append({"scorer": name} | whole)
            else:
                note = (
                    f"the run curtailed its samples (algorithm.curtail): only N up to {fair}, and N ="
                    f" {settings.samples} with tau = {settings.tau:g}, can be told; --scorer"
                    f" {stage_name(SCORER)} plays what was left out"
                )
    if (path := reward_model_file(run)).exists():
        firsts = {t.task_id: t.first_observation for t in played}
        prefixes = [r.prefix for c in found for r in (c.ahead, c.behind)]
        modelled = rescored(found, read(reward_model(run, firsts), prefixes, credit.known_outcomes(played)))
        note = "; ".join(filter(None, [note, f"{path.name} is judged on what it was fitted to, too"]))
        for tau in taus:
            rows.append({"scorer": "model"} | agreement(modelled, values, 0, tau, resamples=resamples))
    result = {"run": run.name, "env": spec.name, "env_version": spec.version, "note": note, "rows": rows}
    store.write_json(run.folder / "quality.json", result)
    picture = run.folder / "plots" / "quality.png"
    plot(
        rows,
        f"Step-reward quality: {spec.name}, run {run.name}",
        lambda figure: store.replace(picture, lambda p: figure.savefig(p, format="png", dpi=110)),
    )
    return result | {"plot": str(picture)}


def _candidates(run: Run) -> tuple[list[Candidate], list[Trajectory]]:
    """The candidates of all iterations, each once, and the trajectories that they come from."""
    found: dict[tuple[Any, Any], Candidate] = {}
    played = experts(run)
    mine = list(played)
    for k in range(1, run.config.algorithm.iterations + 1):
        if run.record(k, "reward") is None:
            continue
        explored = store.load(run.stage(k) / "explored.parquet", Trajectory)
        rewards = {r.prefix: r for r in store.load(run.stage(k) / "step_rewards.parquet", StepReward)}
        played += explored
        if rewards:
            for candidate in candidates(mine, explored, rewards, run.config.algorithm):
                found.setdefault((candidate.ahead.prefix, candidate.behind.prefix), candidate)
    if not found:
        raise IprError(
            f"{run.folder} has no step rewards of an expert's and an agent's action to compare (algorithm.name is"
            f" {run.config.algorithm.name}); first: ipr reward --dir {run.folder}"
        )
    return list(found.values()), played


def _stage(run: Run, name: str) -> int:
    stages = {stage_name(k): k for k in range(-1, run.config.algorithm.iterations + 1)}
    if name not in stages:
        raise IprError(f"--scorer {name}: no stage of {run.folder}; there are {', '.join(stages)}")
    if stages[name] >= 0 and not run.model(stages[name]).is_dir():
        raise IprError(f"--scorer {name}: {run.model(stages[name])} is not there yet; continue the run first")
    return stages[name]


def _scored(
    run: Run, stage: int, found: Sequence[Candidate], played: Sequence[Trajectory], samples: int
) -> dict[Any, StepReward]:
    """Step rewards of the candidates by the model of a stage, all samples played; kept in the run."""
    path = run.folder / "quality" / f"{stage_name(stage)}.parquet"
    reuse = {r.prefix: r for c in found for r in (c.ahead, c.behind)} if stage == SCORER else {}
    if path.exists():
        reuse |= {r.prefix: r for r in store.load(path, StepReward)}
    rewards, _ = credit.estimate(
        dict.fromkeys(r.prefix for c in found for r in (c.ahead, c.behind)),
        play(run, stage, "quality", stage, run.config.algorithm.temperature),
        samples=samples,
        seed=run.config.seed,
        known=credit.known_outcomes(played),
        reuse=reuse,
    )
    store.save(path, rewards.values(), StepReward)
    run.drop_shards(stage)
    return rewards
