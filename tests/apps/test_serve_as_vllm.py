"""`ipr serve` refuses what vLLM's server refuses, in the same way: status, and the error's type, parameter and code.

`tests/vllm/test_vllm.py` plays the same against vLLM itself, and holds the record true.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipr import models
from ipr.apps.serve_command import adapter
from ipr.config import LoraConfig, RunConfig
from ipr.policies import local
from ipr.types import IprError
from tests import toy
from tests.chat_server import serving
from tests.vllm import agents, bad_requests


def test_what_is_refused_is_refused_as_by_vllm(tmp_path: Path) -> None:
    base = str(agents.make(tmp_path)["base"])
    most = agents.MODEL.model_copy(update={"lora": LoraConfig(rank=agents.RANK_THERE)})
    config = RunConfig(model=most)
    policy = local.load(base, base, config)
    with serving(policy, base, base, lambda folder: adapter(folder, base, config, tmp_path)) as url:
        found = bad_requests.played(url, "none", base, tmp_path)
    assert found == json.loads(bad_requests.ANSWERS.read_text())


def test_an_adapter_on_another_base_is_refused(tmp_path: Path) -> None:
    """vLLM takes it: it asks nobody what an adapter was trained on."""
    found = agents.make(tmp_path)
    other = models.save_model(toy.model(1, **agents.SIZES), toy.tokenizer(), tmp_path / "other")
    foreign = models.save_model(toy.adapted(other, agents.MODEL, 0), toy.tokenizer(), tmp_path / "foreign")
    base, config = str(found["base"]), RunConfig(model=agents.MODEL)
    assert adapter(str(found["sft"]), base, config, tmp_path).name == str(found["sft"])
    with pytest.raises(IprError, match=r"is no adapter on the model that is served"):
        adapter(str(foreign), base, config, tmp_path)
