"""Parts of the engine by themselves: random numbers and drawing, merging of equal histories, n-grams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ipr.engine.merging import Histories, distinct, follow, remember
from ipr.engine.ngrams import Ngrams, draft, judge, learn
from ipr.engine.sampling import draw, turn_uniforms, uniforms
from ipr.engine.slots import Sequences, accept
from ipr.types import derive_seed

NEVER = np.array([-1])
"""No token ends a turn."""


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_what_is_remembered_is_what_would_be_drawn(temperature: float) -> None:
    chance = np.random.default_rng(0)
    logits = torch.from_numpy(chance.normal(scale=3, size=(300, 50)))
    sequences, histories = Sequences.empty(600, 9), Histories.empty(600)
    leaders, others = np.arange(300), np.arange(300, 600)
    for slot in range(600):
        sequences.begin(slot, np.array([slot % 300, slot % 300 % 7]), cached=0, seed=slot, limit=3)
    none, one = np.zeros(300, dtype=np.int64), np.ones(300, dtype=np.int64)
    drawn, cumulative = draw(logits, temperature, turn_uniforms(sequences, leaders, one))
    probabilities = np.empty((300, 0)) if cumulative is None else cumulative.numpy()
    remember(sequences, leaders, histories, none, drawn, probabilities)
    expected = draw(logits, temperature, turn_uniforms(sequences, others, one))[0]
    ended, followed = follow(sequences, others, histories, temperature > 0, NEVER)
    assert 0.6 < followed / 300 <= 1
    assert ended.sum() == followed, "the limit is one token"
    assert (sequences.ids[others, 2] == expected)[ended].all()
    assert (histories.leaders[others] == leaders).all(), "also where an unlikely token has to be drawn by a pass"
    # What comes after other tokens is not known, nor what was forgotten.
    sequences.limits[:] = 4
    assert follow(sequences, others[ended], histories, temperature > 0, NEVER)[1] == 0
    histories.forget()
    assert follow(sequences, others[~ended], histories, temperature > 0, NEVER)[1] == 0


def test_drafts_are_what_came_after_the_same_tokens() -> None:
    sequences, ngrams, context = Sequences.empty(6, 40), Ngrams.empty(), list(range(10, 18))
    other = [*range(90, 95), *context[5:]]
    for slot, text in enumerate(
        [
            [*context, 1, 2, 3, 4, 5, 6, 7],
            [*[i + 30 for i in context[:5]], *context[5:], 8, 9],
            context,
            other,
            [i + 60 for i in context],
        ]
    ):
        sequences.begin(slot, np.array(text), cached=0, seed=0, limit=40)
        learn(ngrams, sequences, slot, 0)
    drafts, likely, kinds = draft(ngrams, sequences, np.array([2, 4]), 0.5)
    assert (likely[:, 0].tolist(), drafts.tolist()) == ([1, 0], [0, 0]), "none are worth it before some were right"
    assert kinds[0, 0] > 0 == kinds[1, 0], "never seen"

    def judged(slots: list[int], right: bool) -> list[list[int]]:
        """What is drafted after these slots' tokens, of which one was right, or not."""
        drafts, likely, kinds = draft(ngrams, sequences, np.array(slots), 0.5)
        for i, slot in enumerate(slots):  # as if they had been alone
            known, one = sequences.known[slot], slice(i, i + 1)
            sequences.ids[slot, known : known + drafts[i]] = likely[i, : drafts[i]]
            drawn = likely[i, : drafts[i] + 1] + (not right)
            _, taken = accept(sequences, np.array([slot]), drafts[one], drawn, NEVER)
            judge(ngrams, sequences, np.array([slot]), taken, likely[one], kinds[one])
            sequences.known[slot] = known
            sequences.cached[slot] = 0
        return [tokens[:n].tolist() for tokens, n in zip(likely, drafts, strict=True)]

    for _ in range(60):
        judged([2, 3], right=True)
    eight, three = judged([2, 3], right=True)
    assert (eight[:7], three[:2]) == ([1, 2, 3, 4, 5, 6, 7], [8, 9]), "the last time that the context was seen"
    for _ in range(60):  # what comes is always another token than the last time, which is what is drafted
        judged([2], right=False)
    assert judged([2], right=True) == [[]]
    ngrams.forget()
    assert draft(ngrams, sequences, np.array([2]), 0.5)[2].tolist() == [[0] * 16]


def test_drafts_are_taken_as_far_as_they_were_drawn() -> None:
    sequences, slots = Sequences.empty(4, 12), np.arange(4)
    for slot in range(4):
        sequences.begin(slot, np.array([1, 2]), cached=1, seed=0, limit=6)
    sequences.ids[:, 2:4] = [7, 8]
    drawn = np.array([7, 8, 9, 7, 5, 9, 3, 0, 0, 7, 4, 0])
    ended, taken = accept(sequences, slots, np.full(4, 2), drawn, np.array([4]))
    assert [sequences.written(slot).tolist() for slot in range(4)] == [[7, 8, 9], [7, 5], [3], [7, 4]]
    assert (ended.tolist(), taken.tolist()) == ([False, False, False, True], [3, 2, 1, 2])
    assert sequences.cached.tolist() == [4, 3, 2, 3], "the last one is still to be fed"
    ended, _ = accept(sequences, slots[:1], np.zeros(1, np.int64), np.array([3]), np.array([4]))
    assert ended.all(), "the limit"


def test_of_slots_with_the_same_tokens_one_is_fed() -> None:
    sequences = Sequences.empty(6, 9)
    for slot, (text, cached) in enumerate([("abc", 0), ("abd", 2), ("abc", 2), ("ab", 1), ("abc", 2), ("abd", 0)]):
        sequences.begin(slot, np.array([ord(c) for c in text]), cached=0, seed=0, limit=9)
        sequences.cached[slot] = cached
    assert distinct(sequences, np.arange(6)).tolist() == [2, 1, 3], "the first that lacks least"


def test_draw_takes_the_first_token_above_the_uniform() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.0, 0.5]]).log().repeat(4000, 1)
    seeds = np.array([derive_seed("draw", i) for i in range(4000)], dtype=np.uint64)
    u = uniforms(seeds, 3)
    drawn = draw(logits, 1.0, u)[0]
    np.testing.assert_array_equal(drawn, np.select([u < 0.2, u < 0.5], [0, 1], 3))
    assert np.bincount(drawn, minlength=4) / 4000 == pytest.approx([0.2, 0.3, 0, 0.5], abs=0.03)
    # Squared and normalised at temperature 1/2.
    cold = np.bincount(draw(logits, 0.5, u)[0], minlength=4) / 4000
    assert cold == pytest.approx([0.04 / 0.38, 0.09 / 0.38, 0, 0.25 / 0.38], abs=0.03)
    assert (draw(logits, 0.0, u)[0] == 3).all()
    assert not (draw(logits, 1.0, uniforms(seeds, 4))[0] == drawn).all()


def test_uniforms_are_splitmix64() -> None:
    # First outputs of the reference implementation (Vigna, splitmix64.c) for seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    seeds = np.array([1234567], dtype=np.uint64)
    assert [uniforms(seeds, i)[0] for i in range(4)] == [(x >> 11) * 2.0**-53 for x in expected]
    sequences = Sequences.empty(1, 9)
    sequences.begin(0, np.array([5]), cached=0, seed=1234567, limit=9)
    one, four = np.array([0]), np.array([4])
    assert turn_uniforms(sequences, one, four).tolist() == [(x >> 11) * 2.0**-53 for x in expected]
