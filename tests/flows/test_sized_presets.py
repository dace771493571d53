"""Presets that name a model: its architecture, tiny, goes through the whole loop; training and playing take turns."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from flows import launch
from flows.cli import main
from ipr import config as configs
from ipr import models, store
from ipr.models.folders import ARCHITECTURES
from ipr.runs import ITERATION
from ipr.types import Trajectory
from tests import families
from tests.conftest import Install

PRESETS = Path(__file__).parents[2] / "flows" / "configs"
FAMILY = {
    "llama-3.2-1b": "llama-3.2",
    "qwen3-4b-lora": "qwen3",
    "llama-2-7b": "llama-2",
    "qwen2.5-7b-lora": "qwen2.5",
}
TINY = [
    *("env.name=doors", "env.tasks=2", "eval.splits=[unseen]", "eval.games=1", "eval.dev_games=1"),
    *("sft.epochs=1", "train.epochs=1", "algorithm.iterations=1", "algorithm.samples=2", "algorithm.tau=0"),
    *(
        "rollout.max_new_tokens=8",
        "rollout.slots=8",
        "rollout.workers=1",
        "eval.bootstrap=100",
        "data.publish=false",
        "track.enabled=false",
    ),
]


def tiny_model(preset: str, folder: Path) -> Path:
    """The preset's model: all that is in its config but widths, depth and vocabulary; its template."""
    model = models.tiny_copy(models.known(configs.load(preset, [], PRESETS).model.path))
    tokenizer = families.RIGHT[FAMILY[preset]]()
    model.resize_token_embeddings(len(tokenizer))
    return models.save_model(model, tokenizer, folder)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, list[bool]]]:
    """Of every model that is loaded: whether it is to be trained, and those of the others that are alive then."""
    found: list[tuple[bool, list[bool]]] = []
    alive: list[tuple[bool, Any]] = []
    real = models.load_model

    def load_model(path: Any, config: Any, *, training: bool = False) -> Any:
        found.append((training, [kind for kind, other in alive if other() is not None]))
        model = real(path, config, training=training)
        alive.append((training, weakref.ref(model)))
        return model

    monkeypatch.setattr(models, "load_model", load_model)
    return found


@pytest.mark.parametrize("preset", FAMILY)
def test_a_preset_goes_through_the_loop(
    preset: str,
    loaded: list[tuple[bool, list[bool]]],
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install("plug-doors", {"doors": "plug_doors"}, plug_doors="from tests.doors import spec")
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    base, run = tiny_model(preset, tmp_path / "base"), tmp_path / "run"
    config = configs.load(preset, [*TINY, f"model.path={base}"], PRESETS)
    launch.one_task(run, "experts", 0, config, preset)
    for name, iteration in (("evaluate", -1), ("sft", 0), ("evaluate", 0), *((task, 1) for task in ITERATION)):
        launch.one_task(run, name, iteration)
    launch.one_task(run, "evaluate", 1)
    explored = store.load(run / "iteration-1" / "explored.parquet", Trajectory)
    assert len(explored) == sum(len(t.steps) for t in store.load(run / "experts.parquet", Trajectory))
    trained = store.read_json(run / "iteration-1" / "train.json")
    assert trained["updates"] > 0
    assert bool(config.model.lora.rank) == (run / "iteration-1" / "model" / "adapter_config.json").is_file()
    assert {kind for kind, _ in loaded} == {True, False}
    assert [others for _, others in loaded if others] == [], "whatever is loaded, no other model is in memory"


@pytest.mark.parametrize("preset", FAMILY)
def test_a_preset_is_planned_without_its_model(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", preset, "--dry-run", "env.tasks=40"]) == 0
    told = capsys.readouterr().out
    assert "the tokenizer of embedded-alfworld" in told
    assert "gibibytes on each gpu:" in told
    assert f"fits: yes: {8 if preset == 'llama-2-7b' else 1} x" in told
    assert ("which train together in 8 processes" in told) == (preset == "llama-2-7b")


def test_architectures_are_those_that_presets_name() -> None:
    named = {configs.load(preset, [], PRESETS).model.path for preset in FAMILY}
    files = {file.stem.replace("--", "/") for file in ARCHITECTURES.glob("*.json")}
    assert files == named
    assert models.known("someone/else") is None
    assert isinstance(models.known("Qwen/Qwen3-4B"), type(AutoConfig.for_model("qwen3")))
