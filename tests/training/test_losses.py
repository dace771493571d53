"""The losses against closed forms, hand-written numbers and TRL."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ipr.config import PreferenceConfig
from ipr.training import losses
from ipr.training.batches import demonstration_example, pair_example
from ipr.training.trainer import _pair_logps, _part, _whole, _with_start_logps
from ipr.types import Demonstration, PreferencePair
from tests.training import tiny


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_sequence_logps_by_hand():
    # Two tokens, p = (3/4, 1/4) after every position: log-odds log 3.
    logits = torch.tensor([math.log(3.0), 0.0]).expand(2, 4, 2)
    ids = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    # Row 0: tokens 0 and 1. Row 1: three times 0; the first token is never predicted.
    expected = [math.log(3 / 4) + math.log(1 / 4), 3 * math.log(3 / 4)]
    assert tiny.sequence_logps(logits, ids, mask).tolist() == pytest.approx(expected)


def test_a_row_without_agent_tokens_is_zero():
    found = tiny.sequence_logps(torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))
    assert found.tolist() == [0.0, 0.0]


def test_only_the_agents_tokens_contribute():
    torch.manual_seed(0)
    logits, ids = torch.randn(3, 8, 11), torch.randint(11, (3, 8))
    mask = torch.rand(3, 8) < 0.5
    other = torch.where(mask, ids, (ids + 1) % 11)
    assert torch.equal(tiny.sequence_logps(logits, ids, mask), tiny.sequence_logps(logits, other, mask))


def test_preference_loss_closed_form():
    one = torch.ones(1)
    # Policy equal to the reference: log 2 and no reward.
    loss, chosen, rejected = losses.preference_loss(-3 * one, -7 * one, -3 * one, -7 * one, beta=0.3)
    assert (loss.item(), chosen.item(), rejected.item()) == pytest.approx((math.log(2), 0, 0))
    # Chosen 2 nats up, rejected 1 nat down: margin beta * 3.
    loss, chosen, rejected = losses.preference_loss(-1 * one, -8 * one, -3 * one, -7 * one, beta=0.5)
    assert (loss.item(), chosen.item(), rejected.item()) == pytest.approx((-math.log(sigmoid(1.5)), 1.0, -0.5))


def test_preference_gradient_closed_form():
    chosen = torch.tensor([-1.0], requires_grad=True)
    rejected = torch.tensor([-8.0], requires_grad=True)
    losses.preference_loss(chosen, rejected, torch.tensor([-3.0]), torch.tensor([-7.0]), 0.5)[0].sum().backward()
    # d/d chosen = -beta sigmoid(-margin), the opposite for rejected.
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.5 * sigmoid(-1.5))
    assert rejected.grad.item() == pytest.approx(0.5 * sigmoid(-1.5))


def test_logps_at_a_temperature():
    logits = torch.tensor([[2.0, 0.0], [4.0, 1.0]])
    targets = torch.tensor([0, 1])
    # log sigmoid of the logits' difference over the temperature
    assert losses.token_logps(logits, targets).tolist() == pytest.approx([-0.126928, -3.048587], abs=1e-6)
    assert losses.token_logps(logits, targets, 2.0).tolist() == pytest.approx([-0.313262, -1.701413], abs=1e-6)


def test_sft_loss_is_a_weighted_token_mean():
    logps, weights = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([1.0, 1.0, 0.5])
    assert losses.sft_loss(logps, weights).item() == pytest.approx((1 + 2 + 2) / 2.5)
    assert losses.sft_loss(logps, weights, 10.0).item() == pytest.approx(0.5)


C, R = torch.tensor([-10.0, -20.0, -30.0]), torch.tensor([-11.0, -19.0, -35.0])
REF_C, REF_R = torch.tensor([-12.0, -20.0, -28.0]), torch.tensor([-11.0, -20.0, -30.0])
STEP = torch.tensor([False, True, False])
MARGINS = [0.2, -0.1, 0.3]  # at beta 0.1


@pytest.mark.parametrize(
    ("config", "terms"),
    [
        (PreferenceConfig(beta=0.1), (1, 1, 1, 20.0)),
        (PreferenceConfig(beta=0.1, sft_on="every"), (1, 1, 1, 20.0)),
        (PreferenceConfig(beta=0.1, outcome_dpo=0.0, sft=0.5), (0, 1, 0.5, 20.0)),
        (PreferenceConfig(beta=0.1, step_dpo=2.0, sft=0.0), (1, 2, 0, 20.0)),
    ],
)
def test_ipr_loss_by_hand(config, terms):
    dpo = [-math.log(sigmoid(m)) for m in MARGINS]
    outcome, step, sft, nll = terms
    loss, parts = losses.ipr_loss(C, R, REF_C, REF_R, STEP, config)
    assert loss.item() == pytest.approx(outcome * (dpo[0] + dpo[2]) / 2 + step * dpo[1] + sft * nll)
    assert parts["outcome_dpo"].item() == pytest.approx((dpo[0] + dpo[2]) / 2)
    assert parts["step_dpo"].item() == pytest.approx(dpo[1])
    assert parts["sft"].item() == pytest.approx(20.0)
    assert parts["reward_margin"].item() == pytest.approx(sum(MARGINS) / 3)
    assert parts["accuracy"].item() == pytest.approx(2 / 3)


def test_sft_on_every_pair():
    chosen = torch.tensor([-10.0, -60.0])
    step = torch.tensor([False, True])
    zero = torch.zeros(2)
    outcome = losses.ipr_loss(chosen, zero, chosen, zero, step, PreferenceConfig())[1]["sft"].item()
    every = losses.ipr_loss(chosen, zero, chosen, zero, step, PreferenceConfig(sft_on="every"))[1]["sft"].item()
    assert (outcome, every) == (10.0, 35.0)


def test_ipr_loss_of_parts_adds_up_to_the_whole():
    config = PreferenceConfig(beta=0.1, sft=0.3)
    whole, parts = losses.ipr_loss(C, R, REF_C, REF_R, STEP, config)
    pieces = [
        losses.ipr_loss(C[s], R[s], REF_C[s], REF_R[s], STEP[s], config, n_outcome=2, n_step=1)
        for s in (slice(0, 2), slice(2, 3))
    ]
    assert sum(loss.item() for loss, _ in pieces) == pytest.approx(whole.item())
    for name, value in parts.items():
        assert sum(p[name].item() for _, p in pieces) == pytest.approx(value.item()), name


def test_a_term_without_pairs_is_left_out():
    loss, parts = losses.ipr_loss(C[1:2], R[1:2], REF_C[1:2], REF_R[1:2], STEP[1:2], PreferenceConfig(beta=0.1))
    assert {"outcome_dpo", "sft"}.isdisjoint(parts)
    assert loss.item() == pytest.approx(parts["step_dpo"].item())


def test_dpo_equals_trl_on_single_turn_pairs(tmp_path: Path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    chat = tiny.make_chat()
    policy, reference = tiny.make_model(chat, 1), tiny.make_model(chat, 2)
    pairs = [
        PreferencePair(
            str(i),
            0,
            "outcome",
            (tiny.user(f"You see mug {i}." + " More." * i),),
            (tiny.agent(f"Action: take mug {i}"),),
            (tiny.agent("Thought: hm\nAction: look" + " again" * i),),
            1.0,
        )
        for i in range(4)
    ]
    rows = [
        {name: [m.as_dict() for m in getattr(pair, name)] for name in ("prompt", "chosen", "rejected")}
        for pair in pairs
    ]
    args = trl.DPOConfig(
        output_dir=str(tmp_path), beta=0.3, per_device_train_batch_size=4, report_to=[], use_cpu=True, bf16=False
    )
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=chat.tokenizer,
    )
    policy.eval()
    with torch.no_grad():
        theirs = trainer.compute_loss(policy, next(iter(trainer.get_train_dataloader())))
        examples = [pair_example(chat, (), pair) for pair in pairs]
        logps = [_pair_logps(model, examples, False) for model in (policy, reference)]
        ours = losses.preference_loss(*logps[0], *logps[1], beta=0.3)[0]
    assert ours.mean().item() == pytest.approx(theirs.item(), rel=1e-5)
    assert ours.mean().item() != pytest.approx(math.log(2), rel=1e-3)


# Policy gradients -----------------------------------------------------------------------------------------------------


def part(ratios: list[float], advantages: list[float]) -> losses.Part:
    """Tokens whose probability was 0.1 and is `ratios` times that now."""
    now = torch.tensor([0.1 * r for r in ratios], dtype=torch.float64).log().requires_grad_()
    k, none = len(ratios), torch.zeros(1, 2)
    before = torch.full((k,), 0.1, dtype=torch.float64).log()
    weights = torch.tensor(advantages, dtype=torch.float64)
    return losses.Part(now, torch.zeros(k).long(), torch.ones(k).bool(), weights, none, torch.zeros(1).bool(), before)


WHOLE = losses.Whole(0.0, 8, 1, 0)
"""Eight agent tokens, some of them without an advantage."""


def test_policy_gradient_by_hand():
    given = part([1.0, 2.0], [0.75, -0.25])
    loss, figures = losses.policy_gradient(given, WHOLE, PreferenceConfig())
    assert loss.item() == pytest.approx(-(0.75 * math.log(0.1) - 0.25 * math.log(0.2)) / 8)
    assert figures["agent_nll"].item() == pytest.approx(-(math.log(0.1) + math.log(0.2)) / 8)
    loss.backward()
    assert given.logps.grad is not None
    assert given.logps.grad.tolist() == pytest.approx([-0.75 / 8, 0.25 / 8])


def test_the_ratio_is_clipped_where_it_would_go_on():
    ratios, advantages = [1.0, 1.5, 0.5, 1.5, 0.5], [1.0, 1.0, 1.0, -1.0, -1.0]
    given = part(ratios, advantages)
    loss, figures = losses.clipped_policy_gradient(given, WHOLE, PreferenceConfig(clip=0.2))
    # min(rho A, clip(rho) A): 1, 1.2, 0.5, -1.5, -0.8
    assert loss.item() == pytest.approx(-(1 + 1.2 + 0.5 - 1.5 - 0.8) / 8)
    loss.backward()
    assert given.logps.grad is not None
    # d rho / d log pi = rho; too likely already and good, or too unlikely already and bad: none
    assert given.logps.grad.tolist() == pytest.approx([-1 / 8, 0, -0.5 / 8, 1.5 / 8, 0])
    assert figures["clipped"].item() == pytest.approx(2 / 8)
    assert figures["kl_to_start"].item() == pytest.approx(-sum(math.log(r) for r in ratios) / 8)


def test_ppo_equals_trl_on_single_turns(tmp_path: Path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    chat = tiny.make_chat()
    policy, before = tiny.make_model(chat, 1), tiny.make_model(chat, 2)
    said = ["Action: take mug 1", "Thought: hm\nAction: look again", "Action: stop"]
    advantages = [0.75, -1.0, 0.25]
    rows = [
        Demonstration("t", (tiny.user("You see a mug."), tiny.agent(text)), weights=(0.0, a))
        for text, a in zip(said, advantages, strict=True)
    ]
    config = PreferenceConfig(clip=0.2)
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), loss_type="bnpo", beta=0.0, epsilon=0.2, num_generations=3,
        per_device_train_batch_size=3, report_to=[], use_cpu=True, bf16=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "You see a mug."}]}] * 3),
        processing_class=chat.tokenizer,
    )
    policy.eval()
    with torch.no_grad():
        examples = [demonstration_example(chat, (), row) for row in rows]
        examples = _with_start_logps(before, examples, config, 512)
        ours = _part(policy, examples, False)
        loss, figures = losses.clipped_policy_gradient(ours, _whole(examples), config)
        asked, answers = chat.prompt(rows[0].messages[:1]), [chat.agent(text) for text in said]
        longest = max(map(len, answers))
        mask = torch.tensor([[1] * len(a) + [0] * (longest - len(a)) for a in answers])
        old = torch.zeros(3, longest)
        old[mask.bool()] = ours.start_logps
        inputs = {
            "prompt_ids": torch.tensor([asked] * 3),
            "prompt_mask": torch.ones(3, len(asked), dtype=torch.long),
            "completion_ids": torch.tensor([a + [0] * (longest - len(a)) for a in answers]),
            "completion_mask": mask,
            "advantages": torch.tensor(advantages),
            "old_per_token_logps": old,
        }
        theirs = trainer.compute_loss(policy, inputs)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert figures["clipped"].item() > 0
