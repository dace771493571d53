"""Trajectory data sets: published ones (`datasets`, DVC), a run's experts, imports and exports."""
