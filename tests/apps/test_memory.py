"""What a run's memory is said to be: against a real training and real playing, and what is made of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from flows.cli import main
from ipr import config as configs
from ipr import envs, models
from ipr.algorithms.rft import demonstration
from ipr.apps import memory, start
from ipr.config import RunConfig
from ipr.engine import kv
from ipr.runs.run import Run
from ipr.tokens import ChatTokens
from ipr.training.batches import Example, example
from ipr.types import IprError

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "flows" / "configs"


def test_a_training_and_playing_take_what_is_said(tmp_path: Path) -> None:
    """Within 15 %, as the process's memory grows. All cases: `python -m benchmarks.memory`."""
    out, cases, found = tmp_path / "found.json", ["sft", "playing"], {}
    for _ in range(3):  # what else goes on in a process can only add to what is measured
        command = [sys.executable, "-m", "benchmarks.memory", *cases, "--json", str(out)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=1200, stdout=subprocess.PIPE)
        found = json.loads(out.read_text())
        cases = [c for c, f in found.items() if f["estimated"] != pytest.approx(f["measured"], rel=0.15)]
        if not cases:
            return
    pytest.fail(f"not within 15 %: {found}")


def planned(preset: str, *keys: str) -> tuple[Any, RunConfig, dict[str, list[Example]]]:
    """The model's config, the run's, and an update's examples."""
    config = configs.load(preset, list(keys), PRESETS)
    chat, spec = ChatTokens(models.load_tokenizer("embedded-alfworld")), envs.get("alfworld")
    experts = [spec.expert(task_id) for task_id in spec.task_ids("train")[:12]]
    rows = memory.updates(config, spec, chat, experts)
    return models.known(config.model.path), config, {"sft": rows["sft"]}


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("llama-3.2-1b", 1_235_814_400),
        ("qwen3-4b-lora", 4_022_468_096),
        ("llama-2-7b", 6_738_415_616),
        ("qwen2.5-7b-lora", 7_615_616_512),
    ],
)
def test_the_models_of_the_presets_have_their_sizes(preset: str, parameters: int) -> None:
    config = configs.load(preset, [], PRESETS)
    size = memory.sizes(models.known(config.model.path), config.model)
    assert size.whole - (size.trained if config.model.lora.rank else 0) == parameters


def test_eight_gpus_hold_in_parts_what_one_cannot() -> None:
    text, config, rows = planned("llama-2-7b", "algorithm.name=sft")
    room = 80.0 * memory.GIB
    alone = memory.estimate(text, config, rows, memory=room)
    assert alone.training["sft"]["weights"] == alone.training["sft"]["gradients"] == 4 * 6_738_415_616
    assert alone.training["sft"]["optimizer"] == 8 * 6_738_415_616
    refused = alone.refusal(config, room)
    assert refused is not None
    assert "sft needs 1" in refused
    assert "train adapters (model.lora.rank=16), or take a smaller model" in refused
    together = alone.refusal(config, room, idle=True)
    assert together is not None
    assert "train stage by stage on all GPUs together (accelerate launch, docs/training.md), or take" in together
    spread = memory.estimate(text, config, rows, memory=room, processes=8, sharded=True, gpus=8)
    assert spread.training["sft"]["optimizer"] == 6_738_415_616
    assert spread.refusal(config, room) is None
    # Beside bfloat16 weights as many slots of 4096 tokens as the engine would take.
    assert spread.playing["slots"] == kv.slots_in(80 * memory.GIB - 2 * 6_738_415_616, (2 << 30, 40 * 32000))


def test_weights_that_leave_no_room_for_a_conversation_are_refused() -> None:
    text, config, _ = planned("qwen3-4b-lora", "algorithm.name=sft")
    least = memory.estimate(text, config, {}, memory=7.0 * memory.GIB).refusal(config, 7 * memory.GIB)
    assert least is not None
    assert "not one conversation of 4096 tokens can be played" in least


def test_who_shares_a_gpu_and_how() -> None:
    vllm = ["rollout.backend=vllm"]
    text, config, rows = planned("qwen3-4b-lora", "algorithm.name=sft", *vllm)
    own = config.rollout.model_copy(update={"vllm": "vllm"})
    found = memory.estimate(text, config, rows, memory=24.0 * memory.GIB)
    assert "take turns" in found.turns
    assert found.playing["total"] == int(0.9 * 24 * memory.GIB)
    assert found.playing["slots"] > 0
    started = memory.estimate(text, config.model_copy(update={"rollout": own}), rows, memory=24.0 * memory.GIB)
    assert started.training["sft"]["total"] == found.training["sft"]["total"] + memory.ASLEEP
    assert "a sleeping vLLM 2.0" in (started.refusal(config, 4.0 * memory.GIB) or "")
    text, config, rows = planned("qwen3-4b-lora", "algorithm.name=sft", *vllm, "rollout.endpoint=http://there:8000/v1")
    served = memory.estimate(text, config, rows, memory=24.0 * memory.GIB)
    assert served.playing == {}
    assert "the server at http://there:8000/v1 keeps its share" in served.turns
    text, config, rows = planned("qwen3-4b-lora", "algorithm.name=sft", "rollout.workers=3")
    alone = memory.estimate(text, config, rows, memory=24.0 * memory.GIB, gpus=3)
    shared = memory.estimate(text, config, rows, memory=24.0 * memory.GIB, gpus=2)
    assert shared.turns.startswith("training and 3 workers take turns, up to 2 of them on a GPU")
    assert shared.training == alone.training
    assert 2 * shared.playing["total"] < 24 * memory.GIB
    assert 0 < 2 * shared.playing["slots"] < alone.playing["slots"]


