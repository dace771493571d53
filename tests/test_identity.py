"""Identities: each input that decides a result is in them, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import flows
from flows.cli import main
from ipr import config as configs
from ipr import credit, envs, evaluate, identity, models
from ipr.apps.chosen_model import base_of
from ipr.config import RunConfig
from ipr.envs.alfworld import games
from ipr.envs.sql import engine
from ipr.envs.webshop import real as shop
from ipr.runs.run import Run
from ipr.types import GROUPS, EnvSpec, IprError, Job, Message, Prefix, Sampling, Trajectory
from tests.conftest import Install
from tests.envs.test_sql_real import spiders_own
from tests.envs.test_webshop_real import lay

PRESETS = Path(flows.__path__[0]) / "configs"
MODEL = Path(configs.BASES) / "alfworld"
GREEDY = Sampling(0.0, 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alfworld") / "json_2.1.1"
    for split, place in (("train", "train"), ("seen", "valid_seen"), ("unseen", "valid_unseen")):
        for task_id in games.task_ids(split)[: 24 if split == "train" else 3]:
            games.export(games.generate(task_id), folder, place)
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A folder of ALFWorld games."""
    return shutil.copytree(made, tmp_path / "json_2.1.1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(MODEL, tmp_path / "model")


def edit(file: Path, key: str, value: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))


def first_game(data: Path) -> Path:
    return next(data.rglob("game.tw-pddl"))


# Data and model -------------------------------------------------------------------------------------------------------


def of_data(folder: Path) -> str:
    return identity.of_games(envs.get("alfworld", folder))


DATA: dict[str, Callable[[Path], object]] = {
    "a game": lambda d: first_game(d).write_text(first_game(d).read_text().replace("Type", "type", 1)),
    "a game less": lambda d: shutil.rmtree(first_game(d).parent),
    "the index": lambda d: (d / "alfworld_game_files.json").write_text(
        json.dumps([f"/x/{p.relative_to(d)}" for p in sorted((d / "valid_seen").rglob("game.tw-pddl"))[:2]])
    ),
}
NO_DATA: dict[str, Callable[[Path], object]] = {
    "a note": lambda d: (d / "README").write_text("ours"),
    "what is not read": lambda d: (first_game(d).parent / "traj_data.json").write_text("{}"),
    "a time": lambda d: os.utime(first_game(d)),
}


@pytest.mark.parametrize("what", DATA)
def test_content_of_data_is_in_it(what: str, data: Path) -> None:
    before = of_data(data)
    DATA[what](data)
    assert of_data(data) != before


@pytest.mark.parametrize("what", NO_DATA)
def test_what_is_not_played_is_not_in_it(what: str, data: Path) -> None:
    before = of_data(data)
    NO_DATA[what](data)
    assert of_data(data) == before


def test_a_copy_elsewhere_is_the_same(data: Path, tmp_path: Path) -> None:
    assert of_data(shutil.copytree(data, tmp_path / "elsewhere" / "json_2.1.1")) == of_data(data)
    assert of_data(tmp_path / "elsewhere") == of_data(data)


def test_a_file_is_read_again_only_where_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "file"
    file.write_text("one")
    monkeypatch.setattr(identity, "_SETTLED", 0)
    one = identity.file(file)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: pytest.fail("read again"))
        assert identity.file(file) == one
    os.utime(file, ns=(0, 0))
    file.write_text("two")
    os.utime(file, ns=(0, 0))  # the same size and time of change; another time of the inode's
    assert identity.file(file) != one
    (tmp_path / "cache" / "ipr" / "digests.sqlite").write_text("no database")
    assert identity.file(file) == identity.file(file)


