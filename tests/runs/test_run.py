"""Config, typed files and run folders: what is refused, what is kept."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ipr import config as configs
from ipr import identity, store, yaml12
from ipr.runs.run import Run, check_space, cut, shard_size
from ipr.types import (
    Demonstration,
    IprError,
    Job,
    Message,
    PreferencePair,
    Prefix,
    Step,
    StepReward,
    Trajectory,
)

PRESETS = Path(__file__).parents[2] / "flows" / "configs"
PLAYED = Trajectory("t", "room", (Step("a", "b"), Step("c", "d")), 0.5, "truncated", "agent", 2**62, 1, 1)
NOUNS = [
    PLAYED,
    StepReward(Prefix("t", (Step("a", "b"),)), 0.5, 2, (0.0, 1.0), 2),
    PreferencePair("t", 1, "step", (Message("user", "u"),), (Message("assistant", "x"),), (), 0.4),
    Demonstration("t", (Message("user", "u"), Message("assistant", "é\n"))),
    Demonstration("t", (Message("user", "u"), Message("assistant", "a")), "agent", (0.0, -0.5)),
]


@pytest.mark.parametrize("preset", configs.preset_names(PRESETS))
def test_presets_load(preset: str) -> None:
    assert configs.load(preset, [], PRESETS).env.name == (preset if preset in ("sql", "webshop") else "alfworld")


def test_an_environment_has_its_own_registered_model() -> None:
    named = {
        env: configs.load("quick", [f"env.name={env}"], PRESETS).track.registered_model for env in ("alfworld", "sql")
    }
    assert named == {"alfworld": "ipr-agent", "sql": "ipr-agent-sql"}
    for env, name in named.items():  # and of real data another one
        config = configs.load("quick", [f"env.name={env}", "env.data=somewhere"], PRESETS)
        assert config.track.registered_model == f"{name}-real"
        assert configs.validate(config.model_dump(), "again") == config
    chosen = configs.load("quick", ["env.name=sql", "track.registered_model=ours"], PRESETS)
    assert chosen.track.registered_model == "ours"


def test_overrides_and_their_numbers() -> None:
    config = configs.load("quick", ["train.learning_rate=1e-4", "eval.splits=[unseen]", "env.data=null"], PRESETS)
    assert config.train.learning_rate == 1e-4
    assert config.eval.splits == ["unseen"]
    assert config.env.data is None


def test_a_file_and_an_override_are_read_alike(tmp_path: Path) -> None:
    """As YAML 1.2, which DVC reads params.yaml by: no octal numbers, no minutes, and no is a word."""
    file, keys = tmp_path / "mine.yaml", {"env.tasks": 10, "train.learning_rate": 3e-4, "train.mixed_precision": "no"}
    file.write_text("env: {tasks: 010}\ntrain: {learning_rate: 3e-4, mixed_precision: no}\ntrack: {enabled: no}\n")
    typed = ["env.tasks=010", "train.learning_rate=3e-4", "train.mixed_precision=no", "track.enabled=no"]
    config = configs.load(file)
    assert config == configs.load(None, typed) == configs.validate(yaml12.loads(config.to_yaml()), "here")
    assert keys.items() <= configs.flat(config).items()
    assert not config.track.enabled
    texts = ["3e-4", "010", "no", "1:30", "2026-01-02", "null", "<<", "a: b", "é\n", ""]
    assert yaml12.loads(yaml12.dumps(texts)) == yaml.safe_load(yaml12.dumps(texts)) == texts
    for wrong, told in (("env.tasks=1:30", "env.tasks"), ("env.tasks=0x", "env.tasks")):
        with pytest.raises(IprError, match=told):
            configs.load(None, [wrong])
    file.write_text("env: {tasks: 10}\nenv: {tasks: 20}\n")
    with pytest.raises(IprError, match=r"mine\.yaml: line 2: 'env' stands twice"):
        configs.load(file)


def test_the_date_that_templates_show_is_part_of_the_config() -> None:
    config = configs.load("quick", ["model.date=2026-01-02"], PRESETS)  # a date to YAML
    assert config.model.date == "2026-01-02"
    assert configs.validate(yaml12.loads(config.to_yaml()), "here") == config
    assert identity.deciding(config) != identity.deciding(configs.load("quick", [], PRESETS))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.learning_rat=1", "did you mean 'train.learning_rate'"),
        ("train.beta=-1", "train.beta"),
        ("machine.memory=inf", "machine.memory: Input should be a finite number"),
        ("model.date=2026-02-30", "model.date"),
        ("model.date=today", "model.date"),
        ("nonsense", "is not KEY=VALUE"),
        ("seed.x=1", "seed"),
    ],
)
def test_bad_overrides_are_named(override: str, said: str) -> None:
    with pytest.raises(IprError, match=said.replace("[", r"\[")):
        configs.load("quick", [override], PRESETS)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_models_folder_becomes_no_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(IprError, match="is a model's folder; choose another --dir"):
        Run.open(tmp_path, configs.load("quick", [], PRESETS))
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(IprError, match="did you mean 'quick'"):
        configs.load("quik", [], PRESETS)
    broken = tmp_path / "x.yaml"
    broken.write_text("a: [")
    with pytest.raises(IprError, match=r"x\.yaml"):
        configs.load(broken)
    broken.write_text("- 1")
    with pytest.raises(IprError, match="list"):
        configs.load(broken)


def test_every_key_is_documented() -> None:
    undocumented = {key for key, text in configs.keys().items() if not text}
    plain = {"seed", "epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "max_grad_norm", "alpha"}
    plain |= {"mixed_precision", "iterations", "dropout", "enabled", "experiment"}
    assert {key.rsplit(".", 1)[-1] for key in undocumented} <= plain


def test_demonstrations_without_weights_have_no_column_for_them(tmp_path: Path) -> None:
    """Their tables are byte for byte those of before there were weights."""
    plain, weighted = NOUNS[-2:]
    assert pq.read_schema(store.save(tmp_path / "a", [plain])).names == ["task_id", "messages", "source"]
    store.save(tmp_path / "b", [plain, weighted])
    assert store.load(tmp_path / "b", Demonstration) == [plain, weighted]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda n: type(n).__name__)
def test_round_trip_and_equal_bytes(noun: object, tmp_path: Path) -> None:
    one, two = (store.save(tmp_path / name, [noun, noun]) for name in ("one", "two"))
    assert store.load(one, type(noun)) == [noun, noun]
    assert one.read_bytes() == two.read_bytes()


def test_bad_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(IprError, match="no file"):
        store.load(tmp_path / "none", Trajectory)
    (tmp_path / "cut").write_bytes(store.save(tmp_path / "whole", [PLAYED]).read_bytes()[:100])
    with pytest.raises(IprError, match="cut: not a readable Parquet"):
        store.load(tmp_path / "cut", Trajectory)
    with pytest.raises(IprError, match="holds no PreferencePair"):
        store.load(tmp_path / "whole", PreferencePair)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = store.write_text(tmp_path / "f", "old")

    def fail(aside: Path) -> None:
        aside.write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(IprError, match="No space left"):
        store.replace(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = store.write_text(tmp_path / "file", "")
    for folder in (file, file / "run"):
        with pytest.raises(IprError, match="file is a file; choose another folder"):
            check_space(folder, 0)
        with pytest.raises(IprError, match="cannot write"):
            store.write_text(folder / "config.yaml", "")


def test_a_folder_belongs_to_one_config(tmp_path: Path) -> None:
    config = configs.load("smoke", [], PRESETS)
    Run.open(tmp_path / "r", config, "smoke")
    same = configs.load("smoke", ["track.enabled=false"], PRESETS)  # decides nothing
    assert not Run.open(tmp_path / "r", same).config.track.enabled
    other = configs.load("smoke", ["train.beta=0.3"], PRESETS)
    with pytest.raises(IprError, match=r"train\.beta: 0\.1 -> 0\.3"):
        Run.open(tmp_path / "r", other)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "r", configs.load("smoke", [], PRESETS))
    code = f"from ipr.runs.run import Run\nwith Run({str(run.folder)!r}).lock(): pass"
    with run.lock():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "in use by another process" in done.stderr
    assert run.status()["status"] == "stopped"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    run = Run.open(tmp_path, configs.load())
    (tmp_path / ".lock").mkdir()
    with pytest.raises(IprError, match="cannot be written"), run.lock():
        pass


def test_work_is_done_once_and_shards_are_not_played_again(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "r", configs.load("smoke", ["rollout.shard=2"], PRESETS))
    assert run.once(1, "pairs", lambda: {"step": 3})["step"] == 3
    assert run.once(1, "pairs", lambda: pytest.fail("again"))["step"] == 3
    assert run.once(1, "train", lambda: {"seconds": 70.123})["seconds"] == 70.12, "with those before it was killed"
    assert run.once(1, "reward", lambda: {"seconds": -1.0})["seconds"] >= 0
    played: list[Job] = []

    def play(shards: list[list[Job]]) -> Iterator[tuple[int, list[Trajectory]]]:
        for place, jobs in enumerate(shards):
            played.extend(jobs)
            if len(played) > 2:
                raise KeyboardInterrupt
            yield place, [PLAYED for _ in jobs]

    jobs = [Job(Prefix("t", ()), seed) for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run.in_shards(1, "explore", jobs, play)
    played.clear()
    assert run.in_shards(1, "explore", jobs, play) == [PLAYED] * 3
    assert [job.seed for job in played] == [2]
    run.drop_shards(1)
    assert not (run.stage(1) / "shards").exists()


def test_workers_decide_nothing(tmp_path: Path) -> None:
    config = configs.load("smoke", [], PRESETS)
    other = configs.load("smoke", ["rollout.workers=2", "rollout.scheduler=tcp://there:8786"], PRESETS)
    assert identity.deciding(config) == identity.deciding(other)
    Run.open(tmp_path / "r", config)
    assert Run.open(tmp_path / "r", other).config.rollout.workers == 2


def test_shards_on_a_cpu_are_an_even_number_of_them() -> None:
    config = configs.load(None, ["rollout.shard=256", "model.device=cpu"])
    sizes = {episodes: shard_size(episodes, config) for episodes in (0, 5, 40, 400, 513, 1100)}
    assert sizes == {0: 16, 5: 16, 40: 20, 400: 200, 513: 129, 1100: 184}
    assert shard_size(400, configs.load(None, ["rollout.shard=8", "model.device=cpu"])) == 8


def test_shards_keep_problems_together_and_are_even() -> None:
    jobs = [Job(Prefix(f"t{i % 30}"), seed=i) for i in range(300)]  # ten of each of 30 problems, mixed
    shards = cut(jobs, 64)
    assert sorted(i for shard in shards for i in shard) == list(range(300))
    assert [len(shard) for shard in shards] == [60] * 5
    places = [{jobs[i].prefix.task_id for i in shard} for shard in shards]
    assert sum(map(len, places)) == 30
    # More of a problem than a shard holds: it is divided.
    assert [len(shard) for shard in cut([Job(Prefix("t"), i) for i in range(10)], 4)] == [4, 4, 2]
    assert cut([], 4) == []


def test_a_folder_that_cannot_be_locked_is_not_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    run = Run.open(tmp_path / "run", configs.load(None, []))
    monkeypatch.setattr("fcntl.flock", no_locks)
    assert run.status()["status"] == "stopped"
    with pytest.raises(IprError, match=r"cannot be locked \(No locks available\)"), run.lock():
        pytest.fail("it is not locked")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("eval.splits=[]", "names test splits"),
        ("eval.splits=[dev]", "train and dev are no test"),
        ("eval.splits=[seen,train]", "train and dev are no test"),
        ("eval.splits=[seen,seen]", "each once"),
        ("algorithm.success=70", "less than or equal to 1"),
        ("algorithm.name=gone", "quick: unknown method 'gone'"),
    ],
)
def test_what_would_end_a_run_late_is_refused(override: str, said: str) -> None:
    with pytest.raises(IprError, match=said):
        configs.load("quick", [override], PRESETS)


def test_no_is_what_yaml_reads_as_false() -> None:
    assert configs.load("quick", ["train.mixed_precision=no"], PRESETS).train.mixed_precision == "no"


def test_the_home_folder_is_meant_by_its_sign() -> None:
    """A shell replaces it in `~/x`, not in `key=~/x`."""
    named = {"env.data": "~/a", "env.experts": "~/b.parquet", "model.path": "~/c", "rollout.vllm": "~/d/bin/vllm"}
    config = configs.load(None, [f"{key}={value}" for key, value in named.items()])
    found = (config.env.data, config.env.experts, config.model.path, config.rollout.vllm)
    assert found == tuple(value.replace("~", str(Path.home())) for value in named.values())
