"""The quality of step rewards: figures worked out by hand, and a small run made by hand in the example environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ipr_guess
import pytest

from flows.cli import main
from ipr import envs, models, rollout, store
from ipr.config import validate
from ipr.credit import quality
from ipr.credit.quality import Candidate
from ipr.envs.react import compose
from ipr.policies.scripted import ScriptedPolicy
from ipr.runs.run import Run
from ipr.types import Job, Prefix, Sampling, Step, StepReward
from tests import toy
from tests.conftest import Install


def scored(name: str, samples: Sequence[float], source: str = "monte_carlo", planned: int = 3) -> StepReward:
    prefix = Prefix(f"game {name}", (Step(name, ""),))
    mean = sum(samples) / len(samples)
    return StepReward(prefix, mean, len(samples), tuple(samples), planned, source)  # type: ignore[arg-type]


A, B = scored("a", [1, 1, 0]), scored("b", [0, 0, 1])
C, D = scored("c", [1, 1, 1]), scored("d", [0, 0, 0])
VALUES = {A.prefix: 2.0, B.prefix: 1.0, C.prefix: 0.0, D.prefix: 1.0}


@pytest.mark.parametrize(
    ("n", "tau", "built"),
    [
        (1, 0.0, 4 / 9),  # a draws 1 (2/3) and b draws 0 (2/3)
        (1, 0.9, 4 / 9),
        (1, 1.0, 0.0),
        (2, 0.0, 5 / 9),  # all but 1/2 against 1/2 (2/3 * 2/3)
        (2, 0.5, 1 / 9),  # 1 against 0 (1/3 * 1/3)
        (3, 0.3, 1.0),  # 2/3 against 1/3
        (3, 0.4, 0.0),
        (None, 0.0, 1.0),
    ],
)
def test_n_of_the_returns_in_all_ways(n: int | None, tau: float, built: float) -> None:
    found = quality.agreement([Candidate(A, B)], VALUES, n, tau)
    assert found["built"] == pytest.approx(built)
    assert found["agree"] == pytest.approx(built)
    assert found["share"] == (pytest.approx(1.0) if built else None)


def test_share_ties_and_interval() -> None:
    """One agrees (built 4 times in 9), one does not, one is a tie of the oracle (both always built)."""
    tie = Candidate(replace(C, prefix=A.prefix), replace(D, prefix=Prefix("game a")))
    candidates = [Candidate(A, B), Candidate(C, D), tie]
    found = quality.agreement(candidates, VALUES | {Prefix("game a"): 2.0}, 1, 0.5)
    assert found["built"] == pytest.approx(4 / 9 + 2)
    assert (found["ties"], found["left_out"], found["candidates"]) == (pytest.approx(1), 0, 3)
    assert found["share"] == pytest.approx((4 / 9) / (13 / 9))
    assert found["interval"] == [0.0, 1.0]  # of two games, by chance twice the same one


def test_what_the_returns_do_not_tell_is_left_out() -> None:
    ended = StepReward(Prefix("game a", (Step("e", ""),)), 1.0, 0, (), 3, "outcome")
    values = VALUES | {ended.prefix: 3.0}
    assert quality.agreement([Candidate(ended, B)], values, 2, 0.5)["built"] == pytest.approx(1 / 3)
    assert quality.agreement([Candidate(A, B)], values, 4, 0.0)["left_out"] == 1
    cut = Candidate(scored("a", [1, 1], "curtailed"), scored("b", [0, 0], "curtailed"))
    assert quality.agreement([cut], values, 2, 0.3, curtailed_at=0.3)["left_out"] == 1
    assert quality.agreement([cut], values, 3, 0.5, curtailed_at=0.3)["left_out"] == 1
    assert quality.agreement([cut], values, 3, 0.3, curtailed_at=0.3)["built"] == 1


@pytest.mark.parametrize("name", ["alfworld", "sql", "webshop"])
def test_the_built_in_oracles_value_the_end_of_a_success_most(name: str) -> None:
    spec = envs.get(name)
    for expert in [e for e in map(spec.expert, spec.task_ids("dev")[:6]) if e.reward == 1]:
        states = [expert.prefix(t) for t in range(len(expert.steps) + 1)]
        values = rollout.values(spec, states[::-1])
        assert values[states[-1]] == max(values.values()) > values[states[0]]


# A run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(install: Install, tmp_path: Path) -> Run:
    """Three games whose agent loses. Its first action is of no use, or better than the expert's, or worth the same."""
    install("plug-guess", {"guess": "ipr_guess"})
    tree = {"env": {"name": "guess"}, "algorithm": {"iterations": 1, "samples": 2, "tau": 0.4}}
    tree |= {"rollout": {"max_new_tokens": 4}, "model": {"max_length": 512, "device": "cpu"}}
    run = Run.open(tmp_path / "run", validate(tree, "test"))
    spec = ipr_guess.spec()
    env = ipr_guess.Guess()
    secrets = {i: env.secret for i in spec.task_ids("train") if env.reset(i)}
    few = [i for i, secret in secrets.items() if secret == 15][:1]
    few += [i for i, secret in secrets.items() if secret not in (8, 15)][:2]
    experts = [spec.expert(task_id) for task_id in few]
    first = {few[0]: compose("I guess high.", "14"), few[1]: "I have no idea.", few[2]: compose("So what?", "8")}
    explored = []
    for task_id in few:
        words = ScriptedPolicy(lambda said, seed, w=first[task_id]: w if len(said) == 3 else "Hm.", "sft")  # type: ignore[misc]
        explored += rollout.play(spec, words, [Job(Prefix(task_id))], Sampling())
    rewards = []
    for expert, agent in zip(experts, explored, strict=True):
        rewards.append(StepReward(expert.prefix(1), 1.0, 2, (1.0, 1.0), 2))
        rewards.append(StepReward(agent.prefix(1), 0.5, 2, (0.0, 1.0), 2))
    store.save(run.folder / "experts.parquet", experts)
    store.save(run.stage(1) / "explored.parquet", explored)
    store.save(run.stage(1) / "step_rewards.parquet", rewards)
    run.once(1, "reward", dict)
    return run


