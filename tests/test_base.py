"""The shipped base model: its recipe, at a size for tests, and that none of it is of the games that are played."""

from __future__ import annotations

import pytest

from ipr import models
from ipr.base import recipe
from ipr.envs.alfworld import games, play
from ipr.training import trainer
from ipr.types import IprError

SMALL = ["glances=8", "episodes=4", "steps=4", "hidden=24", "intermediate=32", "layers=1", "heads=1", "kv_heads=1"]


def test_a_build_that_was_killed_goes_on_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole = recipe.build(tmp_path / "whole", SMALL)
    real, calls = trainer.train_sft, []

    def dies_the_second_time(*args, **kwargs):
        calls.append(kwargs["out"].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(recipe, "train_sft", dies_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        recipe.build(tmp_path / "again", SMALL)
    again = recipe.build(tmp_path / "again", SMALL)
    assert calls == ["glances", "episodes", "episodes"]
    assert models.model_hash(tmp_path / "whole" / "model") == models.model_hash(tmp_path / "again" / "model")
    assert {k: v for k, v in whole.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}


def test_an_unknown_key_is_said():
    with pytest.raises(IprError, match="glances"):
        recipe.build(recipe.Path("nowhere"), ["glance=1"])


def test_a_glance_says_of_each_thing_whether_it_is_there():
    missing = found = 0
    for task_id in games.task_ids("pretrain")[:50]:
        seen, said = play.glance(task_id, 0)
        thought = said.content.partition("\n")[0]
        for sentence in thought.removeprefix("Thought: ").split(". "):
            words = sentence.split()
            if words[-2:] == ["is", "here"]:
                found += 1
                assert f"a {words[1]} {words[2]}" in seen.content
            elif words[-3:] == ["is", "not", "here"]:
                missing += 1
                assert f"a {words[1]} " not in seen.content
    assert min(missing, found) > 50


def test_its_games_are_of_a_split_that_no_run_plays():
    assert all(task_id.startswith("pretrain/") for task_id in games.task_ids("pretrain")[:100])
    sentences = {games.generate(task_id)["pddl_problem"] for task_id in games.task_ids("pretrain")[:100]}
    for split in ("train", "dev", "seen", "unseen"):
        assert not sentences & {games.generate(task_id)["pddl_problem"] for task_id in games.task_ids(split)[:50]}