def test_every_environment_tells_its_files(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    goods, asked = lay(tmp_path / "shop"), spiders_own(tmp_path / "asked")
    for name, folder in (("alfworld", data), ("webshop", goods), ("sql", asked)):
        found = identity.games(envs.get(name, folder))
        assert len(found["data"]) == 64, name
        assert identity.games(envs.get(name, shutil.copytree(folder, tmp_path / "copies" / name))) == found
    read = shop.Folder(goods).read()
    before = identity.of_games(envs.get("webshop", goods))
    read["items_ins_v2.json"].write_text(read["items_ins_v2.json"].read_text() + " ")
    assert identity.of_games(envs.get("webshop", goods)) != before
    before = identity.of_games(envs.get("sql", asked))
    database = next((asked / "database").rglob("*.sqlite"))
    with database.open("ab") as opened:
        opened.write(b"\0")
    assert identity.of_games(envs.get("sql", asked)) != before


def test_limits_and_libraries_of_sql_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity.games(envs.get("sql"))
    for name in ("HEAP", "MAX_ROWS", "MAX_OPCODES", "SHOWN"):
        with monkeypatch.context() as patch:
            patch.setattr(engine, name, 7)
            assert len(identity.differences(before, identity.games(envs.get("sql")))) == 1, name
    monkeypatch.setattr(engine.sqlite3, "sqlite_version", "3.0.0")
    assert identity.differences(before, identity.games(envs.get("sql")))[0].endswith(" -> '3.0.0'")


def test_the_library_of_webshops_reward_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity.games(envs.get("webshop"))
    monkeypatch.setattr("ipr.envs.webshop.version", lambda name: "99.1.2")
    (told,) = identity.differences(before, identity.games(envs.get("webshop")))
    assert told.startswith("rapidfuzz: ")
    assert told.endswith(" -> '99.1'")


def test_episodes_are_named_by_all_that_decides_them_beside_the_agent(tmp_path: Path) -> None:
    named = []
    for place, keys in (("a", []), ("b", ["train.beta=0.3"]), ("c", ["model.max_length=128"])):
        run = Run.open(tmp_path / place, configs.load(None, keys))
        run.identify()
        named.append(run.manifest["episodes"])
    assert named[0] == named[1] != named[2]


MODELS: dict[str, Callable[[Path], object]] = {
    "weights": lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:-1] + b"\1"),
    "config": lambda m: edit(m / "config.json", "rope_theta", 1.5),
    "tokenizer": lambda m: edit(m / "tokenizer.json", "truncation", {"max_length": 9}),
    "tokenizer's config": lambda m: edit(m / "tokenizer_config.json", "eos_token", "<|user|>"),
    "Mistral's tokenizer": lambda m: (m / "tekken.json").write_text("{}"),
    "another vocabulary": lambda m: (m / "vocab.bpe").write_text("a b"),
    "template": lambda m: (m / "chat_template.jinja").write_text("{{ 1 }}"),
    "generation": lambda m: edit(m / "generation_config.json", "eos_token_id", 5),
}
NO_MODELS: dict[str, Callable[[Path], object]] = {
    "who saved it": lambda m: edit(m / "generation_config.json", "transformers_version", "9"),
    "where it was": lambda m: edit(m / "tokenizer_config.json", "name_or_path", "/there"),
    "a note": lambda m: (m / "README.md").write_text("ours"),
    "its place": lambda m: m.rename(m.with_name("elsewhere")).rename(m),
}


@pytest.mark.parametrize("what", [*MODELS, *NO_MODELS])
def test_what_decides_a_models_answers(what: str, model: Path) -> None:
    before = models.model_hash(model)
    assert before == models.model_hash(MODEL)
    (MODELS | NO_MODELS)[what](model)
    assert (models.model_hash(model) == before) == (what in NO_MODELS)


# Playing --------------------------------------------------------------------------------------------------------------

SPEC = envs.get("alfworld")
PLAYED: dict[str, dict[str, Any]] = {
    "version": {"spec": replace(SPEC, version="generated-3")},
    "prompt": {"spec": replace(SPEC, prompt=(Message("user", "Go."), SPEC.prompt[1]))},
    "example": {"spec": envs.get("alfworld", shots=1)},
    "step limit": {"spec": replace(SPEC, max_steps=7)},
    "what an environment names": {"spec": replace(SPEC, deciding=lambda: {"engine": 2})},
    "temperature": {"sampling": Sampling(1.0, 16)},
    "tokens a turn": {"sampling": Sampling(0.0, 17)},
    "model": {"model": "another"},
    "context": {"keys": ["model.max_length=128"]},
    "weights' type": {"keys": ["model.dtype=bfloat16"]},
    "key-values' type": {"keys": ["rollout.kv_dtype=bfloat16"]},
    "date": {"keys": ["model.date=2026-01-02"]},
    "backend": {"keys": ["rollout.backend=vllm"]},
}
NOTHING = [
    "rollout.workers=3",
    "rollout.slots=7",
    "rollout.shard=7",
    "rollout.scheduler=tcp://there:8786",
    "rollout.vllm=there/bin/vllm",
    "model.device=cpu",
    "track.experiment=other",
    "track.enabled=false",
    "data.publish=false",
    "algorithm.cache=outcomes.sqlite",
    "endpoint.concurrency=3",
    "sft.micro_batch_tokens=512",
    "train.checkpoint_every=7",
]


def playing(
    spec: EnvSpec = SPEC, sampling: Sampling = GREEDY, model: str = "a model", keys: list[str] | None = None
) -> dict[str, Any]:
    return identity.playing(spec, sampling, model, configs.load(None, keys or []))


