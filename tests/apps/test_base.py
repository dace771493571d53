"""The shipped base models: their recipes, at a size for tests, and that none of it is of the games that are played."""

from __future__ import annotations

import re

import pytest
import torch

from ipr import config as configs
from ipr import envs, models
from ipr.apps import base as recipe
from ipr.envs.alfworld import games, play
from ipr.envs.sql import databases
from ipr.envs.sql import play as practice
from ipr.envs.webshop import generate
from ipr.envs.webshop import play as stroll
from ipr.training import trainer
from ipr.types import IprError

SMALL = [
    "glances=8",
    "tours=4",
    "episodes=4",
    "steps=4",
    "hidden=24",
    "intermediate=32",
    "layers=1",
    "heads=1",
    "kv_heads=1",
]


@pytest.mark.parametrize("env", ["sql", "webshop"])
def test_a_recipe_makes_a_model_that_a_run_can_start_from(tmp_path, env):
    facts = recipe.build(env, tmp_path, [*SMALL, "repeats=8", "tours=0"])
    models.check_model(tmp_path / env)
    assert facts["examples"] == 4
    assert facts["dropped"] == 0


@pytest.mark.parametrize("family", recipe.FAMILIES)
def test_a_base_of_another_architecture(tmp_path, family):
    recipe.build("alfworld", tmp_path, [*SMALL, f"family={family}"])
    folder = tmp_path / "alfworld"
    models.check_model(folder)
    made = models.load_model(str(folder), configs.ModelConfig(path=str(folder)))
    assert made.config.model_type == family
    assert made.get_input_embeddings().weight is made.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("env", "override", "said"),
    [
        ("alfworld", "family=qwen", r"no family 'qwen'; did you mean 'qwen3'\?"),
        ("alfworld", "repeats=2", "repeats=2: alfworld has no such text; leave it at 0"),
        ("sql", "tours=2", "tours=2: sql has no such text; leave it at 0"),
        ("alfworld", "episodes=many", "episodes: .*valid integer.* \\(got 'many'\\)"),
        ("alfworld", "episodes=0", "episodes: .*greater than 0 \\(got '0'\\)"),
        ("alfworld", "glances=-1", "glances: .*greater than or equal to 0"),
        ("alfworld", "hidden=100", "hidden=100 has to be a multiple of twice heads=3"),
    ],
)
def test_what_a_recipe_cannot_be_is_told_before_any_work(tmp_path, env, override, said):
    with pytest.raises(IprError, match=said):
        recipe.build(env, tmp_path, [override])
    assert not any(tmp_path.iterdir())


def test_keys_of_every_kind_can_be_given(tmp_path):
    made = recipe._recipe("sql", ["names=true", "related=no", "learning_rate=1e-3", "family=qwen3", "steps=3"])
    assert (made.names, made.related, made.learning_rate, made.family, made.steps) == (True, False, 1e-3, "qwen3", 3)
    assert recipe._recipe("sql", []) == recipe.RECIPES["sql"]


