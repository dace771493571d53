"""Drawing tokens, from counter-based random numbers: a turn's seed and a token's place in it decide, nothing else."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipr.engine import checks
from ipr.engine.kernels import checked, compiled
from ipr.engine.slots import GOLDEN, Hashes, Ids
from ipr.types import IprError

Uniforms = NDArray[np.float64]

_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def draw(logits: Tensor, temperature: float, u: Uniforms) -> tuple[Ids, Tensor | None]:
    """One token a row of logits [B, V]: the argmax at temperature 0, else by inverse distribution function in float64.

    u [B] are in [0, 1). Returns the tokens [B], and the cumulative probabilities [B, V] that they were drawn from (at
    temperature 0 there are none). Raises IprError where a row holds nan.
    """
    if temperature == 0:
        best = logits.argmax(-1)  # nan counts as the largest
        return _known(best, logits.gather(-1, best[:, None])[:, 0], logits.dtype), None
    scaled = logits.double() if temperature == 1 else logits.double() / temperature
    cumulative = torch.softmax(scaled, -1).cumsum_(-1)
    # The first token whose cumulative probability is above u; never one of probability 0.
    above = torch.from_numpy(u).to(logits.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, above, right=True)[:, 0]
    return _known(drawn.clamp_(max=logits.shape[-1] - 1), cumulative[:, -1], logits.dtype), cumulative


def _known(tokens: Tensor, numbers: Tensor, dtype: torch.dtype) -> Ids:
    """The tokens on the CPU, in one copy; -1 is sent for those that were not drawn from numbers."""
    found = tokens.masked_fill_(numbers.isnan(), -1).cpu().numpy()
    if (found < 0).any():
        raise no_numbers("the model", dtype)
    return found


def no_numbers(model: str, dtype: torch.dtype) -> IprError:
    return IprError(
        f"{model} gives nan: its weights hold some, or are too large for {dtype} (model.dtype); get them again, or take"
        " float32 or bfloat16"
    )


def uniforms(seeds: Hashes, index: int | Ids) -> Uniforms:
    """In [0, 1): element `index` of the SplitMix64 stream that starts at each seed (Steele et al. 2014)."""
    return _uniforms(seeds, np.ascontiguousarray(np.broadcast_to(index, seeds.shape), dtype=np.int64))


@checked(checks.counted)
@compiled
def turn_uniforms(sequences, slots, counts):
    """Uniforms [sum of counts] to draw the next counts[i] tokens of slots[i] by."""
    found, at = np.empty(counts.sum()), 0
    for i in range(len(slots)):
        place = sequences.known[slots[i]] - sequences.prompts[slots[i]]
        for t in range(counts[i]):
            found[at] = uniform(sequences.seeds[slots[i]], place + t)
            at += 1
    return found


@checked(checks.stream)
@compiled
def _uniforms(seeds, index):
    found = np.empty(len(seeds))
    for i in range(len(seeds)):
        found[i] = uniform(seeds[i], index[i])
    return found


@compiled
def uniform(seed, index):
    """See `uniforms`."""
    z = seed + np.uint64(index + 1) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
