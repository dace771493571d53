"""A run's folder (`run`), who plays for it (`workers`), its figures (`summary`) and how they are shown (`report`)."""