def test_a_build_that_was_killed_goes_on_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole = recipe.build("alfworld", tmp_path / "whole", SMALL)
    real, calls = trainer.train, []

    def dies_the_second_time(*args, **kwargs):
        calls.append(kwargs["out"].parent.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(recipe, "train", dies_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        recipe.build("alfworld", tmp_path / "again", SMALL)
    again = recipe.build("alfworld", tmp_path / "again", SMALL)
    assert calls == ["glances", "tours", "tours", "episodes"]
    assert models.model_hash(tmp_path / "whole" / "alfworld") == models.model_hash(tmp_path / "again" / "alfworld")
    assert {k: v for k, v in whole.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}


def test_a_build_never_goes_on_from_another_recipe_or_text(tmp_path, monkeypatch):
    real, folder = recipe._read, tmp_path / "alfworld"

    def dies_at_the_end(*args):
        if args[-1].name == "episodes":
            raise KeyboardInterrupt
        return real(*args)

    def build(*changed):
        recipe.build("alfworld", tmp_path, [*SMALL, *changed])
        assert not (tmp_path / "build" / "alfworld").exists()
        return models.model_hash(folder)

    def begin(*changed):
        with monkeypatch.context() as patched:
            patched.setattr(recipe, "_read", dies_at_the_end)
            with pytest.raises(KeyboardInterrupt):
                build(*changed)

    first, other = build(), build("learning_rate=1e-3")
    assert first != other
    begin("learning_rate=1e-3")
    assert build() == first
    with monkeypatch.context() as patched:
        patched.setattr(play, "glance", lambda task_id, seed: play.tour(task_id, seed))
        begin()
    assert build() == first


def test_an_unknown_key_or_environment_is_said():
    with pytest.raises(IprError, match="glances"):
        recipe.build("sql", recipe.Path("nowhere"), ["glance=1"])
    with pytest.raises(IprError, match="there are alfworld, sql, webshop"):
        recipe.build("chess", recipe.Path("nowhere"))


def test_embedded_is_the_base_of_the_runs_own_environment():
    for env in envs.names():
        path = configs.load(None, [f"env.name={env}"]).model.path
        assert path == f"embedded-{env}"
        assert models.resolve(path).endswith(f"embedded/{env}")
        weights = configs.BASES / env / "model.safetensors"
        assert weights.stat().st_size <= 4 << 20
    assert configs.load(None, ["env.name=sql", "model.path=embedded-alfworld"]).model.path == "embedded-alfworld"
    with pytest.raises(IprError, match="no base model is shipped for chess"):
        models.resolve("embedded-chess")


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


def test_a_glance_at_a_database_says_where_each_word_is():
    missing = found = 0
    for task_id in envs.get("sql").task_ids("pretrain")[:150]:
        seen, said = practice.glance(task_id, 0)
        for word, table, column in re.findall(r"([\w ]+) is (\w+)(?:\.(\w+))?", said.content):
            if table == "nowhere":
                missing += 1
                assert f"'{word.strip()}'" not in seen.content
            elif column:
                found += 1
                columns = seen.content.partition(f"{table}: ")[2].partition("\n")[0]
                assert f"('{column}'," in columns
    assert found > 100
    assert missing > 15


def test_practice_of_sql_is_easy_and_its_answers_are_run():
    for task_id in envs.get("sql").task_ids("pretrain")[:30]:
        played = practice.wander(task_id, 0, 9)
        asked = played.first_observation.splitlines()[1:]
        assert all(question in step.action for question, step in zip(asked, played.steps[4:], strict=True))
        text = " ".join(step.action for step in played.steps)
        assert not re.search(r"submit|\(SELECT|HAVING|UNION|EXCEPT|INTERSECT", text)
        assert all(step.observation.startswith("[") for step in played.steps)


def test_pretrain_has_no_schema_of_another_split():
    def schemas(pool):
        return {frozenset(t.singular for t in databases.schema(pool, n).tables) for n in databases.names(pool)[:600]}

    assert not schemas("pretrain") & (schemas("train") | schemas("unseen"))


def test_a_stroll_says_what_is_on_the_page():
    here = 0
    for task_id in generate.task_ids("pretrain")[:200]:
        page, said = stroll.glance(task_id, 0)
        pieces = page.content.split(" [SEP] ")
        for value, state in re.findall(
            r"([\w .-]+?) is (here|not here)", said.content.removeprefix("Thought: I look: ")
        ):
            here += state == "here"
            assert (value.strip() in pieces) == (state == "here")
        for code in re.findall(r"B0\w{8}", said.content):
            assert code in pieces
    assert here > 15


def test_strolls_have_goals_of_their_own():
    strolls = {generate.stroll(task_id).instruction for task_id in generate.task_ids("pretrain")[:2000]}
    for split in ("train", "dev", "seen", "unseen"):
        assert not strolls & {generate.goal(task_id).instruction for task_id in generate.task_ids(split)[:100]}


def test_the_forms_of_a_word_begin_as_neighbours():
    tokenizer = models.train_tokenizer(["ship Ship ships pear"] * 50, 320)
    model = models.new_base_model(len(tokenizer), hidden=64, layers=1)
    models.relate_forms(model, tokenizer)
    weights = model.get_input_embeddings().weight.detach()
    ship, other, pear = (weights[tokenizer.encode(word)[0]] for word in ("ship", " Ship", " pear"))
    assert torch.cosine_similarity(ship, other, 0) > 0.6 > torch.cosine_similarity(ship, pear, 0)
