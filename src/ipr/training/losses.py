"""The losses: pure functions of tensors, and `LOSSES`, which says by name what each is on.

To add one: a function of a `Part` and the `Whole` here, and a line in `LOSSES`; or a module in a package of yours that
calls its `Loss` `loss`, named by an entry point of the group `ipr.losses` (CONTRIBUTING.md).

Decided here: each term of L = L_outcome-DPO(D_t) + L_step-DPO(D_s) + L_SFT is the paper's expectation, so a mean over
*its own* pairs, not over the mixed batch (else the term with fewer pairs would count less). A micro batch holds both
kinds in any number, so it divides by the counts of the whole update: adding up the micro batches of all processes then
gives the exact means. L_SFT is the summed (not mean) negative log-probability of a chosen remainder, as in the paper.
Left out on purpose: label smoothing, length normalisation, other preference losses, a KL term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ipr.config import PreferenceConfig, TrainConfig
from ipr.types import PreferencePair, plugged


@dataclass(frozen=True, slots=True)
class Part:
    """What a micro batch of n examples gives a loss: K tokens with a weight, row by row."""

    logps: Tensor
    """[K] float32: log pi of each token in nats, with its gradient."""
    rows: Tensor
    """[K]: the token's row. A demonstration is a row; of n pairs come the n chosen first, then the n rejected."""
    agent: Tensor
    """[K] bool: the agent's token."""
    weights: Tensor
    """[K] float32: the token's weight, any number but 0 (negative ones make a token less likely)."""
    reference: Tensor
    """[n, 2]: log pi_ref of chosen and rejected; 0 where the loss asks for no reference."""
    step: Tensor
    """[n] bool: a pair of D_s (step level)."""
    start_logps: Tensor
    """[K] float32: log pi of each token by the model as it was before the training; 0 where the loss asks for none."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The update that a micro batch is a part of. A loss divides by these counts, so that the parts add up to it."""

    weight: float
    """Sum of all tokens' weights."""
    agent_tokens: int
    outcome: int
    """Examples of outcome level, demonstrations among them."""
    step: int


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by name: what it is on and how it is computed."""

    on: Literal["pairs", "demonstrations"]
    of: Callable[[Part, Whole, Any], tuple[Tensor, dict[str, Tensor]]]
    """Of a part, the whole and the training's section of the config: the loss, and figures without gradient. Both add
    up over the parts."""
    reference: bool = False
    """Whether it needs log pi_ref, of the SFT agent, of every pair's chosen and rejected remainder."""
    start: bool = False
    """Whether it needs log pi, of the model as it is before the training, of every token (`Part.start_logps`)."""
    takes: Callable[[Any, Any], bool] = lambda row, config: True
    """Whether a row has a part in it at all under a config; others are left out."""
    tempered: bool = False
    """Whether log pi is that of the logits over `train.temperature`. Not for what is compared with another log pi."""


