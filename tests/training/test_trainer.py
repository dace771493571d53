"""The loop on a tiny model: exact means, padding, dropping, learning, resuming, processes."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import state_dict_saver
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ipr.config import LoraConfig, ModelConfig, PreferenceConfig, TrainConfig
from ipr.models import load_model, save_model
from ipr.training import losses, trainer
from ipr.training.batches import demonstration_example, pair_example
from ipr.training.sharing import shared_rows
from ipr.training.trainer import TrainResult, _part, checkpoint, learning_rate, reference_logps, train
from ipr.types import IprError
from tests.training import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chat():
    return tiny.make_chat()


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def sft(model, chat, out, config, demonstrations=None, **more):
    more = {"max_length": 512, "seed": 3, **more}
    demonstrations = demonstrations or tiny.make_demonstrations()
    return train(model, chat, demonstrations, tiny.told, "sft", config, out=out, **more)


# The loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_logps_are_those_of_the_whole_logits(chat, share):
    """Selecting hidden states before the output layer, sharing, padding and no attention mask change nothing."""
    model = tiny.make_model(chat)
    examples = [pair_example(chat, tiny.PROMPT, pair) for pair in tiny.make_pairs()]
    with torch.no_grad():
        with shared_rows(model, 512) if share else nullcontext():
            chosen, rejected = trainer._pair_logps(model, examples, share)
        for i, example in enumerate(examples):
            for found, row in zip((chosen[i], rejected[i]), example.rows, strict=True):
                ids = row.ids[None]
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                whole = tiny.sequence_logps(logits, ids, row.agent[None])
                assert found.item() == pytest.approx(whole.item(), rel=1e-5)
    assert model(torch.arange(5)[None]).logits.shape == (1, 5, len(chat.tokenizer)), "the hook is gone"


def test_reference_is_the_models_own_logps_and_nan_where_too_long(chat):
    model, pairs = tiny.make_model(chat), tiny.make_pairs()
    longest = [pair_example(chat, tiny.PROMPT, pair).length for pair in pairs]
    limit = sorted(longest)[5]
    chosen, rejected = reference_logps(model, chat, pairs, tiny.told, tiny.CONFIG, max_length=limit)
    assert chosen.isnan().tolist() == rejected.isnan().tolist() == [n > limit for n in longest]
    assert (chosen[~chosen.isnan()] < 0).all()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_embeddings_stay_as_they_are_and_the_rest_is_trained(chat, tmp_path, optimizer):
    save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "base")
    model = load_model(tmp_path / "base", ModelConfig(device="cpu", freeze_embeddings=True), training=True)
    before = weights(model)
    sft(model, chat, tmp_path / "out", tiny.CONFIG.model_copy(update={"optimizer": optimizer, "epochs": 1}))
    moved = {name for name, p in weights(model).items() if not torch.equal(p, before[name])}
    assert set(before) - moved == {"model.embed_tokens.weight"}, "input and output are one"


@pytest.mark.parametrize("stage", ["sft", "preference"])
def test_micro_batches_do_not_change_an_update(chat, tmp_path, stage):
    """One update of 10 examples in one pass or in many: the same loss, terms and gradients."""
    passes: list[int] = []
    gradients: list[list[torch.Tensor]] = []

    def look(optimizer, *_):
        gradients.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    histories = []
    for i, tokens in enumerate((1 << 20, 256)):
        model = tiny.make_model(chat, 7)
        passes.append(0)
        model.get_output_embeddings().register_forward_hook(
            lambda layer, *_, i=i: passes.__setitem__(i, passes[i] + layer.training)
        )
        watch = register_optimizer_step_pre_hook(look)
        same: dict[str, Any] = {"epochs": 1, "batch_size": 10, "micro_batch_tokens": tokens}
        if stage == "sft":
            result = sft(model, chat, tmp_path, TrainConfig(observation_weight=0.3, **same))
        else:
            result = tiny.prefer(model, tmp_path, tiny.CONFIG.model_copy(update=same))
        watch.remove()
        histories.append(result.history)
    assert passes[0] == 1
    assert passes[1] >= 3
    assert [len(rows) for rows in histories] == [1, 1]
    assert histories[1][0] == pytest.approx(histories[0][0], rel=1e-4)
    for whole, parts in zip(*gradients, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-6)


def test_a_share_of_the_way_is_between_the_weights(chat, tmp_path):
    config = TrainConfig(learning_rate=1e-3, epochs=1, batch_size=4)
    whole, part = (tiny.make_model(chat) for _ in range(2))
    sft(whole, chat, tmp_path, config)
    sft(part, chat, tmp_path, config, share=0.25)
    for start, trained, found in zip(*(m.parameters() for m in (tiny.make_model(chat), whole, part)), strict=True):
        assert torch.allclose(found, start + 0.25 * (trained - start), atol=1e-7)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(part.parameters(), whole.parameters(), strict=True))


def test_imitation_at_a_temperature(chat, tmp_path):
    """The loss is that of the logits over the temperature."""
    rows, model = tiny.make_demonstrations(), tiny.make_model(chat)
    examples = [demonstration_example(chat, tiny.PROMPT, row) for row in rows]
    with torch.no_grad():
        model.get_output_embeddings().weight *= 20
        part = _part(model, examples, False)
        at_three = _part(model, examples, False, 3.0)
    config = TrainConfig(temperature=3.0, batch_size=len(rows), epochs=1)
    (update,) = sft(model, chat, tmp_path, config).history
    assert update["loss"] == pytest.approx(-float(at_three.logps.mean()), rel=1e-4)
    assert update["loss"] != pytest.approx(-float(part.logps.mean()), rel=1e-2)


def test_what_is_compared_with_a_reference_is_at_temperature_one(chat, tmp_path):
    """A preset's key for another method is idle: DPO starts at margin 0, as its reference is at temperature 1."""
    config = PreferenceConfig(batch_size=10, epochs=1, temperature=3.0)
    (update,) = tiny.prefer(tiny.make_model(chat), tmp_path, config).history
    assert update["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert update["outcome_dpo"] == update["step_dpo"] == pytest.approx(math.log(2), abs=1e-4)


def test_eto_prefers_whole_trajectories_and_imitates_none(chat, tmp_path):
    model, config = tiny.make_model(chat, 7), PreferenceConfig(batch_size=10, epochs=1)
    reference = reference_logps(tiny.make_model(chat), chat, tiny.make_pairs(), tiny.told, config, max_length=512)
    of = {"reference": reference, "max_length": 512, "seed": 5, "out": tmp_path}
    (update,) = train(model, chat, tiny.make_pairs(), tiny.told, "outcome_dpo", config, **of).history
    assert update["loss"] == update["outcome_dpo"]
    assert "step_dpo" not in update


def test_term_means_of_a_mixed_update_are_exact(chat, tmp_path):
    """Against every pair scored alone: each term is the mean over its own pairs of the update."""
    model, reference = tiny.make_model(chat, 7), tiny.make_model(chat)
    config = PreferenceConfig(batch_size=10, epochs=1, micro_batch_tokens=256, beta=0.2, sft=0.5, step_dpo=2.0)
    terms: dict[str, list[float]] = {"outcome_dpo": [], "step_dpo": [], "sft": []}
    for pair in tiny.make_pairs():
        example = pair_example(chat, tiny.PROMPT, pair)
        with torch.no_grad():
            c, r = trainer._pair_logps(model, [example], False)
            dpo = losses.preference_loss(c, r, *trainer._pair_logps(reference, [example], False), beta=0.2)[0].item()
        terms[f"{pair.level}_dpo"].append(dpo)
        if pair.level == "outcome":
            terms["sft"].append(-c.item())
    means = {name: sum(values) / len(values) for name, values in terms.items()}
    row = tiny.prefer(model, tmp_path, config).history[0]
    assert {name: row[name] for name in means} == pytest.approx(means, rel=1e-4)
    assert row["loss"] == pytest.approx(means["outcome_dpo"] + 2 * means["step_dpo"] + 0.5 * means["sft"], rel=1e-4)


def test_training_starts_at_no_margin(chat, tmp_path):
    row = tiny.prefer(tiny.make_model(chat), tmp_path).history[0]
    assert row["outcome_dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert row["reward_margin"] == pytest.approx(0, abs=1e-4)


# Learning --------------------------------------------------------------------------------------------------------


def test_preference_training_raises_the_margin(chat, tmp_path):
    config = tiny.CONFIG.model_copy(update={"epochs": 15, "learning_rate": 3e-3})
    result = tiny.prefer(tiny.make_model(chat), tmp_path, config)
    assert result.updates == len(result.history) == 45
    assert result.final["accuracy"] == 1.0
    assert result.final["reward_margin"] > 1.0
    assert result.final["sft"] < 0.7 * result.history[0]["sft"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_sft_learns_and_counts(chat, tmp_path, optimizer):
    model = tiny.make_model(chat)
    seen: list[tuple[int, int]] = []
    config = TrainConfig(optimizer=optimizer, learning_rate=1e-2, epochs=15, batch_size=5)
    result = sft(model, chat, tmp_path, config, progress=lambda *at: seen.append(at))
    assert result.final["loss"] < 0.5 * result.history[0]["loss"]
    assert result.final["loss"] == pytest.approx(result.final["agent_nll"], rel=1e-5)
    assert (result.examples, result.dropped, result.updates) == (10, 0, 30)
    tokens = [chat.conversation([*tiny.PROMPT, *d.messages]) for d in tiny.make_demonstrations()]
    assert result.tokens == 15 * sum(len(t.ids) for t in tokens)
    assert result.agent_tokens == 15 * sum(sum(t.mask) - len(chat.agent("OK")) for t in tokens)
    assert seen == [(k + 1, 30) for k in range(30)]
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_too_long_is_dropped_on_both_sides_and_counted(chat, tmp_path):
    pairs = [pair_example(chat, tiny.PROMPT, pair) for pair in tiny.make_pairs()]
    # The rejected sides are the longer ones here, so a limit on them must drop the chosen sides too.
    limit = sorted(e.length for e in pairs)[6]
    chat_, reference = tiny.make_chat(), tiny.make_model(chat)
    logps = reference_logps(reference, chat_, tiny.make_pairs(), tiny.told, tiny.CONFIG, max_length=limit)
    result = train(
        tiny.make_model(chat),
        chat,
        tiny.make_pairs(),
        tiny.told,
        "ipr",
        tiny.CONFIG,
        reference=logps,
        max_length=limit,
        seed=0,
        out=tmp_path,
    )
    expected = sum(e.length > limit for e in pairs)
    assert result.dropped == expected > 0
    assert result.examples == len(pairs) - expected
    assert all(math.isfinite(value) for row in result.history for value in row.values())


def test_the_models_own_limit_counts_where_it_is_smaller(chat, tmp_path):
    model = tiny.make_model(chat)
    lengths = [len(chat.conversation([*tiny.PROMPT, *d.messages]).ids) for d in tiny.make_demonstrations()]
    model.config.max_position_embeddings = min(lengths)
    result = sft(model, chat, tmp_path, TrainConfig(epochs=1), max_length=4096)
    assert result.dropped == sum(n > min(lengths) for n in lengths) > 0


def test_nothing_to_train_on_is_said(chat, tmp_path):
    with pytest.raises(IprError, match=r"10 examples.*at most 8 tokens.*model\.max_length"):
        sft(tiny.make_model(chat), chat, tmp_path, TrainConfig(), [tiny.make_demonstrations()[0]] * 10, max_length=8)


def test_pairs_without_a_term_are_left_out(chat, tmp_path):
    config = tiny.CONFIG.model_copy(update={"step_dpo": 0.0})
    assert tiny.prefer(tiny.make_model(chat), tmp_path, config).examples == 7
    config = config.model_copy(update={"sft_on": "every"})
    assert tiny.prefer(tiny.make_model(chat), tmp_path / "every", config).examples == 10


def test_not_finite_is_an_error_and_not_a_ruined_model(chat, tmp_path):
    model = tiny.make_model(chat)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.inf)
    with pytest.raises(IprError, match=r"update 1.*lower the learning_rate"):
        sft(model, chat, tmp_path, TrainConfig())


def test_bf16_runs_with_float32_weights(chat, tmp_path):
    config = tiny.CONFIG.model_copy(update={"mixed_precision": "bf16"})
    model = tiny.make_model(chat)
    result = tiny.prefer(model, tmp_path, config)
    assert result.history[0]["reward_margin"] == pytest.approx(0, abs=1e-3), "the reference is in bf16 as well"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert math.isfinite(result.final["loss"])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rate(schedule):
    config = TrainConfig(learning_rate=1.0, schedule=schedule, warmup=0.1)
    rates = [learning_rate(u, 100, config) for u in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates == [*sorted(rates[:10]), *sorted(rates[10:], reverse=True)]
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx({"cosine": 0.5, "linear": 0.5, "constant": 1.0}[schedule])
    assert rates[99] == pytest.approx(
        {"cosine": 0.5 * (1 + math.cos(math.pi * 89 / 90)), "linear": 1 / 90}.get(schedule, 1)
    )


# Resuming --------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize(("rank", "optimizer"), [(0, "adamw"), (4, "adamw"), (0, "muon"), (4, "muon")])
def test_stopped_anywhere_and_restarted_ends_with_the_same_bits(chat, tmp_path, rank, optimizer):
    training = tiny.CONFIG.model_copy(update={"optimizer": optimizer})
    config = ModelConfig(device="cpu", lora=LoraConfig(rank=rank, dropout=0.2))
    save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "base")
    whole = load_model(tmp_path / "base", config, training=True)
    result = tiny.prefer(whole, tmp_path / "whole", training)
    assert result.updates == 9

    again = whole
    for at in (1, 2, 3, 6, 9):  # checkpoints are after 2, 4, 6, 8; the last is there until the model is saved

        def die(update: int, _: object, at: int = at) -> None:
            if update == at:
                raise Killed

        again = load_model(tmp_path / "base", config, training=True)
        with pytest.raises(Killed):
            tiny.prefer(again, tmp_path / "again", training, log=die)
    again = load_model(tmp_path / "base", config, training=True)
    resumed = tiny.prefer(again, tmp_path / "again", training)
    assert same(weights(whole), weights(again))
    assert resumed.history == result.history
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["updates-000008"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_part_that_no_pass_uses_or_only_a_later_one_is_resumed_with_the_same_bits(chat, tmp_path, optimizer):
    """A vision tower, an expert that no token has come to yet: parameters without a gradient at first or ever."""
    training = tiny.CONFIG.model_copy(update={"optimizer": optimizer, "weight_decay": 0.1})

    def run(out: Path, killed: int | None) -> Any:
        model = tiny.make_model(chat)
        model.unused, model.late = torch.nn.Linear(4, 4), torch.nn.Linear(24, 24, bias=False)
        with torch.no_grad():
            model.unused.weight.fill_(0.5)
            model.unused.bias.fill_(0.5)
            model.late.weight.zero_()
        begun = {"update": 0}

        def late(_module: Any, _args: Any, hidden: Any) -> Any:
            return hidden + model.late(hidden) if begun["update"] in (3, 6) else hidden

        model.model.norm.register_forward_hook(late)

        def log(update: int, _: object) -> None:
            begun["update"] = update
            if update == killed:
                raise Killed

        if left := checkpoint(out):
            begun["update"] = int(left.name.rpartition("-")[2])
        tiny.prefer(model, out, training, log=log)
        return model

    whole = run(tmp_path / "whole", None)
    for at in (3, 5, 7):
        with pytest.raises(Killed):
            run(tmp_path / "again", at)
    again = run(tmp_path / "again", None)
    assert same(weights(whole), weights(again))
    assert whole.late.weight.any()
    assert (whole.unused.weight == 0.5).all()


def test_ppo_starts_at_a_ratio_of_one_and_goes_on_from_a_checkpoint_with_the_same_ratios(chat, tmp_path):
    rows = [replace(d, weights=(0.0, 1.0, 0.0, -0.5, 0.0, 1.0)[: len(d.messages)]) for d in tiny.make_demonstrations()]

    def run(out: Path, log: Any = None) -> tuple[Any, TrainResult]:
        model = tiny.make_model(chat)
        config = tiny.CONFIG.model_copy(update={"learning_rate": 1e-2})
        return model, train(
            model, chat, rows, lambda _: tiny.PROMPT, "ppo", config, max_length=512, seed=5, out=out, log=log
        )

    def die(update: int, _: object) -> None:
        if update == 5:
            raise Killed

    whole, result = run(tmp_path / "whole")
    assert result.history[0]["kl_to_start"] == pytest.approx(0, abs=1e-5)
    assert result.history[-1]["kl_to_start"] != pytest.approx(0, abs=1e-3)
    with pytest.raises(Killed):
        run(tmp_path / "again", die)
    again, resumed = run(tmp_path / "again")
    assert same(weights(whole), weights(again))
    assert resumed.history == result.history


@pytest.mark.integration
def test_killed_with_sigkill_and_restarted_ends_with_the_same_bits(chat, tmp_path):
    whole = tiny.make_model(chat)
    tiny.prefer(whole, tmp_path / "whole")
    command = [sys.executable, tiny.__file__, str(tmp_path / "out"), str(tmp_path / "weights.pt")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    with subprocess.Popen([*command, "5"], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "5":
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    assert checkpoint(tmp_path / "out")
    assert not (tmp_path / "weights.pt").exists()
    finished = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert int(finished.stdout.split()[0]) > 1, "it went on from a checkpoint"
    assert same(weights(whole), torch.load(tmp_path / "weights.pt"))


def test_killed_while_writing_a_checkpoint_keeps_the_one_before(chat, tmp_path, monkeypatch):
    whole, saved = tiny.make_model(chat), state_dict_saver.save
    tiny.prefer(whole, tmp_path / "whole")
    calls = itertools.count(1)

    def half(content, checkpoint_id):
        saved(content, checkpoint_id=checkpoint_id)
        if next(calls) == 3:
            (checkpoint_id / ".metadata").unlink()
            raise Killed

    monkeypatch.setattr(state_dict_saver, "save", half)
    with pytest.raises(Killed):
        tiny.prefer(tiny.make_model(chat), tmp_path / "again")
    assert checkpoint(tmp_path / "again") == tmp_path / "again" / "updates-000004"
    again = tiny.make_model(chat)
    tiny.prefer(again, tmp_path / "again")
    assert same(weights(whole), weights(again))
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["updates-000008"]


def test_a_full_disk_keeps_the_checkpoint_before_and_is_not_left_fuller(chat, tmp_path, monkeypatch):
    saved, calls = state_dict_saver.save, itertools.count(1)

    def full(content, checkpoint_id):
        saved(content, checkpoint_id=checkpoint_id)
        if next(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_dict_saver, "save", full)
    with pytest.raises(IprError, match="No space left on device; free space or choose another folder"):
        tiny.prefer(tiny.make_model(chat), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["updates-000004"]


def test_a_foreign_or_broken_checkpoint_is_refused(chat, tmp_path):
    def die(update: int, _: object) -> None:
        if update == 3:
            raise Killed

    with pytest.raises(Killed):
        tiny.prefer(tiny.make_model(chat), tmp_path, log=die)
    for model, config in (
        (tiny.make_model(chat), tiny.CONFIG.model_copy(update={"learning_rate": 1e-4})),
        (tiny.make_model(chat, seed=1), tiny.CONFIG),
    ):
        with pytest.raises(IprError, match=str(tmp_path)):
            tiny.prefer(model, tmp_path, config)
    with pytest.raises(IprError, match=str(tmp_path)):  # a base that does not show in what is trained (LoRA)
        tiny.prefer(tiny.make_model(chat), tmp_path, start="another base")
    folder = checkpoint(tmp_path)
    assert folder
    path = folder / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(IprError, match="not a readable checkpoint; delete it"):
        tiny.prefer(tiny.make_model(chat), tmp_path)


def test_a_checkpoint_goes_on_with_less_memory(chat, tmp_path):
    def die(update: int, _: object) -> None:
        if update == 3:
            raise Killed

    with pytest.raises(Killed):
        tiny.prefer(tiny.make_model(chat), tmp_path, log=die)
    done: list[int] = []
    smaller = tiny.CONFIG.model_copy(update={"micro_batch_tokens": 256})
    tiny.prefer(tiny.make_model(chat), tmp_path, smaller, log=lambda update, _: done.append(update))
    assert done[0] == 3
