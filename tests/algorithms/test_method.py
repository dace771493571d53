"""Pairs and step rewards on hand-written trajectories: the expected rows are written out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import flows
from ipr import algorithms, config, credit
from ipr.apps import start
from ipr.config import AlgorithmConfig
from ipr.training import losses
from ipr.types import GROUPS, IprError, Job, Message, More, Prefix, Step, StepReward, Trajectory
from tests.conftest import Install

A, B, C, X, Y = (Step(f"do {c}", f"saw {c}") for c in "abcxy")


def trajectory(steps: Sequence[Step], reward: float, start: int = 0, policy: str = "agent") -> Trajectory:
    return Trajectory("task", "room", tuple(steps), reward, "terminated", policy, start=start)


EXPERT = trajectory([A, B, C], 1.0, policy="expert")


def rewards(means: dict[tuple[Step, ...], float]) -> dict[Prefix, StepReward]:
    prefixes = {Prefix("task", steps): mean for steps, mean in means.items()}
    return {p: StepReward(p, mean, 5, (), 5) for p, mean in prefixes.items()}


def ipr(**settings: object) -> algorithms.Algorithm:
    return algorithms.make(AlgorithmConfig.model_validate({"tau": 0.3} | settings))


def test_explores_every_prefix_of_the_expert() -> None:
    assert ipr().explore([EXPERT], []) == [Prefix("task", steps) for steps in ((), (A,), (A, B))]


def test_blanks_at_the_ends_of_a_turn_are_no_difference() -> None:
    other = replace(EXPERT, steps=(A, Step(f" {B.action}\n", B.observation), C))
    for expert, agent in ((other, trajectory([A, B, Y], 0.0, 1)), (EXPERT, replace(other, start=1, reward=0.0))):
        found = ipr().score([expert], [agent])
        assert (found.contrasts, found.saved) == ([], {"equal": 1})
        assert ipr().examples([expert], [agent], {}).dropped == {"step: same action": 1}
    assert other.trimmed() == EXPERT


def test_step_pair_holds_the_two_remainders() -> None:
    agent = trajectory([A, X, Y], 0.0, start=1)
    found = ipr().examples([EXPERT], [agent], rewards({(A, B): 0.8, (A, X): 0.4}))
    (pair,) = found.pairs
    assert (pair.level, pair.t, pair.winner) == ("step", 1, "expert")
    assert pair.margin == pytest.approx(0.4)
    assert pair.prompt == (Message("user", "room"), Message("assistant", "do a"), Message("user", "saw a"))
    assert pair.chosen == (Message("assistant", "do b"), Message("user", "saw b"), Message("assistant", "do c"))
    assert pair.rejected == (Message("assistant", "do x"), Message("user", "saw x"), Message("assistant", "do y"))


def test_both_margins_are_needed() -> None:
    worse = trajectory([A, X], 0.0, start=1)
    equal = trajectory([A, X], 1.0, start=1)
    known = rewards({(A, B): 0.8, (A, X): 0.5})
    assert not ipr(tau=0.31).examples([EXPERT], [worse], known).pairs
    assert len(ipr(tau=0.29).examples([EXPERT], [worse], known).pairs) == 1
    assert ipr(tau=0.29).examples([EXPERT], [equal], known).dropped == {"step: no outcome margin": 1}


def test_agent_wins_only_where_it_is_allowed() -> None:
    poor = trajectory([A, B], 0.2, policy="expert")
    agent = trajectory([A, X], 0.9, start=1)
    known = rewards({(A, B): 0.1, (A, X): 0.7})
    assert not ipr().examples([poor], [agent], known).pairs
    (pair,) = ipr(agent_wins=True).examples([poor], [agent], known).pairs
    assert (pair.winner, pair.chosen[0].content, pair.rejected[0].content) == ("agent", "do x", "do b")


def test_outcome_pairs_are_whole_trajectories() -> None:
    explored = [trajectory([X], 0.0), trajectory([A, X], 0.0, start=1)]
    (pair,) = algorithms.make(AlgorithmConfig(name="eto")).examples([EXPERT], explored, {}).pairs
    assert (pair.level, pair.t, pair.prompt) == ("outcome", 0, (Message("user", "room"),))
    assert pair.rejected == (Message("assistant", "do x"),)


def test_rft_keeps_what_does_as_well_as_the_expert() -> None:
    method = algorithms.make(AlgorithmConfig(name="rft"))
    found = method.examples([EXPERT], [trajectory([X], 1.0), trajectory([Y], 0.5)], {})
    assert [d.source for d in found.demonstrations] == ["expert", "agent"]


def test_savings_leave_the_pairs_as_they_are() -> None:
    random_ = random.Random(0)
    for _ in range(50):
        explored = [
            trajectory([*EXPERT.steps[:t], random_.choice([EXPERT.steps[t], X])], random_.choice([0.0, 1.0]), start=t)
            for t in range(3)
        ]
        full = ipr(gate=False, skip_equal=False).score([EXPERT], explored)
        known = {p: StepReward(p, random_.random(), 5, (), 5) for p in full.prefixes}
        thrifty = ipr().score([EXPERT], explored)
        assert set(thrifty.prefixes) <= set(full.prefixes)
        few = {p: known[p] for p in thrifty.prefixes}
        assert ipr().examples([EXPERT], explored, few) == ipr().examples([EXPERT], explored, known)


def play(outcomes: dict[tuple[Prefix, int], float]):
    """Plays jobs with given outcomes by (prefix, seed); counts in `played`."""

    def run(jobs: list[Job], more: More | None = None) -> list[Trajectory]:
        run.played += len(jobs)  # type: ignore[attr-defined]
        return [
            replace(trajectory(j.prefix.steps, outcomes[j.prefix, j.seed], start=len(j.prefix.steps)), seed=j.seed)
            for j in jobs
        ]

    run.played = 0  # type: ignore[attr-defined]
    return run


def drawn(prefixes: Sequence[Prefix], samples: int, random_: random.Random) -> dict[tuple[Prefix, int], float]:
    return {
        (job.prefix, job.seed): float(random_.random() < 0.5)
        for p in prefixes
        for job in credit.sample_jobs(p, 7, range(samples))
    }


def test_step_reward_is_the_mean_outcome_or_the_outcome_itself() -> None:
    middle, last = Prefix("task", (A,)), Prefix("task", (A, B, C))
    outcomes = drawn([middle], 4, random.Random(1))
    found, counts = credit.estimate(
        [middle, last], play(outcomes), samples=4, seed=7, known=credit.known_outcomes([EXPERT])
    )
    assert found[middle].mean == sum(outcomes.values()) / 4
    assert found[middle].samples == tuple(outcomes.values())
    assert (found[last].mean, found[last].n, found[last].source) == (1.0, 0, "outcome")
    assert counts == {"played": 4, "outcome": 4, "reused": 0, "cached": 0, "curtailed": 0}


def test_earlier_step_rewards_are_reused_and_samples_do_not_depend_on_the_order() -> None:
    p, q = Prefix("task", (A,)), Prefix("task", (X,))
    outcomes = drawn([p, q], 3, random.Random(2))
    one, _ = credit.estimate([p, q], play(outcomes), samples=3, seed=7, known={})
    other, _ = credit.estimate([q, p], play(outcomes), samples=3, seed=7, known={})
    assert one == other
    again, counts = credit.estimate([p, q], play({}), samples=3, seed=7, known={}, reuse=one)
    assert again == one
    assert counts["played"] == 0


def test_curtailed_decisions_are_those_of_all_samples() -> None:
    random_ = random.Random(3)
    saved = 0
    for _ in range(200):
        tau, n = random_.choice([0.01, 0.1, 0.3, 0.5]), random_.choice([1, 3, 5])
        p, q = Prefix("task", (A,)), Prefix("task", (X,))
        outcomes = drawn([p, q], n, random_)
        known = {q: random_.choice([0.0, 1.0])} if random_.random() < 0.3 else {}
        contrasts = [algorithms.Contrast(p, q)]
        full, _ = credit.estimate([p, q], play(outcomes), samples=n, seed=7, known=known)
        short, counts = credit.estimate(
            [p, q], play(outcomes), samples=n, seed=7, known=known, contrasts=contrasts, curtail_at=tau
        )
        assert (full[p].mean - full[q].mean > tau) == (short[p].mean - short[q].mean > tau)
        assert (counts["curtailed"] == 0) == all(r.source != "curtailed" for r in short.values())
        saved += counts["curtailed"]
    assert saved > 0


def test_an_unknown_method_and_a_knob_without_effect_are_refused() -> None:
    with pytest.raises(IprError, match="unknown method 'etoo'; did you mean 'eto'"):
        config.load(None, ["algorithm.name=etoo"])
    with pytest.raises(IprError, match="unknown loss 'ipf'; did you mean 'ipr'"):
        losses.get("ipf")
    for name, key in (
        ("rft", "train.epochs=2"),
        ("rft", "algorithm.tau=0.1"),
        ("eto", "train.step_dpo=0.5"),
        ("eto", "train.sft=0.5"),
        ("ipr", "train.observation_weight=0.1"),
        ("eto", "train.temperature=2"),
    ):
        with pytest.raises(IprError, match=f"override '{key.split('=')[0]}' has no effect with algorithm.name={name}"):
            config.load(None, [f"algorithm.name={name}", key])
    config.load(None, ["algorithm.name=rft", "sft.epochs=2", "algorithm.samples=3"])
    config.load(None, ["algorithm.name=best", "algorithm.draws=3", "algorithm.explore_temperature=0.7"])
    presets = Path(flows.__path__[0]) / "configs"
    assert config.load("smoke", ["algorithm.name=rft"], presets).algorithm.name == "rft"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["algorithm.name=rft", "sft.epochs=0"], r"name=rft trains with the knobs of sft, .*; set sft\.updates"),
        (["algorithm.name=eto", "train.outcome_dpo=0"], "name=eto has no loss left"),
        (["train.outcome_dpo=0", "train.step_dpo=0", "train.sft=0"], "name=ipr has no loss left"),
        (["algorithm.name=eto", "train.epochs=0"], r"name=eto trains with the knobs of train, .*; set train\.updates"),
        (["env.name=sql", "algorithm.confidence=0.9"], r"those of env\.name=sql go down to -1; set it to 0"),
    ],
)
def test_what_trains_nothing_and_a_bound_for_other_rewards_are_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(IprError, match=told):
        start.check(config.load(None, overrides))


@pytest.mark.parametrize("name", list(algorithms._BUILT_IN))
def test_a_method_says_all_of_itself(name: str) -> None:
    method = algorithms.make(AlgorithmConfig(name=name, draws=2, explore_temperature=1.0))
    assert losses.get(method.training.loss).on == ("pairs" if name in ("eto", "ipr") else "demonstrations")
    explored = [trajectory([X, Y], 0.0), trajectory([X], 1.0)]
    assert bool(method.scores) == bool(method.score([EXPERT], explored).prefixes)


def test_a_package_adds_a_method_and_a_loss(install: Install) -> None:
    code = "from ipr.algorithms.eto import ETO\nclass method(ETO): pass"
    install("plug-method", {"mine": "plug_method", "broken": "plug_nothing"}, group=GROUPS["method"], plug_method=code)
    code = "from ipr.training.losses import Loss, imitation\nloss = Loss('demonstrations', imitation)"
    install("plug-loss", {"mine": "plug_loss"}, group=GROUPS["loss"], plug_loss=code)
    assert algorithms.make(AlgorithmConfig(name="mine", outcome_margin=0.5)).outcome_margin == 0.5  # type: ignore[attr-defined]
    assert losses.get("mine").on == "demonstrations"
    with pytest.raises(IprError, match="method 'broken': module plug_nothing: ModuleNotFoundError"):
        AlgorithmConfig(name="broken")


def test_best_imitates_experts_and_the_shortest_success_of_each_new_problem() -> None:
    best = algorithms.make(AlgorithmConfig.model_validate({"name": "best"}))
    assert best.explore([EXPERT], ["new", "other"]) == [Prefix("new"), Prefix("other")]
    assert best.explore([EXPERT], []) == [Prefix("task")]
    played = (([A, B, C], 1.0), ([A, C], 1.0), ([C], 0.0))
    new = [replace(trajectory(steps, reward), task_id="new") for steps, reward in played]
    found = best.examples([EXPERT], [*new, trajectory([A, C], 1)], {})
    assert [d.task_id for d in found.demonstrations] == ["task", "new"]
    assert found.demonstrations[0].source == "expert"
    assert [m.content for m in found.demonstrations[1].messages if m.role == "assistant"] == ["do a", "do c"]
    assert found.dropped == {"demonstration: no success": 1}
    assert not any(d.weights for d in found.demonstrations)
    weighed = algorithms.make(AlgorithmConfig.model_validate({"name": "best", "weigh": True}))
    late = [replace(one, task_id="late") for one in (new[2], new[2], new[1])]
    rows = weighed.examples([EXPERT], [new[1], *late], {}).demonstrations
    assert [(d.task_id, *dict.fromkeys(d.weights)) for d in rows] == [("task",), ("new",), ("late", 3.0)]
    assert len(rows[2].weights) == len(rows[2].messages)
    raft = algorithms.make(AlgorithmConfig.model_validate({"name": "raft"}))
    own = raft.examples([EXPERT], [*new, trajectory([A, C], 1)], {}).demonstrations
    assert [(d.task_id, d.source) for d in own] == [("new", "agent"), ("task", "agent")], "no expert beside them"