def token_logps(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log pi(token) at a temperature in nats. logits [K, V], targets [K] -> [K], in float32."""
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    return -F.cross_entropy(logits, targets, reduction="none")


def sum_by_row(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """Sums of values [K] that belong to the same row; rows [K] in 0..n-1 -> [n]."""
    return values.new_zeros(n).index_add(0, rows, values)


def pair_logps(part: Part) -> tuple[Tensor, Tensor]:
    """log pi of the chosen and of the rejected remainders of a part's n pairs: [n], [n]."""
    n = len(part.step)
    sums = sum_by_row(part.logps, part.rows, 2 * n)
    return sums[:n], sums[n:]


def sft_loss(logps: Tensor, weights: Tensor, total: float | Tensor | None = None) -> Tensor:
    """Weighted token mean of -log pi. logps [K], weights [K] -> scalar.

    `total` is the sum of the weights of the whole update where this is a part of it.
    """
    return -(weights * logps).sum() / (weights.sum() if total is None else total)


def preference_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """DPO. All [B] -> (losses [B], chosen rewards [B], rejected rewards [B]); the rewards carry no gradient."""
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    # L_DPO = -log sigmoid(beta log pi(e_w)/pi_ref(e_w) - beta log pi(e_l)/pi_ref(e_l))
    return -F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach()


def ipr_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    step: Tensor,
    config: PreferenceConfig,
    n_outcome: int | None = None,
    n_step: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = L_outcome-DPO(D_t) + L_step-DPO(D_s) + L_SFT(chosen of D_t), weighted as in `config`.

    All [B]; step is true for the pairs of D_s. n_outcome and n_step count the pairs of the whole update where this is
    a part of it. Returns the loss and what it is made of (unweighted, without gradient); both add up over the parts.
    A term without pairs in the update is 0 and left out of the second.
    """
    n_step = int(step.sum()) if n_step is None else n_step
    n_outcome = len(step) - int(step.sum()) if n_outcome is None else n_outcome
    n = n_outcome + n_step
    losses, chosen, rejected = preference_loss(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, config.beta
    )
    on_every = config.sft_on == "every"
    imitated = torch.ones_like(step) if on_every else ~step
    terms = {
        "outcome_dpo": (config.outcome_dpo, losses[~step], n_outcome),
        "step_dpo": (config.step_dpo, losses[step], n_step),
        "sft": (config.sft, -policy_chosen_logps[imitated], n if on_every else n_outcome),
    }
    means = {name: (weight, values.sum() / count) for name, (weight, values, count) in terms.items() if count}
    loss = torch.stack([weight * mean for weight, mean in means.values()]).sum()
    parts = {name: mean.detach() for name, (_, mean) in means.items()} | {
        "reward_margin": (chosen - rejected).sum() / n,
        "accuracy": (chosen > rejected).float().sum() / n,
        "chosen_logps": policy_chosen_logps.detach().sum() / n,
        "rejected_logps": policy_rejected_logps.detach().sum() / n,
    }
    return loss, parts


def imitation(part: Part, whole: Whole, config: TrainConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """SFT: -log pi, mean over the update's agent tokens (and the environment's, by `config.observation_weight`)."""
    loss = sft_loss(part.logps, part.weights, whole.weight)
    return loss, {"agent_nll": -part.logps.detach()[part.agent].sum() / max(1, whole.agent_tokens)}


def policy_gradient(part: Part, whole: Whole, config: PreferenceConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """REINFORCE: L = - sum A log pi / T. A is a token's weight, its turn's advantage. T counts the update's agent
    tokens, those without a weight too, so that each counts alike in long and short episodes (DAPO, arXiv 2503.14476).
    """
    loss = -(part.weights * part.logps).sum() / max(1, whole.agent_tokens)
    return loss, {"agent_nll": -part.logps.detach().sum() / max(1, whole.agent_tokens)}


def clipped_policy_gradient(part: Part, whole: Whole, config: PreferenceConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7), token by token: - sum min(rho A,
    clip(rho, 1 - epsilon, 1 + epsilon) A) / T, with rho = pi / pi_old; A and T as in `policy_gradient`.

    Figures: the share of the tokens whose gradient is clipped, and the mean of log pi_old - log pi (an estimate of
    KL(pi_old, pi), which is 0 at the start).
    """
    ratio = (part.logps - part.start_logps).exp()
    kept = ratio.clamp(1 - config.clip, 1 + config.clip)
    surrogate = torch.minimum(ratio * part.weights, kept * part.weights)
    tokens = max(1, whole.agent_tokens)
    return -surrogate.sum() / tokens, {
        "clipped": (kept * part.weights < ratio * part.weights).sum() / tokens,
        "kl_to_start": (part.start_logps - part.logps).detach().sum() / tokens,
    }


def refinement(part: Part, whole: Whole, config: PreferenceConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The paper's third stage, see `ipr_loss`."""
    chosen, rejected = pair_logps(part)
    reference = part.reference
    return ipr_loss(chosen, rejected, reference[:, 0], reference[:, 1], part.step, config, whole.outcome, whole.step)


def outcome_preference(part: Part, whole: Whole, config: PreferenceConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """ETO's loss: L_outcome-DPO alone. The figures tell the other terms, too."""
    return refinement(part, whole, config.model_copy(update={"step_dpo": 0.0, "sft": 0.0}))


def _has_a_term(pair: PreferencePair, config: PreferenceConfig) -> bool:
    dpo = config.step_dpo if pair.level == "step" else config.outcome_dpo
    return bool(dpo or (config.sft and (config.sft_on == "every" or pair.level == "outcome")))


LOSSES = {
    "ipr": Loss("pairs", refinement, reference=True, takes=_has_a_term),
    "outcome_dpo": Loss(
        "pairs",
        outcome_preference,
        reference=True,
        takes=lambda pair, config: pair.level == "outcome" and config.outcome_dpo > 0,
    ),
    "policy_gradient": Loss("demonstrations", policy_gradient),
    "ppo": Loss("demonstrations", clipped_policy_gradient, start=True),
    "sft": Loss("demonstrations", imitation, tempered=True),
}


def get(name: str) -> Loss:
    """A loss: one of ours, else of an installed package. Raises IprError, in one line."""
    return LOSSES.get(name) or plugged("loss", name, LOSSES)
