"""A model as a folder for other software: vLLM, llama.cpp, a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ipr.config import ModelConfig
from ipr.models.folders import config_of, copy_model, resolve
from ipr.models.loading import load_model, load_tokenizer, save_model
from ipr.types import IprError


def export(path: str | Path, folder: Path, *, merge: bool = False) -> dict[str, Any]:
    """Write a model folder (or hub name) to a new `folder`, a copy; its path, and whether it holds whole weights.

    With `merge` an adapter's weights are added to those of its base, in float32, and kept in the type that the base's
    config names; the tokenizer is the adapter's. Raises IprError where `folder` is there already, or the model or its
    base cannot be loaded.
    """
    if folder.exists():
        raise IprError(f"{folder} is there already; choose another folder")
    adapter = (Path(resolve(path)) / "adapter_config.json").exists()
    if adapter and merge:
        model = load_model(path, ModelConfig(device="cpu"), training=True)
        save_model(model.to(getattr(config_of(path), "dtype", None) or torch.float32), load_tokenizer(path), folder)
    else:
        copy_model(path, folder)
    return {"folder": str(folder), "whole": merge or not adapter}
