"""A run as pandas frames, for notebooks: `ipr.open("runs/quick").trajectories`. docs/concepts.md has recipes.

Decided here: a row is one thing, names are those of the files, and a column has its type whether or not there is a row.
Steps count from 1, as in the plots. Left out: figures that a `groupby` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ipr.runs import summary
from ipr.runs.episodes import Episodes
from ipr.runs.run import Run
from ipr.types import Message

TEXT, WHOLE, NUMBER, YES, LIST = "string", "Int64", "Float64", "boolean", "object"
"""pandas' types that know what is missing."""

STAGES = {
    "stage": TEXT,
    "iteration": WHOLE,
    "reported": YES,
    "dev_reward": NUMBER,
    "test_reward": NUMBER,
    "test_success": NUMBER,
    "outcome_pairs": WHOLE,
    "step_pairs": WHOLE,
    "own_successes": WHOLE,
    "rollouts_played": WHOLE,
    "rollouts_saved": WHOLE,
    "expert_step_reward": NUMBER,
    "agent_step_reward": NUMBER,
    "updates": WHOLE,
    "loss": NUMBER,
    "seconds": NUMBER,
}
PAIRS = {
    "stage": TEXT,
    "task_id": TEXT,
    "task_type": TEXT,
    "level": TEXT,
    "step": WHOLE,
    "margin": NUMBER,
    "winner": TEXT,
    "chosen_action": TEXT,
    "rejected_action": TEXT,
    "prompt": LIST,
    "chosen": LIST,
    "rejected": LIST,
}
TRAJECTORIES = {
    "stage": TEXT,
    "kind": TEXT,
    "split": TEXT,
    "task_id": TEXT,
    "task_type": TEXT,
    "policy": TEXT,
    "reward": NUMBER,
    "solved": YES,
    "ending": TEXT,
    "start": WHOLE,
    "steps": WHOLE,
    "invalid": WHOLE,
    "pairs": WHOLE,
    "seed": WHOLE,
    "first_observation": TEXT,
    "actions": LIST,
    "observations": LIST,
}
STEP_REWARDS = {
    "stage": TEXT,
    "kind": TEXT,
    "task_id": TEXT,
    "task_type": TEXT,
    "step": WHOLE,
    "who": TEXT,
    "action": TEXT,
    "mean": NUMBER,
    "n": WHOLE,
    "planned": WHOLE,
    "samples": LIST,
    "source": TEXT,
}
EVALUATIONS = {
    "stage": TEXT,
    "iteration": WHOLE,
    "split": TEXT,
    "games": WHOLE,
    "reward": NUMBER,
    "reward_low": NUMBER,
    "reward_high": NUMBER,
    "success": NUMBER,
    "success_low": NUMBER,
    "success_high": NUMBER,
    "steps": NUMBER,
    "invalid": NUMBER,
}


