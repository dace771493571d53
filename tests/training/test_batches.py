"""Rows, updates and micro batches, on toy conversations."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch

from ipr.training.batches import Example, Row, collate, demonstration_example, micro_batches, pair_example, updates
from ipr.training.sharing import Tree
from tests.training import tiny


@pytest.fixture(scope="module")
def chat():
    return tiny.make_chat()


def trained_text(chat, row: Row) -> str:
    return chat.tokenizer.decode(row.ids[row.agent])


def example(length: int, step: bool = False, rows: int = 1, first: int = 0) -> Example:
    row = Row(torch.arange(first, first + length), torch.ones(length, dtype=torch.bool), torch.ones(length))
    return Example((row,) * rows, step)


def test_only_the_remainder_of_a_pair_is_trained(chat):
    pair = tiny.make_pairs()[2]
    assert any(m.role == "assistant" for m in pair.prompt)
    chosen, rejected = pair_example(chat, tiny.PROMPT, pair).rows
    for row, side in ((chosen, pair.chosen), (rejected, pair.rejected)):
        words = "".join(m.content + "<|end|>" for m in side if m.role == "assistant")
        assert trained_text(chat, row) == words
        assert torch.equal(row.weights, row.agent.float())
    history = chat.conversation([*tiny.PROMPT, *pair.prompt]).ids
    assert chosen.ids[: len(history)].tolist() == rejected.ids[: len(history)].tolist() == history


def test_demonstration_trains_the_agent_but_never_the_prompts_example(chat):
    demonstration = tiny.make_demonstrations()[0]
    row = demonstration_example(chat, tiny.PROMPT, demonstration).rows[0]
    words = "".join(m.content + "<|end|>" for m in demonstration.messages if m.role == "assistant")
    assert trained_text(chat, row) == words
    assert "OK" not in words


def test_observation_weight_is_on_the_environments_words_after_the_prompt(chat):
    demonstration = tiny.make_demonstrations()[0]
    row = demonstration_example(chat, tiny.PROMPT, demonstration, 0.25).rows[0]
    start = len(chat.conversation(tiny.PROMPT).ids)
    assert row.weights[:start].eq(0).all()
    assert row.weights[start:].eq(torch.where(row.agent[start:], 1.0, 0.25)).all()
    # Without a prompt the very first token is not predicted from anything.
    assert demonstration_example(chat, (), demonstration, 0.25).rows[0].weights[0] == 0


def test_updates_use_every_example_once_per_epoch_in_an_order_of_the_seed():
    examples = [example(3, step=i < 20) for i in range(50)]
    plan = updates(examples, 8, 2, seed=1)
    assert [len(u) for u in plan] == [8, 8, 8, 8, 8, 8, 2] * 2
    first, second = list(chain(*plan[:7])), list(chain(*plan[7:]))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert plan == updates(examples, 8, 2, seed=1) != updates(examples, 8, 2, seed=2)


def test_every_update_holds_both_levels_in_proportion():
    examples = [example(3, step=i < 60) for i in range(100)]
    for update in updates(examples, 20, 3, seed=0):
        assert abs(sum(examples[i].step for i in update) - 12) <= 2


@pytest.mark.parametrize("share", [False, True])
def test_micro_batches_fit_the_budget_and_lose_nothing(share):
    lengths = [5, 90, 40, 41, 7, 300, 12]
    examples = [example(n, rows=2, first=i) for i, n in enumerate(lengths)]
    batches = micro_batches(examples, range(len(examples)), 200, share)
    assert sorted(chain(*batches)) == list(range(len(examples)))
    for batch in batches:
        read = collate([row for i in batch for row in examples[i].rows], share).inputs
        size = len(read.ids) if isinstance(read, Tree) else read.numel()
        assert size <= 200 or len(batch) == 1
    assert len(batches) == (3 if share else 4)
    whole = list(range(7)) if share else sorted(range(7), key=lambda i: -lengths[i])
    assert micro_batches(examples, range(len(examples)), 1 << 20, share) == [whole]


def test_collate_pads_on_the_right_without_weight():
    batch = collate([example(3).rows[0], example(5).rows[0]], share=False)
    assert torch.equal(torch.as_tensor(batch.inputs), torch.tensor([[0, 1, 0, 0], [0, 1, 2, 3]]))
    assert batch.before.tolist() == [0, 1, 4, 5, 6, 7]
    assert batch.targets.tolist() == [1, 2, 1, 2, 3, 4]
    assert batch.rows.tolist() == [0, 0, 1, 1, 1, 1]


def test_a_negative_weight_stays_and_a_weight_of_zero_goes():
    """A policy gradient makes tokens less likely: a weight is an advantage there."""
    ids = torch.arange(6)
    row = Row(ids, torch.tensor([0, 0, 1, 1, 0, 1]).bool(), torch.tensor([0, 0, -0.5, 1, 0, 2.0]))
    batch = collate([row], share=False)
    assert batch.targets.tolist() == [2, 3, 5]
    assert batch.weights.tolist() == [-0.5, 1.0, 2.0]


def test_a_demonstration_may_weigh_its_messages(chat):
    plain = tiny.make_demonstrations()[1]
    assert [m.role for m in plain.messages] == ["user", "assistant", "user", "assistant"]
    row = demonstration_example(chat, tiny.PROMPT, replace(plain, weights=(0.0, -0.5, 0.5, 2.0)), 0.1).rows[0]
    alike = demonstration_example(chat, tiny.PROMPT, plain, 0.1).rows[0]
    assert torch.equal(row.agent, alike.agent)
    lengths = [len(chat.observation(plain.messages[0].content)), len(chat.agent(plain.messages[1].content))]
    lengths += [len(chat.observation(plain.messages[2].content)), len(chat.agent(plain.messages[3].content))]
    given = len(chat.conversation(tiny.PROMPT).ids)
    of_tokens = torch.tensor([0.0, -0.5, 0.05, 2.0]).repeat_interleave(torch.tensor(lengths))
    assert torch.allclose(row.weights, torch.cat([torch.zeros(given), of_tokens]))
    assert alike.weights[given] == pytest.approx(0.1)
