"""The step reward model: it learns, says how well, and comes back as it was."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ipr.config import LoraConfig, ModelConfig, TrainConfig
from ipr.models import load_model, save_model
from ipr.training.batches import Example
from ipr.training.reward_model import RewardModel, agreement
from ipr.types import IprError, Prefix, Step, StepReward
from tests.training import tiny
from tests.training.test_sharing import make

FIRSTS = {str(i): f"You see a mug {i}." for i in range(40)}
FIT = TrainConfig(learning_rate=1e-2, batch_size=8, warmup=0, epochs=6)


def prefix(problem: int, good: bool, length: int) -> Prefix:
    before = [Step("Action: look", "Nothing happens.")] * (length - 1)
    return Prefix(str(problem), (*before, Step(f"Action: {'take' if good else 'go to'} mug", "Not read.")))


def rewards() -> list[StepReward]:
    """Taking is worth 0.8, going 0.2, on average."""
    drawn = random.Random(0)
    found = []
    for problem in range(40):
        for good in (True, False):
            samples = tuple(float(drawn.random() < (0.8 if good else 0.2)) for _ in range(5))
            found.append(StepReward(prefix(problem, good, 1 + problem % 2), sum(samples) / 5, 5, samples, 5))
    return found


def made(model, chat, max_length=512) -> RewardModel:
    return RewardModel(model, chat, lambda _: tiny.PROMPT, FIRSTS, FIT, max_length)


@pytest.mark.parametrize("rank", [0, 4])
def test_it_orders_actions_of_problems_that_it_was_not_fitted_to_and_comes_back_as_it_was(
    rank: int, tmp_path: Path
) -> None:
    chat = tiny.make_chat()
    config = ModelConfig(device="cpu", lora=LoraConfig(rank=rank))
    save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "agent")
    model = made(load_model(tmp_path / "agent", config, training=True), chat)
    known = rewards()
    good, bad, start = prefix(31, True, 2), prefix(31, False, 2), Prefix("7")
    before = model.read([good, bad, start, good])
    assert before == {good: 0.5, bad: 0.5, start: 0.5}
    censored = StepReward(prefix(3, True, 3), 0.0, 1, (0.0,), 5, "curtailed")
    figures = model.fit([*known, censored], 3, tmp_path / "out")
    fitted, held_out = figures["fitted"], figures["held_out"]
    assert fitted is not None
    assert held_out is not None
    assert fitted + held_out == len(known)
    assert 0.1 < held_out / len(known) < 0.35
    after = model.read([good, bad])
    assert after != {good: 0.5, bad: 0.5}
    if not rank:  # an adapter of a model this small learns it too slowly for a test
        assert {key for key, value in figures.items() if value is None} == set()
        assert figures["spearman"] > 0.4  # type: ignore[operator]
        assert figures["mse"] < figures["variance"]  # type: ignore[operator]
        assert after[good] - after[bad] > 0.2

    model.save(tmp_path / "model.safetensors")
    again = made(load_model(tmp_path / "agent", config, training=True), chat)
    again.load(tmp_path / "model.safetensors")
    assert again.read([good, bad]) == after
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(IprError, match="no reward model of this agent"):
        again.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_small_updates_are_not_lost_on_a_base_in_bfloat16(precision: str, tmp_path: Path) -> None:
    chat = tiny.make_chat()
    config = ModelConfig(device="cpu", dtype="bfloat16", lora=LoraConfig(rank=4))
    save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "agent")
    fit = FIT.model_copy(update={"learning_rate": 1e-4, "epochs": 1, "mixed_precision": precision})

    def fresh() -> RewardModel:
        model = load_model(tmp_path / "agent", config, training=True)
        return RewardModel(model, chat, lambda _: tiny.PROMPT, FIRSTS, fit, 512)

    model = fresh()
    model.fit(rewards(), 3, tmp_path / "out")
    assert 0 < abs(model._model.get_output_embeddings().bias.item() - 0.5) < 2e-3
    read = model.read([prefix(31, True, 2)])
    (value,) = read.values()
    assert value != torch.tensor(value).bfloat16().item()
    model.save(tmp_path / "model.safetensors")
    again = fresh()
    again.load(tmp_path / "model.safetensors")
    assert again.read([prefix(31, True, 2)]) == read


def test_rows_that_cannot_share_do_not_though_a_new_head_finds_all_alike(tmp_path, monkeypatch) -> None:
    chat = tiny.make_chat()
    model = made(make("Phimoe", chat, num_local_experts=4, sliding_window=9), chat)
    values, asked = model._values, []

    def watch(examples: Sequence[Example], share: bool) -> torch.Tensor:
        asked.append(share)
        return values(examples, share)

    monkeypatch.setattr(model, "_values", watch)
    model.fit(rewards()[:24], 3, tmp_path)
    model.read([prefix(1, True, 2)])
    assert not any(asked)


def test_what_the_agent_has_not_seen_of_the_answer_does_not_count_and_what_does_not_fit_is_worth_nothing() -> None:
    chat = tiny.make_chat()
    model = made(tiny.make_model(chat), chat, 60)
    torch.nn.init.normal_(model._model.get_output_embeddings().weight)
    one = prefix(1, True, 1)
    other = Prefix("1", (Step(one.steps[0].action, "Another answer."),))
    long = prefix(1, True, 9)
    found = model.read([one, other, long])
    assert found[one] == pytest.approx(found[other])
    assert found[one] != pytest.approx(0.5)
    assert found[long] == 0.0
    with pytest.raises(IprError, match=r"no step rewards to fit.*algorithm\.rewards=monte_carlo"):
        model.fit([], 0, Path("nowhere"))


def test_rank_correlation_by_hand() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    found = agreement([(0.1, 0.0), (0.2, 0.5), (0.2, 0.6), (0.9, 1.0)])
    assert found["spearman"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert found["mse"] == pytest.approx((0.01 + 0.09 + 0.16 + 0.01) / 4)
    assert agreement([(0.5, 0.0), (0.5, 1.0)])["spearman"] is None
    assert agreement([])["mse"] is None