@pytest.mark.parametrize("what", PLAYED)
def test_what_decides_an_episode_is_in_it(what: str) -> None:
    changed = identity.differences(playing(), playing(**PLAYED[what]))
    assert len(changed) == 1, "and is named"
    job = Job(Prefix("train/000000"), 3)
    outcomes = {identity.of_outcome(identity.digest(one), job) for one in (playing(), playing(**PLAYED[what]))}
    assert len(outcomes) == 2


@pytest.mark.parametrize("key", NOTHING)
def test_what_decides_nothing_is_in_no_identity(key: str) -> None:
    assert playing() == playing(keys=[key])
    assert of_run() == of_run([key])


def test_releases_of_libraries_are_in_it_and_patches_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = identity.version, playing()
    for library in identity.LIBRARIES:
        major, minor, *_ = real(library).split(".")
        for version, same in ((f"{major}.{minor}.99", True), (f"{major}.{int(minor) + 1}.0", False)):
            changed = {library: version}
            monkeypatch.setattr(identity, "version", lambda name, changed=changed: changed.get(name) or real(name))
            assert (playing() == before) == same, (library, version)
    monkeypatch.setattr(identity, "version", real)
    monkeypatch.setattr(identity, "RULES", 0)
    assert playing() != before


def test_the_code_of_a_method_a_loss_and_a_backend_of_somebody_else_is_in_it(install: Install, tmp_path: Path) -> None:
    ours = of_run()
    method = (
        "from ipr.algorithms import Training\nfrom ipr.algorithms.rft import RFT\n"
        "class method(RFT): training = Training('mine', 'base', 'train')"
    )
    loss = "from ipr.training.losses import Loss, imitation\nloss = Loss('demonstrations', imitation)"
    backend = "from ipr.policies import Backend\nbackend = Backend('mine_backend')"
    for what, code in (("method", method), ("loss", loss), ("backend", backend)):
        install(f"mine-{what}", {"mine": f"mine_{what}"}, group=GROUPS[what], **{f"mine_{what}": code})
    keys = ["algorithm.name=mine", "rollout.backend=mine"]

    def found() -> dict[str, Any]:
        train = configs.load("smoke", keys, PRESETS).train
        trained = identity.of_training([], "mine", train, 0, [])
        return {"run": of_run(keys), "playing": playing(keys=keys[1:]), "training": trained}

    for what, parts in (("method", {"run"}), ("loss", {"run", "training"}), ("backend", {"run", "playing"})):
        before = found()
        with (tmp_path / "site" / f"mine-{what}" / f"mine_{what}.py").open("a") as file:
            file.write("\n# another one")
        assert {part for part, value in found().items() if value != before[part]} == parts
        (line,) = identity.differences(before["run"], found()["run"])
        assert line.startswith(f"{what}.code: ")
    assert of_run() == ours, "what is not named decides nothing"


def test_outcomes_of_another_scorer_are_never_taken(tmp_path: Path) -> None:
    job = Job(Prefix("train/000000"), 3)
    file = tmp_path / "outcomes.sqlite"
    credit.Outcomes(file, identity.digest(playing())).keep({job: 1.0})
    assert credit.Outcomes(file, identity.digest(playing())).find([job]) == {job: 1.0}
    assert credit.Outcomes(file, identity.digest(playing(**PLAYED["prompt"]))).find([job]) == {}


# Runs -----------------------------------------------------------------------------------------------------------------


def of_run(keys: list[str] | None = None, spec: EnvSpec = SPEC, model: str = "a model") -> dict[str, Any]:
    return identity.run(configs.load("smoke", keys or [], PRESETS), spec, model)


