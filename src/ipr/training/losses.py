"""The losses: pure functions of tensors.

Decided here: each term of L = L_outcome-DPO(D_t) + L_step-DPO(D_s) + L_SFT is the paper's expectation, so a mean over
*its own* pairs, not over the mixed batch (else the term with fewer pairs would count less). A micro batch holds both
kinds in any number, so it divides by the counts of the whole update: adding up the micro batches of all processes then
gives the exact means. L_SFT is the summed (not mean) negative log-probability of a chosen remainder, as in the paper.
Left out on purpose: label smoothing, length normalisation, other preference losses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ipr.config import PreferenceConfig


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log pi(token) in nats. logits [K, V], targets [K] -> [K], in float32."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


def sum_by_row(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """Sums of values [K] that belong to the same row; rows [K] in 0..n-1 -> [n]."""
    return values.new_zeros(n).index_add(0, rows, values)


def sequence_logps(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """log pi(agent's words) = sum of log-probabilities over the tokens with mask 1.

    logits [B, T, V] (position t predicts token t + 1), ids [B, T], mask [B, T] -> [B].
    The trainer does the same with the hidden states selected before the output layer.
    """
    where = mask[:, 1:] > 0
    logps = token_logps(logits[:, :-1][where], ids[:, 1:][where])
    return sum_by_row(logps, where.nonzero()[:, 0], len(ids))


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
