"""What the savings leave as it is (exact ones), and how often they err (those whose error is set)."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import comb
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ipr import algorithms, config, credit, envs, identity
from ipr.algorithms.pairs import above, difference
from ipr.config import AlgorithmConfig
from ipr.credit.draws import sample_jobs
from ipr.envs import react
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play
from ipr.types import IprError, Job, Message, Prefix, Sampling, Step, StepReward, Trajectory, derive_seed
from tests import toy

OFF = {"gate": False, "skip_equal": False, "reuse": False, "join": False, "curtail": False}
ON = dict.fromkeys(OFF, True)
THOUGHTS = {
    "take ring": "There is the ring.",
    "go to table": "I bring it.",
    "put ring": "I put it down.",
    "stop": "No.",
}
"""The expert's, but for the last."""


def player(skill: float, sampled: bool) -> ScriptedPolicy:
    """Does as the expert with probability `skill`; not `sampled`, its words follow from the conversation alone."""

    def script(conversation: tuple[Message, ...], seed: int) -> str:
        seen, last = [m.content for m in conversation if m.role == "user"], conversation[-1].content
        chance = random.Random(f"{seed if sampled else 0} {[m.content for m in conversation]}")
        if chance.random() >= skill:
            action = chance.choice(list(THOUGHTS))
        elif any("You take the ring" in text for text in seen):
            action = "put ring" if last.startswith("You are at table") else "go to table"
        else:
            looked = sum(text.startswith("You are at box") for text in seen)
            action = "take ring" if "a ring" in last else f"go to box {min(looked + 1, toy.BOXES)}"
        return react.compose(THOUGHTS.get(action, f"I look into {action[6:]}."), action)

    return ScriptedPolicy(script)


@lru_cache
def without() -> tuple[list[set[Any]], Counter[str], list[list[Trajectory]]]:
    return two_iterations(OFF)


def two_iterations(savings: Mapping[str, bool]) -> tuple[list[set[Any]], Counter[str], list[list[Trajectory]]]:
    """The decisions on pairs, the rollouts, and what was explored."""
    settings = AlgorithmConfig(tau=0.3, **savings)  # type: ignore[arg-type]
    spec, method = toy.spec(), algorithms.make(settings)
    experts = [spec.expert(i) for i in spec.task_ids("train")[:12]]
    scorer, earlier = player(0.6, sampled=True), {}
    decided, counts, explored = [], Counter(), []
    for skill in (0.6, 0.7):
        jobs = [Job(p, derive_seed(0, "explore", p.key())) for p in method.explore(experts, [])]
        agent = player(skill, sampled=False)
        explored.append(play(spec, agent, jobs, Sampling(0.0), join=settings.join))
        counts["explored turns"] += sum(map(len, agent.batches))
        wanted = method.score(experts, explored[-1])
        rewards, rollouts = credit.estimate(
            wanted.prefixes,
            lambda jobs, more: play(spec, scorer, jobs, Sampling(1.0), more=more),
            samples=5,
            seed=0,
            known=credit.known_outcomes([*experts, *explored[-1]]),
            reuse=earlier if settings.reuse else {},
            contrasts=wanted.contrasts,
            curtail_at=settings.tau if settings.curtail else None,
        )
        earlier |= rewards
        counts.update(rollouts)
        counts.update(wanted.saved)
        pairs = method.examples(experts, explored[-1], rewards).pairs
        decided.append({(p.task_id, p.t, p.level, p.winner, p.chosen, p.rejected) for p in pairs})
    return decided, counts, explored


@pytest.mark.parametrize("saving", [*OFF, "all"])
def test_each_exact_saving_leaves_the_pairs_as_they_are(saving: str) -> None:
    pairs, counts, explored = without()
    assert all(len([p for p in decided if p[2] == "step"]) >= 5 for decided in pairs)
    thrifty_pairs, thrifty, thrifty_explored = two_iterations(ON if saving == "all" else OFF | {saving: True})
    assert thrifty_pairs == pairs
    assert thrifty_explored == explored
    counter = {"gate": "gated", "skip_equal": "equal", "reuse": "reused", "curtail": "curtailed"}
    for name in OFF if saving == "all" else [saving]:
        if name == "join":
            assert thrifty["explored turns"] < counts["explored turns"]
        else:
            assert thrifty[counter[name]] > 0
            assert thrifty["played"] < counts["played"]


P, Q = Prefix("task", (Step("do a", "saw a"),)), Prefix("task", (Step("do x", "saw x"),))


def coins(rates: Mapping[Prefix, float], seed: int = 0):
    """Plays jobs with outcomes 1 at these rates, a function of (seed, job)."""

    def run(jobs: list[Job], more: Any = None) -> list[Trajectory]:
        return [
            Trajectory(
                "task",
                "",
                j.prefix.steps,
                float(random.Random(f"{seed} {j.seed}").random() < rates[j.prefix]),
                "terminated",
                seed=j.seed,
                start=len(j.prefix.steps),
            )
            for j in jobs
        ]

    return run


