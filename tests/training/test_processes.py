"""Models spread over processes: the weights of one process, each has its part, killed and gone on with by others."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import DistributedType, PartialState
from accelerate.utils import patch_environment
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ipr import models
from ipr.config import LoraConfig, ModelConfig, TrainConfig, load
from ipr.models import load_model, processes, save_model
from ipr.runs.run import Run
from ipr.training.trainer import checkpoint, reference_logps, train
from ipr.types import IprError
from tests.training import test_reward_model, tiny
from tests.training.ranks import launch

Found = dict[str, tuple[list[dict[str, float]], dict[str, torch.Tensor]]]
"""What was trained -> history and weights."""

NEAR = {"muon": 2e-4, "bf16": 1e-2, "lora in bf16": 1e-2}
"""How far weights may be from those of one process where more is rounded than in float32: Muon's products are in bf16;
and of gradients in bf16 that are near 0, AdamW takes the sign (updates are of 1e-3)."""


def state(model: Any) -> dict[str, torch.Tensor]:
    whole = processes.whole_state(model)
    return model.state_dict() if whole is None else whole


def gemma(chat: Any) -> Any:
    """Nothing that the tiny Llama is: its attention refuses ours (in the middle of a trial), so rows are padded."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=len(chat.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return transformers.AutoModelForCausalLM.from_config(config).float()


def trainings(base: Path, out: Path) -> tuple[Found, list[int]]:
    """All kinds of trainings, in this process or in this one of several.

    Also the numbers that this one keeps of the weights and of what the optimizer keeps of them.
    """
    chat, found = tiny.make_chat(), {}
    demonstrations = tiny.make_demonstrations()

    def keep(name: str, model: Any, result: Any) -> None:
        found[name] = (result.history, state(model))

    def sft(name: str, model: Any, loss: str = "sft", share: float = 1.0, **knobs: Any) -> None:
        knobs = {"learning_rate": 1e-3, "micro_batch_tokens": 256, "batch_size": 4, "epochs": 1, **knobs}
        config = TrainConfig(**knobs)
        config = tiny.CONFIG.model_copy(update=config.model_dump()) if loss == "ppo" else config
        more = {"max_length": 512, "seed": 3, "out": out / name, "share": share}
        keep(name, model, train(model, chat, demonstrations, tiny.told, loss, config, **more))

    held: list[torch.Tensor] = []
    watch = register_optimizer_step_pre_hook(
        lambda optimizer, *_: held.extend(v for state in optimizer.state.values() for v in state.values())
    )
    model = tiny.make_model(chat)
    keep("adamw", model, tiny.prefer(model, out / "adamw", tiny.CONFIG.model_copy(update={"epochs": 1})))
    watch.remove()
    parts = [p.detach() for p in model.parameters()]
    kept = [sum(getattr(t, "_local_tensor", t).numel() for t in tensors) for tensors in (parts, held)]
    sft("muon", tiny.make_model(chat), optimizer="muon")
    sft("bf16", tiny.make_model(chat), mixed_precision="bf16")
    sft("fewer examples than processes", tiny.make_model(chat), batch_size=1)
    sft("ppo", tiny.make_model(chat), "ppo")
    sft("half the way", tiny.make_model(chat), share=0.5)
    sft("padded", gemma(chat))
    lora = ModelConfig(device="cpu", lora=LoraConfig(rank=4))
    rounded = lora.model_copy(update={"dtype": "bfloat16"})
    sft("lora in bf16", load_model(base, rounded, training=True), mixed_precision="bf16")
    whole = ModelConfig(device="cpu")
    frozen = whole.model_copy(update={"freeze_embeddings": True})
    for name, config in (("recomputed", whole), ("recomputed, frozen", frozen), ("lora", lora)):
        model, recomputed = load_model(base, config, training=True), name.startswith("recomputed")
        with patch_environment(FSDP_ACTIVATION_CHECKPOINTING=str(recomputed)):
            sft(name, model)
        assert model.is_activation_checkpointing == (recomputed and processes.several())
        save_model(model, chat.tokenizer, out / name / "model")
    logps = reference_logps(gemma(chat), chat, tiny.make_pairs(), tiny.told, tiny.CONFIG, max_length=512)
    found["reference"] = ([], {"chosen": logps[0], "rejected": logps[1]})
    return found, kept


