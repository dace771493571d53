"""What is done with models and data beside a run: serve, play prompted models, look (`doctor`), reckon (`plan`), and
what is looked at before a run starts (`start`)."""