def test_cached_outcomes_serve_other_runs_and_other_n(tmp_path: Path) -> None:
    rates = {P: 0.5, Q: 0.5}
    cache = credit.Outcomes(tmp_path / "deep" / "outcomes.sqlite", "scorer")
    plain, _ = credit.estimate([P, Q], coins(rates), samples=6, seed=1, known={})
    few, first = credit.estimate([P, Q], coins(rates), samples=4, seed=1, known={}, cache=cache)
    many, second = credit.estimate([P, Q], coins(rates), samples=6, seed=1, known={}, cache=cache)
    assert (first["played"], first["cached"], second["played"], second["cached"]) == (8, 0, 4, 8)
    assert many == plain
    assert [r.samples for r in few.values()] == [r.samples[:4] for r in plain.values()]
    other = credit.Outcomes(tmp_path / "deep" / "outcomes.sqlite", "another scorer")
    assert credit.estimate([P], coins(rates), samples=4, seed=1, known={}, cache=other)[1]["cached"] == 0
    assert credit.estimate([P], coins(rates), samples=4, seed=2, known={}, cache=cache)[1]["cached"] == 0


@pytest.mark.parametrize("size", [3, 4, 100])
def test_samples_that_follow_in_their_shard_are_those_of_rounds(size: int, tmp_path: Path) -> None:
    """Whatever a shard holds: what was cut apart is asked for later."""
    for trial in range(40):
        chance = random.Random(trial)
        actions = [Prefix("task", (Step(f"do {k}", "saw"),)) for k in range(12)]
        rates = {p: chance.random() for p in actions}
        # Some actions are compared with several, some outcomes are known.
        contrasts = [algorithms.Contrast(*chance.sample(actions, 2)) for _ in range(7)]
        shared: dict[str, Any] = {"samples": 5, "seed": 0, "contrasts": contrasts, "curtail_at": 0.3}
        shared |= {"known": {actions[0]: 1.0}, "error": 0.05 * (trial % 2)}
        wanted = list(dict.fromkeys(p for c in contrasts for p in (c.ahead, c.behind)))
        run, calls = coins(rates, trial), []

        def play_in_shards(jobs: list[Job], more: Any, run: Any = run, calls: list[int] = calls) -> list[Trajectory]:
            calls.append(len(jobs))
            found = []
            for first in range(0, len(jobs), size):
                waiting = jobs[first : first + size]
                part = pickle.loads(pickle.dumps(more.part(waiting)))
                while waiting:
                    found += run([waiting.pop(0)])
                    waiting += part.after(found[-1].job, found[-1].reward)
            return found

        cache = credit.Outcomes(tmp_path / f"{trial}.sqlite", "scorer")
        cache.keep({t.job: t.reward for t in run(credit.sample_jobs(actions[1], 0, [0, 1, 4]))})
        rounds = credit.estimate(wanted, run, **shared, cache=cache)
        cache = credit.Outcomes(tmp_path / f"{trial}.sqlite", "another")
        cache.keep({t.job: t.reward for t in run(credit.sample_jobs(actions[1], 0, [0, 1, 4]))})
        assert credit.estimate(wanted, play_in_shards, **shared, cache=cache) == rounds
        assert size < 100 or len(calls) <= 1


def _fill(path: str, first: int) -> int:
    cache = credit.Outcomes(Path(path), "scorer")
    for start in range(first, first + 400, 20):
        cache.keep({Job(P, i): float(i % 2) for i in range(start, start + 40)})
    return len(cache.find([Job(P, i) for i in range(first, first + 400)]))


def test_processes_share_the_cache(tmp_path: Path) -> None:
    path = str(tmp_path / "outcomes.sqlite")
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        assert list(pool.map(_fill, [path] * 3, [0, 100, 200])) == [400] * 3
    found = credit.Outcomes(Path(path), "scorer").find([Job(P, i) for i in range(700)])
    assert found == {Job(P, i): float(i % 2) for i in range(620)}


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("these are notes, long enough to be looked at" * 100)
    with pytest.raises(IprError, match=r"algorithm.cache .*notes.txt: file is not a database; delete the file"):
        credit.Outcomes(tmp_path / "notes.txt", "").find([Job(P)])


