"""A run's folder (`run`), who plays for it (`workers`), its figures (`summary`) and how they are shown (`report`)."""

ITERATION = ("explore", "reward", "pairs", "train")
"""The tasks that make an iteration's agent, in their order: each needs what those before it made. `flows.refine` runs
them; the commands and the figures read their order here."""

DECIDED_BY = {
    "experts": ("env",),
    "sft": ("seed", "env", "model", "sft"),
    "explore": ("seed", "env", "model", "rollout", "algorithm"),
    "reward": ("seed", "env", "model", "rollout", "algorithm"),
    "pairs": ("env", "algorithm"),
    "train": ("seed", "env", "model", "algorithm", "train", "sft"),
    "evaluate": (
        *("seed", "env", "model", "rollout", "eval"),
        *("algorithm.samples", "algorithm.success", "algorithm.temperature"),
    ),
}
"""The parts of a config that each task reads; what it makes follows from them and from the tasks before it. The stages
in dvc.yaml name the same (a test compares)."""
