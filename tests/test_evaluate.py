"""Intervals over seeds and games, on cases whose variance is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ipr.evaluate import choose, compare_seeds, contrast, hierarchical, of_mean, wilson
from ipr.types import IprError, Prefix, Step, StepReward, Trajectory


def drawn(random: np.random.Generator, seeds: int, games: int, of_seed: float, of_game: float) -> np.ndarray:
    """Rewards [seeds, games] around 0.5: what a seed adds, and what a game adds for every seed."""
    return 0.5 + of_seed * random.normal(size=(seeds, 1)) + of_game * random.normal(size=(1, games))


def spread(bounds: list[float]) -> float:
    """The variance of a normal distribution with this 95 % interval."""
    return ((bounds[1] - bounds[0]) / 3.92) ** 2


@pytest.mark.parametrize(("of_seed", "of_game"), [(0.1, 0.3), (0.0, 0.3), (0.2, 0.0)])
def test_seeds_and_games_both_widen_the_interval(of_seed: float, of_game: float) -> None:
    seeds, games = 6, 40
    random = np.random.default_rng(0)
    found = [
        spread(hierarchical(drawn(random, seeds, games, of_seed, of_game), resamples=300, seed=k)) for k in range(150)
    ]
    assert np.mean(found) == pytest.approx(of_seed**2 / seeds + of_game**2 / games, rel=0.15)


def test_what_two_agents_have_in_common_does_not_widen_their_difference() -> None:
    random = np.random.default_rng(1)
    paired, apart = [], []
    for k in range(60):
        a = drawn(random, 6, 40, 0.1, 0.3)  # the same game, and the same seed, is as hard for both
        b = a + 0.05 + 0.02 * random.normal(size=(6, 1))
        paired.append(spread(hierarchical(b, a, resamples=300, seed=k)))
        apart.append(spread(hierarchical(b, a, paired=False, resamples=300, seed=k)))
    assert np.mean(paired) == pytest.approx(0.02**2 / 6, rel=0.25)
    # Groups of other seeds: the games still cancel out, the seeds do not.
    assert np.mean(apart) == pytest.approx((2 * 0.1**2 + 0.02**2) / 6, rel=0.25)


def test_one_seed_is_an_interval_over_its_games() -> None:
    low, high = hierarchical(np.array([[0.0, 1.0] * 50]))
    assert (low, high) == pytest.approx((0.4, 0.6), abs=0.02)


def test_rewards_that_are_all_equal_are_not_certain() -> None:
    values = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    assert of_mean(values, 200) == hierarchical(values, resamples=200)
    assert of_mean(np.ones((2, 3)), 200) == of_mean(np.ones(3), 200) == wilson(1.0, 3)


def played(rewards: Sequence[float]) -> list[Trajectory]:
    return [Trajectory(f"g{k}", "", (), r, "terminated") for k, r in enumerate(rewards)]


def test_the_last_stage_that_dev_does_not_show_to_be_worse_is_reported() -> None:
    def agent(wins: int, first: int = 0) -> list[Trajectory]:
        """That wins so many of 100 games, from the first on."""
        return played([float(first <= k < first + wins) for k in range(100)])

    sft, best = agent(50), agent(60)
    noise, worse = agent(58, first=20), agent(40, first=20)  # 20 of its losses are wins of the best; so are 40
    assert choose({"sft": sft}) == "sft"
    assert choose({"sft": sft, "1": best}) == "1"
    assert choose({"sft": sft, "1": best, "2": noise}) == "2"
    assert choose({"sft": sft, "1": best, "2": worse}) == "1"
    assert choose({"sft": sft, "1": best, "2": noise, "3": worse}) == "2"
    assert choose({"sft": sft, "1": worse, "2": noise, "3": best}) == "3"
    # Nothing is gained where the SFT agent is the best, be it by noise.
    assert choose({"sft": best, "1": noise, "2": best}) == "sft"


def test_groups_of_runs_are_compared_seed_by_seed() -> None:
    a = {0: played([0, 0, 1, 1]), 1: played([0, 1, 1, 1])}
    b = {0: played([0, 1, 1, 1]), 1: list(reversed(played([0, 1, 1, 1])))}
    found = compare_seeds(a, b)
    assert (found["difference"], found["games"], found["paired"]) == (0.125, 4, True)
    assert (found["by_seed"], found["better"]) == ({0: 0.25, 1: 0.0}, 1)
    assert found["interval"][0] <= 0.125 <= found["interval"][1]
    other = compare_seeds(a, {7: b[0]})
    assert (other["paired"], other["seeds"]) == (False, [[0, 1], [7]])
    with pytest.raises(IprError, match=r"did not play the same games \(3, 4 games\)"):
        compare_seeds(a, {0: played([1, 1, 1]), 1: b[1]})
    of_other_data = [replace(t, first_observation="another room") for t in b[1]]
    with pytest.raises(IprError, match=r"other games of one name: g\d begins with '' and with 'another room'"):
        compare_seeds(a, {0: b[0], 1: of_other_data})


def test_means_of_curtailed_samples_are_those_of_the_first_that_none_lacks() -> None:
    """Two actions with equal chances: stopping by what was drawn makes the means differ, the first samples do not."""

    def scored(who: str, *samples: float, source: str = "curtailed") -> tuple[Prefix, StepReward]:
        prefix = Prefix("a", (Step(who, ""),))
        return prefix, StepReward(prefix, sum(samples) / len(samples), len(samples), samples, 5, source)  # type: ignore[arg-type]

    expert, agent = (Trajectory("a", "", (Step(who, ""),), 1.0, "terminated") for who in ("expert", "agent"))
    rewards = dict([scored("expert", 1, 0, 0, 0), scored("agent", 0, 1)])
    found = contrast(rewards, [expert], [agent])
    assert found == {
        "expert": 0.5,
        "agent": 0.5,
        "gap": 0.0,
        "samples": 2,
        "by_position": [{"t": 1, "n": 1, "expert": 0.5, "agent": 0.5}],
    }
    whole = dict([scored("expert", 1, 0, 0, 0, source="monte_carlo"), scored("agent", 0, 1, source="monte_carlo")])
    assert (found := contrast(whole, [expert], [agent]))
    assert (found["expert"], found["agent"], found["samples"]) == (0.25, 0.5, None)
