"""What is done with models and data beside a run: serve, play prompted models, look (`doctor`), reckon (`plan`)."""