@pytest.mark.parametrize(("n", "tau", "lowest"), [(5, 0.3, 0.0), (10, 0.1, 0.0), (5, 0.6, -1.0)])
def test_sequential_test_errs_at_most_as_often_as_it_is_allowed_to(n: int, tau: float, lowest: float) -> None:
    """Over rates that are uniform, as said in `draws._doubt`; where it is worst, near the threshold, a bit more."""
    wrong, played, exact = 0, 0, 0
    trials = 300
    for trial in range(trials):
        chance = random.Random(trial)
        toss = coins({P: chance.random(), Q: chance.random()}, trial)

        def run(jobs: list[Job], more: Any = None, toss: Any = toss) -> list[Trajectory]:
            return [replace(t, reward=lowest + (1 - lowest) * t.reward) for t in toss(jobs)]

        shared: dict[str, Any] = {"samples": n, "seed": 0, "known": {}, "lowest": lowest}
        curtailed: dict[str, Any] = shared | {"contrasts": [algorithms.Contrast(P, Q)], "curtail_at": tau}
        full, _ = credit.estimate([P, Q], run, **shared)
        short, counts = credit.estimate([P, Q], run, **curtailed, error=0.1)
        exact += credit.estimate([P, Q], run, **curtailed)[1]["played"]
        played += counts["played"]
        wrong += (full[P].mean - full[Q].mean > tau) != (short[P].mean - short[Q].mean > tau)
    shares = f"wrong {wrong / trials:.3f}, played {played / trials:.1f}, curtailed exactly {exact / trials:.1f}"
    print(f"N {n}, from {lowest}: {shares}")
    assert 0 < wrong / trials <= 0.1
    assert played < 0.8 * exact < 0.8 * 2 * n * trials


def chance_of_a_pair(p: float, q: float, n: int, tau: float, confidence: float) -> float:
    """Over all outcomes of n samples of each."""
    sampled = [StepReward(P, k / n, n, (1.0,) * k + (0.0,) * (n - k), n) for k in range(n + 1)]
    weight = [[comb(n, k) * r**k * (1 - r) ** (n - k) for k in range(n + 1)] for r in (p, q)]
    found = product(range(n + 1), repeat=2)
    return sum(weight[0][i] * weight[1][j] for i, j in found if difference(sampled[i], sampled[j], confidence) > tau)


@pytest.mark.parametrize("n", [5, 10, 20])
def test_confidence_bounds_pairs_without_a_gap(n: int) -> None:
    rates = [k / 20 for k in range(21)]
    bare = max(chance_of_a_pair(r, r, n, 0.0, 0.0) for r in rates)
    bound = {c: max(chance_of_a_pair(r, r, n, 0.0, c) for r in rates) for c in (0.8, 0.9, 0.95)}
    print(n, bare, bound)
    assert bare > 0.3
    assert all(b <= 1.25 * (1 - c) for c, b in bound.items())
    # What is clear is still found.
    assert chance_of_a_pair(0.95, 0.05, n, 0.0, 0.95) > 0.9


def test_a_known_outcome_has_no_spread() -> None:
    ended, sampled = StepReward(P, 1.0, 0, (), 5, "outcome"), StepReward(Q, 0.4, 5, (1.0, 0.0, 0.0, 1.0, 0.0), 5)
    assert difference(ended, ended, 0.95) == 0
    assert 0 < difference(ended, sampled, 0.95) < difference(ended, sampled, 0.8) < difference(ended, sampled, 0)


def test_savings_that_do_not_go_together_are_refused() -> None:
    for overrides, said in (
        (["algorithm.error=0.1"], r"algorithm.error: .*set algorithm.curtail=true"),
        (["algorithm.curtail=true", "algorithm.confidence=0.9"], r"algorithm.confidence: .*algorithm.curtail=false"),
        (["algorithm.draws=2"], r"algorithm.draws: .*set algorithm.explore_temperature above 0"),
    ):
        with pytest.raises(IprError, match=said):
            config.load(None, overrides)
    cached = config.load(None, ["algorithm.cache=outcomes.sqlite"])
    assert identity.deciding(cached) == identity.deciding(config.load(None))


def test_outcomes_below_zero_keep_a_comparison_open() -> None:
    """InterCodeSQL's rows in the reverse order earn -1: three samples ahead may still fall back."""
    earned = {P: (1.0, 1.0, 1.0, -1.0, -1.0), Q: (0.0, 0.0, 0.0, 1.0, 1.0)}
    told = {j: r for p, rs in earned.items() for j, r in zip(sample_jobs(p, 1, range(5)), rs, strict=True)}

    def run(jobs: list[Job], more: Any = None) -> list[Trajectory]:
        return [replace(t, reward=told[j]) for t, j in zip(coins({P: 1, Q: 1})(jobs), jobs, strict=True)]

    shared: dict[str, Any] = {"samples": 5, "seed": 1, "known": {}, "contrasts": [algorithms.Contrast(P, Q)]}
    for lowest, played in ((-1.0, 10), (0.0, 6)):
        found, counts = credit.estimate([P, Q], run, **shared, curtail_at=0.1, lowest=lowest)
        assert counts["played"] == played
        assert above(found[P].mean - found[Q].mean, 0.1) == (lowest == 0.0)
    assert envs.get("sql").lowest == -1.0


def test_a_difference_that_is_tau_is_not_above_it() -> None:
    """Means of N outcomes differ from a decimal number by their rounding."""
    assert 4 / 5 - 3 / 5 > 0.2
    assert not above(4 / 5 - 3 / 5, 0.2)
    assert above(4 / 5 - 3 / 5, 0.19)