class Frames:
    """A run's folder, complete or not. Each frame is read when it is first asked for, and kept."""

    def __init__(self, folder: str | Path):
        """Raises IprError where `folder` holds no run."""
        self._run = Run(folder)
        self._episodes = Episodes(self._run)
        self.name, self.config = self._run.name, self._run.config

    def __repr__(self) -> str:
        names = ", ".join(name for name, kind in vars(Frames).items() if isinstance(kind, cached_property))
        return f"<run {self.name} in {self._run.folder}: {names}>"

    @cached_property
    def stages(self) -> pd.DataFrame:
        """A row an evaluated stage: its rewards, what it was trained on, the loss of its last epoch, seconds."""
        told = summary.summarise(self._run, self._run.status()["status"])
        found = []
        for stage in told["stages"]:
            test, pairs = stage["test"] or {}, stage["pairs"] or {}
            rollouts, train, reward = (stage[key] or {} for key in ("rollouts", "train", "step_reward"))
            found.append(
                {
                    "stage": stage["name"],
                    "iteration": self._number(stage["name"]),
                    "reported": stage["name"] == told["reported"],
                    "dev_reward": (stage["dev"] or {}).get("reward"),
                    "test_reward": test.get("reward"),
                    "test_success": test.get("success"),
                    "outcome_pairs": pairs.get("outcome"),
                    "step_pairs": pairs.get("step"),
                    "own_successes": pairs.get("own"),
                    "rollouts_played": rollouts.get("total_played"),
                    "rollouts_saved": rollouts.get("saved"),
                    "expert_step_reward": reward.get("expert"),
                    "agent_step_reward": reward.get("agent"),
                    "updates": train.get("updates"),
                    "loss": train.get("loss"),
                    "seconds": stage["seconds"],
                }
            )
        return _frame(found, STAGES)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """A row a stage and split: means and 95 % intervals. Split "test" is all test splits, a game once."""
        found = []
        for k, stage in enumerate(self._episodes.stages, -1):
            record = self._run.record(k, "evaluate") or {}
            for split, figures in record.items():
                if not isinstance(figures, Mapping) or not figures.get("games"):
                    continue
                row = {key: figures[key] for key in ("games", "reward", "success", "steps", "invalid")}
                for key in ("reward", "success"):
                    row |= zip((f"{key}_low", f"{key}_high"), figures[f"{key}_interval"], strict=True)
                found.append({"stage": stage, "iteration": k, "split": split} | row)
        return _frame(found, EVALUATIONS)

    @cached_property
    def trajectories(self) -> pd.DataFrame:
        """A row an episode. `kind`: "expert", "explored" (from step `start` on, after given ones), "evaluated"."""
        solved = self.config.algorithm.success
        return _frame(
            (
                {
                    "stage": e.stage,
                    "kind": e.kind,
                    "split": e.split,
                    "task_id": e.trajectory.task_id,
                    "task_type": self._type(e.trajectory.task_id),
                    "policy": e.trajectory.policy,
                    "reward": e.trajectory.reward,
                    "solved": e.trajectory.reward >= solved,
                    "ending": e.trajectory.ending,
                    "start": e.trajectory.start,
                    "steps": len(e.trajectory.steps),
                    "invalid": e.trajectory.invalid,
                    "pairs": len(e.pairs),
                    "seed": e.trajectory.seed,
                    "first_observation": e.trajectory.first_observation,
                    "actions": [s.action for s in e.trajectory.steps],
                    "observations": [s.observation for s in e.trajectory.steps],
                }
                for e in self._episodes.all
            ),
            TRAJECTORIES,
        )

    @cached_property
    def step_rewards(self) -> pd.DataFrame:
        """A row a scored action. `who` took it: "expert" (then maybe the agent as well) or "agent"."""
        experts = {state for e in self._episodes.experts.values() for state in e.states}
        return _frame(
            (
                {
                    "stage": one.stage,
                    "kind": one.kind,
                    "task_id": one.reward.prefix.task_id,
                    "task_type": self._type(one.reward.prefix.task_id),
                    "step": len(one.reward.prefix.steps),
                    "who": "expert" if state in experts else "agent",
                    "action": one.reward.prefix.steps[-1].action,
                    "mean": one.reward.mean,
                    "n": one.reward.n,
                    "planned": one.reward.planned,
                    "samples": list(one.reward.samples),
                    "source": one.reward.source,
                }
                for state, scored in self._episodes.scored.items()
                for one in scored
            ),
            STEP_REWARDS,
        )

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """A row a preference pair; they part at `step`. `prompt`, `chosen`, `rejected` are chat messages."""
        return _frame(
            (
                {
                    "stage": stage,
                    "task_id": pair.task_id,
                    "task_type": self._type(pair.task_id),
                    "level": pair.level,
                    "step": pair.t + 1,
                    "margin": pair.margin,
                    "winner": pair.winner,
                    "chosen_action": pair.chosen[0].content,
                    "rejected_action": pair.rejected[0].content,
                    "prompt": _chat(pair.prompt),
                    "chosen": _chat(pair.chosen),
                    "rejected": _chat(pair.rejected),
                }
                for stage, pair in self._episodes.pairs()
            ),
            PAIRS,
        )

    def _type(self, task_id: str) -> str | None:
        return self._episodes.types.get(task_id)

    def _number(self, stage: str) -> int:
        return self._episodes.stages.index(stage) - 1


def _frame(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=pd.Index(columns)).astype(dict(columns))


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [message.as_dict() for message in messages]
