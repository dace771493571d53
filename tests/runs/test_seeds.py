"""Several seeds as one experiment: what belongs together, what is refused, figures, and comparing groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ipr
from ipr import config as configs
from ipr import envs, store
from ipr.apps import comparison
from ipr.runs import seeds
from ipr.runs.run import Run
from ipr.types import IprError, Step, Trajectory
from tests.runs.laid import lay

SMALL: dict[str, Any] = {"problems": 1, "iterations": 1, "games": 12}


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of three seeds; those of `good` learn, those of `poor` do not."""
    root = tmp_path_factory.mktemp("groups")
    for name, better in (("good", 0.4), ("poor", 0.0)):
        for seed in range(3):
            lay(seeds.member(root / name, seed), seed=seed, better=better, **SMALL)
    return root


def test_figures_over_seeds_and_games(groups: Path) -> None:
    group = seeds.Seeds(groups / "good")
    assert [run.name for run in group.runs.values()] == ["good-0", "good-1", "good-2"]
    summary = seeds.write(group)
    assert store.read_json(groups / "good" / "seeds.json")["seeds"] == [0, 1, 2]
    assert (groups / "good" / "plots" / "seeds.png").is_file()
    assert [stage["name"] for stage in summary["stages"]] == ["base", "sft", "iteration-1", "reported"]
    test = summary["stages"][2]["test"]
    assert test["games"] == 24
    assert test["reward"] == pytest.approx(sum(test["by_seed"].values()) / 3)
    assert test["reward_interval"][0] < test["reward"] < test["reward_interval"][1]
    assert set(summary["stages"][-1]["stages"]) == {0, 1, 2}
    text = seeds.table(summary)
    assert "seed 0" in text
    assert "over 3 seeds and 24 games; better with" in text
    assert "| iteration-1 |" in seeds.markdown(summary)


def test_a_seed_that_is_not_finished_is_left_out_and_told(groups: Path) -> None:
    seed = lay(seeds.member(groups / "more", 0), **SMALL)
    other = lay(seeds.member(groups / "more", 1), seed=1, **SMALL)
    other.note(complete=False)
    summary = seeds.Seeds(groups / "more").summary()
    assert summary["seeds"] == [0]
    assert "unfinished, left out: more-1" in seeds.table(summary)
    seed.note(complete=False)
    with pytest.raises(IprError, match=r"no run is complete yet \(more-0, more-1\)"):
        seeds.Seeds(groups / "more")


def test_a_run_that_another_process_is_beginning_is_no_difference(groups: Path) -> None:
    lay(seeds.member(groups / "begun", 0), **SMALL)
    begun = lay(seeds.member(groups / "begun", 1), seed=1, **SMALL)
    begun.note(complete=False, identity=None)
    assert seeds.Seeds(groups / "begun").unfinished == ["begun-1"]


def test_seeds_of_other_experts_are_refused_before_they_train(tmp_path: Path) -> None:
    """The published experts are a file that a new data set replaces."""
    from tasks.experts import experts

    runs = [
        Run.open(seeds.member(tmp_path / "g", seed), configs.load(None, [f"seed={seed}", "env.tasks=3"]))
        for seed in (0, 1)
    ]
    expert = (spec := envs.get("alfworld")).expert(spec.task_ids("train")[2])
    first = Step(
        f"Thought: well.\nAction: {expert.steps[0].action.partition('Action: ')[2]}", expert.steps[0].observation
    )
    other = replace(expert, steps=(first, *expert.steps[1:]))
    published = store.save(tmp_path / "experts.parquet", [other], Trajectory)
    experts.fn(str(runs[0].folder), None)
    with pytest.raises(IprError, match=r"g: g-0 has other experts than g-1 .* restore the data set's experts, or use"):
        experts.fn(str(runs[1].folder), str(published))
    assert runs[1].record(0, "experts") is None
    experts.fn(str(runs[1].folder), None)  # as it was
    for seed in (0, 1):
        run = lay(seeds.member(tmp_path / "done", seed), seed=seed, **SMALL)
        store.write_json(run.stage(0) / "experts.json", {"digest": f"{seed:064}"})
    with pytest.raises(IprError, match=r"done-0 has other experts than done-1 .*; put them into folders of their own"):
        seeds.Seeds(tmp_path / "done")


def test_what_is_no_group_is_refused(groups: Path, tmp_path: Path) -> None:
    with pytest.raises(IprError, match=r"good is a folder of runs; name one of them, e.g. .*good-0"):
        ipr.open(groups / "good")
    with pytest.raises(IprError, match="is no folder of runs; start one: ipr run quick --seeds 3"):
        seeds.Seeds(tmp_path)
    for seed in (0, 1):
        lay(tmp_path / "mixed" / f"r{seed}", seed=seed, overrides=[f"train.beta=0.{seed + 1}"], **SMALL)
    with pytest.raises(IprError, match=r"r0 and r1 differ in more than the seed \(train\.beta: 0\.1 -> 0\.2\)"):
        seeds.Seeds(tmp_path / "mixed")
    for name in ("a", "b"):
        lay(tmp_path / "same" / name, **SMALL)
    with pytest.raises(IprError, match="two runs have the same seed"):
        seeds.Seeds(tmp_path / "same")


def test_groups_are_compared_and_stages_of_them(groups: Path) -> None:
    good, poor = str(groups / "good"), str(groups / "poor")
    found = comparison.compare(f"{poor}/iteration-1", f"{good}/iteration-1", None, 500)
    assert (found["paired"], found["games"], found["better"]) == (True, 24, 3)
    assert found["interval"][0] > 0
    assert "on 24 games, 3 seeds in pairs; better with 3 of them" in comparison.sentence(found)
    assert comparison.compare(good, good, "dev", 500)["difference"] == 0
    one = comparison.compare(f"{good}/good-0", f"{good}/good-0/sft", None, 500)  # a run is its reported stage
    assert "seeds" not in one
    with pytest.raises(IprError, match=r"is a folder of runs and .* is not"):
        comparison.compare(good, f"{good}/good-0/sft", None, 500)
    with pytest.raises(IprError, match="has no stage 'iteration-7'; there are base, sft, iteration-1, and reported"):
        comparison.compare(good, f"{good}/iteration-7", None, 500)
    with pytest.raises(IprError, match="neither a Parquet file"):
        comparison.compare(f"{good}/nothing/here", good + "/good-0", None, 500)