def check(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], near: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    far = {name: float((one[name] - other[name]).abs().max()) for name in one}
    assert max(far.values()) < near, far


def test_three_processes_train_the_weights_of_one_and_each_keeps_its_part(tmp_path: Path) -> None:
    chat, folder = tiny.make_chat(), tmp_path / "alone"
    base = save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "base")
    expected, totals = trainings(base, folder)
    ranks = launch(3, tmp_path, trainings, base, tmp_path)
    assert ranks is not None
    found = ranks[0][0]
    for name, (history, weights) in expected.items():
        of_others = [rank[0][name][0] for rank in ranks]
        assert all(other == of_others[0] for other in of_others), name
        assert len(found[name][0]) == len(history)
        for update, other in zip(history, found[name][0], strict=True):
            assert other == pytest.approx(update, rel=1e-2 if "bf16" in name else 1e-4, abs=1e-5), name
        if "lora" in name:  # of an adapter it is the adapter
            weights = {key: value for key, value in weights.items() if "lora" in key}
        check(weights, found[name][1], NEAR.get(name, 1e-5))
    for name, file in (("recomputed", "model.safetensors"), ("lora", "adapter_model.safetensors")):
        one, several = (load_file(out / name / "model" / file) for out in (folder, tmp_path))
        check(one, several)
    configs = [(out / "recomputed" / "model" / "config.json").read_text() for out in (folder, tmp_path)]
    assert configs[0] == configs[1]
    for total, *parts in zip(totals, *(kept for _, kept in ranks), strict=True):
        assert sum(parts) == pytest.approx(total, rel=0.05)
        assert max(parts) < 1.2 * total / 3


def waits(out: Path) -> bool:
    """Whether this process, which joins as `accelerate launch` has it, is waited for."""
    torch.distributed.destroy_process_group()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": out.name}
    processes.PATIENCE = timedelta(seconds=2)
    state = processes.here(torch.device("cpu"))
    try:
        if state.is_main_process:
            time.sleep(4)
        state.wait_for_everyone()
    except RuntimeError:
        return False
    return True


def wrapped(base: Path, layer: str) -> str:
    """What is said where accelerate's settings name that layer; nothing where it is the model's."""
    settings = {"FSDP_TRANSFORMER_CLS_TO_WRAP": layer}
    with patch_environment(**settings):
        model = load_model(base, ModelConfig(device="cpu"), training=True)
        try:
            processes.spread(model)
        except IprError as error:
            return str(error)
    return ""


def test_a_layer_to_wrap_that_the_model_has_not_is_refused_in_every_process(tmp_path: Path) -> None:
    chat = tiny.make_chat()
    base = save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "base")
    told = launch(2, tmp_path, wrapped, base, "Qwen2DecoderLayer")
    assert told is not None
    assert told[0] == told[1]
    assert "wrap Qwen2DecoderLayer, which this model has not (its layers: LlamaDecoderLayer)" in told[0]
    assert "correct fsdp_transformer_layer_cls_to_wrap" in told[0]
    assert launch(2, tmp_path, wrapped, base, "LlamaDecoderLayer") == ["", ""]


