"""A run's folder (`run`), who plays for it (`workers`), its figures (`summary`) and how they are shown (`report`)."""

ITERATION = ("explore", "reward", "pairs", "train")
"""The tasks that make an iteration's agent, in their order: each needs what those before it made. `flows.refine` runs
them; the commands and the figures read their order here."""