def test_a_stage_that_trains_is_refused_where_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    keys = ["env.tasks=8", "machine.memory=0.05", "data.publish=false", "track.enabled=false"]
    run = Run.open(tmp_path / "run", configs.load("smoke", keys, PRESETS), by_stage=True)
    assert main(["sft", "--dir", str(run.folder)]) == 2
    assert "sft needs" in capsys.readouterr().err
    assert not run.stage(0).exists()


def test_a_stated_size_that_is_exceeded_stops_a_run() -> None:
    small = ["env.tasks=8", "algorithm.name=sft"]
    start.check_memory(configs.load("smoke", [*small, "machine.memory=2"], PRESETS))
    with pytest.raises(IprError, match=r"sft needs .* GiB on a GPU \(weights .*, of 0.1 GiB it may have 0.0; train"):
        start.check_memory(configs.load("smoke", [*small, "machine.memory=0.05"], PRESETS))
    with pytest.raises(IprError, match=r"set sft.micro_batch_tokens=\d+$") as refused:
        start.check_memory(configs.load("smoke", [*small, "machine.memory=0.15"], PRESETS))
    advice = str(refused.value).rpartition("set ")[2]
    both = [advice, advice.replace("sft.", "train.")]  # which trains on the same rows
    start.check_memory(configs.load("smoke", [*small, "machine.memory=0.15", *both], PRESETS))


def test_no_pass_is_asked_for_that_is_shorter_than_an_example() -> None:
    config = configs.load("smoke", ["sft.micro_batch_tokens=2048"], PRESETS)
    text, spec = models.config_of("embedded"), envs.get("alfworld")
    chat, task = ChatTokens(models.load_tokenizer("embedded")), spec.task_ids("train")[0]
    row = example(chat, spec.told(task), demonstration(memory._longer(spec.expert(task), 30)))
    found = memory.estimate(text, config, {"sft": [row]})
    held = found.training["sft"]
    assert held["tokens"] == held["longest"] > 1280
    refused = found.refusal(config, (held["total"] - held["activations"] // 16) / memory.SPARE)
    assert refused is not None
    assert "micro_batch_tokens" not in refused


@pytest.mark.parametrize(
    "architecture",
    [
        {"model_type": "llama", "num_key_value_heads": 2},
        {"model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 4},
        {"model_type": "deepseek_v2", "kv_lora_rank": 8, "n_routed_experts": 4, "num_experts_per_tok": 2},
        {"model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 8},
        {"model_type": "gpt_oss", "num_key_value_heads": 2, "num_local_experts": 4, "head_dim": 8},
        {"model_type": "nemotron", "num_key_value_heads": 2},
        {"model_type": "gpt2", "n_positions": 4096},
        {"model_type": "bloom"},
    ],
    ids=lambda one: one["model_type"],
)
def test_what_plays_can_be_counted(architecture: dict[str, Any], examples: dict[str, list[Example]]) -> None:
    size: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    text = AutoConfig.for_model(**(size | architecture), vocab_size=2000)
    config = configs.load("smoke", ["algorithm.name=sft", "model.max_length=512"], PRESETS)
    found = memory.estimate(text, config, examples)
    assert found.training["sft"]["activations"] > 0
    assert found.playing["key-values"] > 0


@pytest.fixture(scope="module")
def examples() -> dict[str, list[Example]]:
    return {"sft": planned("smoke", "sft.batch_size=2")[2]["sft"]}


def test_what_cannot_be_counted_is_noted_and_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Positions that are scaled by the conversation's length ask for numbers."""
    shutil.copytree(models.resolve("embedded"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_parameters": rope}))
    keys = [f"model.path={tmp_path / 'model'}", "env.tasks=8", "machine.memory=2"]
    start.check_memory(configs.load("smoke", keys, PRESETS))
    assert "note: whether the run fits into 2.0 GiB is not known: a llama cannot be" in capsys.readouterr().err
    planned = start.dry_run(configs.load("smoke", keys, PRESETS))
    assert planned["gibibytes_on_each_gpu"].startswith("not known: ")
    assert "fits" not in planned


def test_a_state_that_goes_from_token_to_token_is_not_counted() -> None:
    """In Python that is some operations a token, which would take minutes."""
    text = AutoConfig.for_model("recurrent_gemma", hidden_size=32, num_hidden_layers=2, lru_width=32, vocab_size=50)
    text.num_attention_heads, text.intermediate_size = 4, 64
    with pytest.raises(RuntimeError, match="from token to token"):
        memory.estimate(text, configs.load("smoke", [], PRESETS), {})


@pytest.mark.parametrize("rank", [0, 4])
def test_what_sees_pictures_is_counted_as_it_is_loaded(rank: int) -> None:
    """A model of text and pictures is loaded, and trained, whole."""
    text = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    seen = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    both = AutoConfig.for_model("gemma3", text_config=text, vision_config=seen | {"image_size": 28, "patch_size": 14})
    config = configs.load("smoke", [f"model.lora.rank={rank}"], PRESETS)
    model = AutoModelForCausalLM.from_config(both)
    loaded = models.with_adapter(model, config.model) if rank else model
    counted = [p for p in loaded.parameters() if p.requires_grad]
    found, alone = memory.sizes(both, config.model), memory.sizes(both.get_text_config(), config.model)
    assert found.trained == sum(p.numel() for p in counted)
    assert found.whole == sum(p.numel() for p in loaded.parameters()) > alone.whole
    assert found.layer == alone.layer
    of_both, of_text = (memory.playing(c, config)["weights"] for c in (both, both.get_text_config()))
    assert of_both - of_text == 4 * (found.whole - alone.whole)