def test_how_long_processes_wait_for_one_another_is_ours_to_say(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert False in (launch(2, tmp_path, waits, tmp_path / str(port)) or ())


def test_gpus_are_joined_with_the_same_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def joined(**kwargs: Any) -> None:
        given.append(kwargs)
        raise InterruptedError

    monkeypatch.setattr(torch.distributed, "init_process_group", joined)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setattr(PartialState, "_prepare_backend", lambda *_: ("nccl", DistributedType.MULTI_GPU))
    with patch_environment(LOCAL_RANK="0"), pytest.raises(InterruptedError):
        processes.here(torch.device("cuda"))
    assert given == [{"backend": "nccl", "timeout": timedelta(days=1)}]


def fitted(out: Path) -> tuple[dict[str, float | None], dict[Any, float]]:
    chat = tiny.make_chat()
    model = test_reward_model.made(tiny.make_model(chat), chat)
    figures = model.fit(test_reward_model.rewards()[:24], 3, out)
    model.save(out / "model.safetensors")
    return figures, model.read([test_reward_model.prefix(31, good, 2) for good in (True, False)])


def test_a_reward_model_is_that_of_one_process(tmp_path: Path) -> None:
    figures, read = fitted(tmp_path / "alone")
    ranks = launch(2, tmp_path, fitted, tmp_path / "two")
    assert ranks is not None
    for of_rank, values in ranks:
        assert of_rank == pytest.approx(figures, rel=1e-3)
        assert values == pytest.approx(read, rel=1e-3)
    check(*(load_file(tmp_path / name / "model.safetensors") for name in ("alone", "two")), near=1e-4)


def without_sft(folder: Path) -> int:
    """How often this process saved the SFT agent."""
    from tasks.sft import sft

    saved, calls = models.save_model, []

    def save(*given: Any) -> Path:
        calls.append(given)
        return saved(*given)

    models.save_model = save
    sft.fn(str(folder))
    return len(calls)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_base_that_is_the_sft_agent_is_written_by_one(rank: int, tmp_path: Path) -> None:
    chat = tiny.make_chat()
    base = save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "base")
    keys = [f"model.path={base}", "sft.epochs=0", f"model.lora.rank={rank}", "model.device=cpu"]
    run = Run.open(tmp_path / "run", load(None, keys))
    assert launch(2, tmp_path, without_sft, run.folder) == [1, 0]
    ids = torch.tensor([[5, 6, 7, 8]])
    one, other = (load_model(path, run.config.model)(ids).logits for path in (base, run.model(0)))
    assert torch.equal(one, other)
    assert models.adapter(run.model(0)) == ((str(base), 2) if rank else None)


def prefer(out: Path, dies: int | None = None) -> tuple[int, list[dict[str, float]], dict[str, torch.Tensor]]:
    """Updates that were still to do, history and weights. The process of rank `dies` ends itself in update 6 of 9."""
    steps: list[None] = []

    def step(*_: Any) -> None:
        steps.append(None)
        if len(steps) == 6 and dies == int(os.environ.get("RANK", "0")):
            os.kill(os.getpid(), signal.SIGKILL)

    watch = register_optimizer_step_pre_hook(step)
    try:
        model = tiny.make_model(tiny.make_chat())
        history = tiny.prefer(model, out).history
    finally:
        watch.remove()
    return len(steps), history, state(model)


def test_one_of_four_is_killed_and_any_number_of_processes_goes_on(tmp_path: Path) -> None:
    _, history, weights = prefer(tmp_path / "whole")
    out = tmp_path / "out"
    assert launch(4, tmp_path, prefer, out, 2) is None
    assert checkpoint(out) == out / "updates-000004"
    assert len([*(out / "updates-000004").glob("*.distcp")]) == 4
    for world in (4, 2, 1):
        again = shutil.copytree(out, tmp_path / f"again-{world}")
        ranks = [prefer(again)] if world == 1 else launch(world, tmp_path, prefer, again)
        assert ranks is not None
        for steps, rows, _ in ranks:
            assert steps - (steps == 6) == 5, "it went on from the checkpoint"
            assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in history], rel=1e-4)
        check(weights, ranks[0][2])
        assert [path.name for path in again.iterdir()] == ["updates-000008"]


def test_killed_alone_and_gone_on_with_by_two(tmp_path: Path) -> None:
    _, _, weights = prefer(tmp_path / "whole")
    assert launch(1, tmp_path, prefer, tmp_path / "out", 0) is None
    ranks = launch(2, tmp_path, prefer, tmp_path / "out")
    assert ranks is not None
    check(weights, ranks[0][2])