def other(value: Any) -> Any:
    """Another value of the same kind; what it says does not matter here."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, "more"] if isinstance(value, list) else f"{value or ''}more"


def with_key(config: RunConfig, key: str, value: Any) -> RunConfig:
    """Unchecked, as every key is asked."""

    def changed(section: Any, names: list[str]) -> Any:
        name, *inner = names
        return section.model_copy(update={name: changed(getattr(section, name), inner) if inner else value})

    return changed(config, key.split("."))


def test_every_key_of_the_config_is_in_a_runs_identity_or_known_to_decide_nothing() -> None:
    config = configs.load("smoke", ["env.max_steps=9", "algorithm.explore_tasks=9"], PRESETS)
    before, left = identity.deciding(config), set()
    for key, value in configs.flat(config).items():
        if key.startswith("endpoint.parameters"):
            continue
        if identity.deciding(with_key(config, key, other(value))) == before:
            left.add(key)
    nothing = ("endpoint", "track", "data", "alerts", "run", "machine")
    sections = {key for key in configs.flat(config) if key.split(".")[0] in nothing}
    for_what_they_mean = {"env.data", "env.experts", "env.max_steps", "env.server", "env.shots", "model.path"}
    by = {f"rollout.{key}" for key in ("endpoint", "vllm", "workers", "scheduler", "slots", "shard")} | {"model.device"}
    cut = {f"{section}.{key}" for section in ("sft", "train") for key in ("micro_batch_tokens", "checkpoint_every")}
    assert left == sections | for_what_they_mean | by | cut | {"algorithm.cache"}


def test_what_keys_stand_for_is_in_a_runs_identity(data: Path, tmp_path: Path) -> None:
    before = of_run()
    (tmp_path / "experts.parquet").write_text("experts")
    for found, name in (
        (of_run(spec=envs.get("alfworld", data)), "data"),
        (of_run(spec=envs.get("alfworld", shots=1)), "prompt"),
        (of_run(spec=envs.get("alfworld", max_steps=9)), "max_steps"),
        (of_run(model="another"), "model"),
        (of_run([f"env.experts={tmp_path / 'experts.parquet'}"]), "experts"),
    ):
        assert any(line.startswith(f"{name}: ") for line in identity.differences(before, found)), name


def test_a_run_goes_on_with_its_own_data_and_model_wherever_they_are(data: Path, model: Path, tmp_path: Path) -> None:
    def opened(data: Path, model: Path, *keys: str) -> Run:
        given = [f"env.data={data}", f"model.path={model}", *keys]
        run = Run.open(tmp_path / "run", configs.load("smoke", given, PRESETS))
        base = base_of(run)  # as `ipr run` does
        run.identify()
        run.note(base=base)
        return run

    begun = opened(data, model).manifest["config_hash"]
    moved = shutil.move(data, tmp_path / "there" / "json_2.1.1"), shutil.move(model, tmp_path / "there" / "model")
    data, model = map(Path, moved)
    run = opened(data, model, "rollout.slots=3")
    assert run.manifest["config_hash"] == begun
    assert (run.config.env.data, run.config.rollout.slots) == (str(data), 3)
    with pytest.raises(IprError, match=r"another config .*train\.beta"):
        opened(data, model, "train.beta=0.2")
    for change, what in ((lambda: DATA["a game"](data), "data"), (lambda: MODELS["template"](model), "model")):
        change()
        with pytest.raises(IprError, match=rf"what decides its results has changed since it began .*{what}: "):
            opened(data, model)


def test_another_model_or_data_is_refused_and_the_config_stays(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run went on from its first model without a word, and a refused config was that of the next command."""
    folder, given = tmp_path / "run", [f"env.data={data}", f"model.path={model}"]
    run = Run.open(folder, configs.load("smoke", given, PRESETS))
    run.note(base=base_of(run))
    run.identify()
    kept = (folder / "config.yaml").read_text()
    other = shutil.copytree(model, tmp_path / "other"), shutil.copytree(data, tmp_path / "data" / "json_2.1.1")
    MODELS["weights"](other[0])
    DATA["a game"](other[1])
    for key, what in ((f"model.path={other[0]}", "model"), (f"env.data={other[1]}", "data")):
        run = Run.open(folder, configs.load("smoke", [*given, key], PRESETS))
        base_of(run)
        with pytest.raises(IprError, match=rf"what decides its results has changed since it began .*{what}: "):
            run.identify()
        assert (folder / "config.yaml").read_text() == kept
    DATA["a game"](data)
    for command in (["eval", "--dir", str(folder), "--best-of", "2"], ["reward", "--quality", str(folder)]):
        assert main(command) == 2
        assert "what decides its results has changed since it began (data: " in capsys.readouterr().err


def test_episodes_of_other_games_with_the_same_ids_are_not_compared() -> None:
    a = [Trajectory("seen/000000", "a room", (), 1.0, "terminated")]
    assert evaluate.compare(a, a, 100)["tie"] == 1
    with pytest.raises(IprError, match="played other games of one name: seen/000000 begins with 'a room'"):
        evaluate.compare(a, [replace(a[0], first_observation="another room")], 100)


def test_an_evaluation_of_other_data_never_shows_the_old_figures(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(folder: Path) -> tuple[int, str]:
        asked = ["--model", "embedded", "--env", "alfworld", "--split", "seen", "--games", "2", "--data", str(folder)]
        code = main(["eval", *asked, "--out", str(tmp_path / "out"), "env.max_steps=2", "rollout.max_new_tokens=4"])
        return code, capsys.readouterr().err

    changed = shutil.copytree(data, tmp_path / "changed" / "json_2.1.1")
    DATA["a game"](changed)
    assert evaluated(data)[0] == 0
    assert evaluated(shutil.copytree(data, tmp_path / "copy"))[0] == 0
    code, said = evaluated(changed)
    assert code == 2
    assert "holds an evaluation of something else (data: " in said
