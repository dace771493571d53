"""Every family with an adapter on all its linear layers: trained, saved, loaded, merged for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from ipr import models
from ipr.config import LoraConfig, ModelConfig
from tests.training import tiny

LORA = ModelConfig(device="cpu", lora=LoraConfig(rank=2))
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt_neox", "olmo2", "smollm3"]
FAMILIES += ["deepseek_v3", "gemma3n_text", "gemma4_text", "llama4_text", "phimoe"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_agent_says_what_the_adapter_says(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tokenizer = models.tiny_copy(CONFIG_MAPPING[family]()), tiny.make_chat().tokenizer
    model.resize_token_embeddings(len(tokenizer) + 8)  # some families' tokenizers add a token of their own
    base = models.save_model(model, tokenizer, tmp_path / "base")
    agent = models.load_model(base, LORA, training=True)
    with torch.no_grad():
        for parameter in (p for p in agent.parameters() if p.requires_grad):
            parameter += 0.1 * torch.randn(parameter.shape)
    folder = models.save_model(agent, tokenizer, tmp_path / "agent")
    models.export(folder, tmp_path / "merged", merge=True)
    models.check_model(tmp_path / "merged")

    ids = torch.arange(3, 23)[None]

    def logits(of: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return of.eval()(input_ids=ids).logits

    said = logits(models.load_model(folder, LORA))
    assert not torch.allclose(said, logits(model), atol=1e-2)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), said, atol=2e-3)