def test_a_runs_share_is_the_one_by_hand(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "--quality", str(run.folder), "--samples", "1,2", "--tau", "0.4,0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert store.read_json(run.folder / "quality.json")["rows"] == found["rows"]
    assert (run.folder / "plots" / "quality.png").read_bytes().startswith(b"\x89PNG")
    rows = {(r["n"], r["tau"]): r for r in found["rows"]}
    assert {key: r["built"] for key, r in rows.items()} == {
        (None, None): 3, (1, 0.4): 1.5, (2, 0.4): 3, (1, 0.5): 1.5, (2, 0.5): 0,
    }  # fmt: skip
    assert rows[2, 0.4] | {"interval": None} == {
        "scorer": "sft", "n": 2, "tau": 0.4, "candidates": 3, "left_out": 0, "built": 3, "ties": 1, "agree": 1,
        "share": 0.5, "interval": None,
    }  # fmt: skip
    assert rows[1, 0.4]["share"] == 0.5
    assert rows[2, 0.5]["share"] is None
    assert main(["reward", "--quality", str(run.folder)]) == 0
    assert "50.0 %" in capsys.readouterr().out


def test_another_scorer_plays_and_is_kept(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The SFT agent's two returns are taken from the run where N is 2; a third is played where N is 3."""
    models.save_model(toy.model(), toy.tokenizer(), run.model(0))
    models.save_model(toy.model(1), toy.tokenizer(), run.model(1))
    command = ["reward", "--quality", str(run.folder), "--json", "--tau", "0.4", "--scorer"]
    assert main([*command, "sft", "--samples", "1,2"]) == 0
    taken = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["built"] for r in taken["rows"]] == [3, 1.5, 3]
    assert main([*command, "sft,iteration-1", "--samples", "3"]) == 0
    played = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(r["scorer"], r["n"], r["left_out"]) for r in played["rows"][1:]] == [("sft", 3, 0), ("iteration-1", 3, 0)]
    kept = store.load(run.folder / "quality" / "iteration-1.parquet", StepReward)
    assert [r.n for r in kept] == [3] * 6


def test_curtailed_samples_tell_the_runs_own_pairs_only(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.stage(1) / "step_rewards.parquet"
    cut = {"samples": (0.0,), "n": 1, "source": "curtailed"}
    store.save(path, [replace(r, **cut) if r.mean == 0.5 else r for r in store.load(path, StepReward)])
    assert main(["reward", "--quality", str(run.folder), "--tau", "0.4,0.5"]) == 0
    said = capsys.readouterr().out
    assert "only N up to 1, and N = 2 with tau = 0.4, can be told; --scorer sft plays what was left out" in said
    rows = store.read_json(run.folder / "quality.json")["rows"]
    # The first return of each is 1 against 0; the two of N = 2 decide as the censored mean says, 1 against 0.5.
    assert [(r["n"], r["tau"], r["built"]) for r in rows] == [(None, None, 3), (1, 0.4, 3), (2, 0.4, 3), (1, 0.5, 3)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--samples", "5"], "--samples 5: the run has 2 returns"),
        (["--samples", "0"], "give N of 1 or more"),
        (["--tau", "-1"], "tau of 0 or more"),
        (["--scorer", "iteration-7"], "no stage of .*; there are base, sft, iteration-1"),
        (["--scorer", "iteration-1"], "iteration-1/model is not there yet"),
    ],
)
def test_bad_input_is_one_line(run: Run, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    import re

    assert main(["reward", "--quality", str(run.folder), *options]) == 2
    assert re.search(said, capsys.readouterr().err)
    (run.stage(1) / "reward.json").unlink()
    assert main(["reward", "--quality", str(run.folder)]) == 2
    assert "no step rewards" in capsys.readouterr().err


def test_without_an_oracle_there_is_nothing_to_compare_with(
    run: Run, install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "from dataclasses import replace\nimport ipr_guess\n"
    code += "def spec(data, max_steps): return replace(ipr_guess.spec(), name='blind', oracle=None)"
    install("plug-blind", {"blind": "plug_blind"}, plug_blind=code)
    blind = Run.open(tmp_path / "blind", validate({"env": {"name": "blind"}}, "test"))
    assert main(["reward", "--quality", str(blind.folder)]) == 2
    assert "environment blind has no oracle" in capsys.readouterr().err
