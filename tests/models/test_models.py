"""Model folders: what is wrong with one is said in a line; what is saved loads again exactly."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ipr import identity, models
from ipr.config import LoraConfig, ModelConfig
from ipr.models import loading
from ipr.tokens import ChatTokens
from ipr.training.trainer import reference_logps
from ipr.types import IprError, Message
from tests import families
from tests.training import tiny

FULL, LORA = ModelConfig(device="cpu"), ModelConfig(device="cpu", lora=LoraConfig(rank=4))


@pytest.fixture(scope="module")
def chat():
    return tiny.make_chat()


@pytest.fixture(scope="module")
def base(chat, tmp_path_factory) -> Path:
    return models.save_model(tiny.make_model(chat), chat.tokenizer, tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def copy(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(5, 60)[None]).logits


# Tokenizer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " a  b\n\n", "Ünïcödé 🤖 \t\x00", "go to cabinet 12"])
def test_tokenizer_loses_nothing(chat, text):
    assert chat.tokenizer.decode(chat.tokenizer.encode(text)) == text


def test_special_tokens_are_apart(chat):
    tokenizer = chat.tokenizer
    assert tokenizer.convert_tokens_to_ids(list(models.SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<|pad|>", "<|bos|>", "<|end|>")
    assert chat.end_id == tokenizer.eos_token_id
    ids = chat.conversation([Message("user", "a"), Message("assistant", "b")]).ids
    assert tokenizer.decode(ids) == "<|bos|><|user|>a<|end|><|agent|>b<|end|>"


# What is wrong with a folder -------------------------------------------------------------------------------------


def test_a_good_folder_passes(base):
    models.check_model(base)
    models.check_model(str(base))
    assert models.context_length(base) == 512


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, r"no model folder .*copy; correct model\.path"),
        (lambda f: (f / "config.json").unlink(), r"no config\.json in .*copy"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: .*restore"),
        (lambda f: (f / "config.json").write_text("{}"), "names no model_type"),
        (lambda f: (f / "model.safetensors").unlink(), r"no weights model\.safetensors in .*copy"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), r"weights .* are corrupt"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 4000), r"weights .* are corrupt"),
        (lambda f: truncate(f / "model.safetensors"), r"weights .* are truncated"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer in .*copy"),
        (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
        (lambda f: families.RIGHT["llama-3.1"]().save_pretrained(f), r"its tokenizer has \d+ tokens, its config 300"),
        (lambda f: edit(f / "config.json", vocab_size=200), r"have other shapes in 1 tensors .*embed_tokens"),
        (lambda f: edit(f / "config.json", hidden_size=None), r"cannot read the config .*'hidden_size' expected int"),
        (lambda f: edit(f / "config.json", num_hidden_layers="two"), "cannot read the config .*'num_hidden_layers'"),
        (lambda f: edit(f / "config.json", num_hidden_layers=0), "cannot read the config .* no layers"),
        (lambda f: edit(f / "config.json", num_hidden_layers=3), r"lack 9 tensors of its config \(e.g. model.layers.2"),
        (lambda f: edit(f / "config.json", dtype="float99"), "cannot read the config .*float99"),
        (lambda f: edit(f / "config.json", hidden_act="foo"), "cannot load model .*copy: KeyError: 'foo'"),
        (lambda f: edit(f / "config.json", rope_parameters={"rope_type": "yarn"}), "cannot read the config .*'factor'"),
        (lambda f: edit(f / "config.json", model_type="t5"), "cannot load model .*: Unrecognized configuration class"),
        (lambda f: edit(f / "config.json", model_type="own", auto_map={"AutoConfig": "o.C"}), "contains custom code"),
        (lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq"}), r"is quantized \(gptq\)"),
        (lambda f: edit(f / "config.json", quantization_config={"quant_method": "foo"}), r"is quantized \(foo\)"),
        (lambda f: (f / "config.json").write_text('"model_type"'), "is no JSON object"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "has no weight_map"),
        (lambda f: edit(f / "generation_config.json", eos_token_id="x"), "eos_token_id=x is no token's id"),
        (
            lambda f: edit(f / "generation_config.json", eos_token_id=[4, 300]),
            r"eos_token_id=\[4, 300\] is no token's id",
        ),
        (lambda f: (f / "generation_config.json").write_text("{"), "generation_config"),
        (lambda f: (f / "generation_config.json").write_text("[1]"), "generation_config"),
        (lambda f: as_torch(f, b"x" * 4000), r"pytorch_model\.bin are corrupt"),
        (lambda f: as_torch(f, b""), r"pytorch_model\.bin are corrupt"),
        (lambda f: as_torch(f, b"PK" + b"x" * 4000), "cannot load model"),
        (lambda f: in_parts(f, "part.bin"), r"no weights part\.bin in"),
        (lambda f: [file.unlink() for file in f.glob("tokenizer*")], r"no tokenizer in .*copy \(tokenizer\.json, or"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot read the tokenizer of .*copy"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "cannot read the tokenizer of .*copy"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(copy, damage, says):
    damage(copy)
    with pytest.raises(IprError, match=says) as error:
        models.check_model(copy)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def edit(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def as_torch(folder: Path, weights: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(weights)


def in_parts(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def test_weights_of_the_older_format_pass(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    models.check_model(copy)
    assert torch.equal(logits(models.load_model(copy, FULL)), logits(models.load_model(copy, FULL)))


def test_of_a_folder_of_links_the_files_are_copied(base, tmp_path):
    # as the hub's cache holds a model
    (linked := tmp_path / "snapshots" / "1").mkdir(parents=True)
    for file in base.iterdir():
        (linked / file.name).symlink_to(os.path.relpath(file, linked))
    copied = models.copy_model(linked, tmp_path / "copied")
    same = Path(shutil.copytree(base, tmp_path / "same"))
    models.share_weights(same, linked)
    for folder in (copied, same):
        assert not any(file.is_symlink() for file in folder.iterdir())
        models.check_model(folder)
        assert models.model_hash(folder) == models.model_hash(base)


def test_where_the_hub_cannot_be_reached_what_was_fetched_is_used_and_the_rest_refused_at_once(base, tmp_path):
    commit = "0123456789abcdef" * 2 + "01234567"
    there = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(base, there / "snapshots" / commit)
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text(commit)
    code = (
        "from ipr import models; from ipr.config import ModelConfig\n"
        "models.check_model('someone/tiny'); models.load_model('someone/tiny', ModelConfig(device='cpu'))\n"
        "models.check_model('someone/else')"
    )
    away = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    away |= {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | away, capture_output=True, text=True, timeout=120, check=False
    )
    told = "IprError: cannot read .* someone/else; correct model.path, .* hf download someone/else"
    assert re.search(told, ended.stderr)
    assert "127.0.0.1:9 cannot be reached" in ended.stderr
    assert "Retrying" not in ended.stderr


def test_a_file_or_a_wrong_path_is_refused(base):
    with pytest.raises(IprError, match="is a file; give the folder"):
        models.resolve(base / "config.json")
    for path in ("./nowhere", "a" * 300, f"{'a' * 60}/{'b' * 60}"):
        with pytest.raises(IprError, match=f"no model folder {path[:9]}"):
            models.resolve(path)
    assert models.resolve("someone/model-7B") == "someone/model-7B"


def test_weights_that_lack_a_tensor_are_refused(copy):
    """transformers would fill it with random numbers."""
    edit(copy / "config.json", num_hidden_layers=3)
    with pytest.raises(IprError, match="lack 9 tensors"):
        models.load_model(copy, FULL)


def test_a_template_shows_the_same_day_always_and_a_saved_one_its_own(tmp_path, monkeypatch):
    def shown(folder: Path, *date: str) -> str:
        return ChatTokens(models.load_tokenizer(folder, *date)).text(
            ChatTokens(models.load_tokenizer(folder, *date)).prompt([Message("user", "Hi.")])
        )

    families.RIGHT["llama-3.2"]().save_pretrained(tmp_path / "base")
    assert "Today Date: 26 Jul 2024" in shown(tmp_path / "base")
    prompts = []
    for zone in ("Pacific/Kiritimati", "Pacific/Niue"):  # never on the same day
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        prompts.append(shown(tmp_path / "base", "2026-01-02"))
    monkeypatch.undo()
    time.tzset()
    assert prompts[0] == prompts[1]
    assert "Today Date: 02 Jan 2026" in prompts[0]
    models.load_tokenizer(tmp_path / "base", "2026-01-02").save_pretrained(tmp_path / "trained")
    assert shown(tmp_path / "trained") == shown(tmp_path / "trained", "2030-01-01") == prompts[0]


@pytest.mark.parametrize("name", families.REFUSED)
def test_a_folder_with_a_template_that_cannot_be_used_is_refused(copy, name):
    make, told = families.REFUSED[name]
    (copy / "chat_template.jinja").unlink()
    make().save_pretrained(copy)
    with pytest.raises(IprError, match=told) as error:
        models.check_model(copy)
    assert str(copy) in str(error.value)


# Saving and loading ----------------------------------------------------------------------------------------------


def test_full_model_loads_again_in_plain_transformers(chat, base):
    plain: torch.nn.Module = AutoModelForCausalLM.from_pretrained(base)
    expected = logits(tiny.make_model(chat))
    assert torch.equal(logits(plain.eval()), expected)
    assert torch.equal(logits(models.load_model(base, FULL)), expected)
    assert ChatTokens(AutoTokenizer.from_pretrained(base)).prompt([tiny.user("hi")]) == chat.prompt([tiny.user("hi")])
    models.check_model(models.copy_model(base, base.parent / "copied"))
    assert models.model_hash(base.parent / "copied") == models.model_hash(base)


def test_dtype_is_for_playing_and_training_is_in_float32(base):
    half = FULL.model_copy(update={"dtype": "bfloat16"})
    assert models.load_model(base, half).dtype == torch.bfloat16
    model = models.load_model(base, half, training=True)
    assert model.dtype == torch.float32
    assert model.training


def test_weights_are_hashed_once_until_they_change(copy, monkeypatch):
    monkeypatch.setattr(identity, "_SETTLED", 0)
    read: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind))
    first = models.model_hash(copy)
    assert models.model_hash(copy) == first
    assert [Path(name).name for name in read].count("model.safetensors") == 1
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert models.model_hash(copy) != first
    assert models.model_hash(shutil.copytree(copy, copy.parent / "moved")) == models.model_hash(copy)


def test_save_is_whole_or_nothing(chat, base, tmp_path, monkeypatch):
    model = tiny.make_model(chat, 1)
    folder = models.save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "model")
    before = models.model_hash(folder)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(chat.tokenizer), "save_pretrained", full_disk)
    with pytest.raises(IprError, match="No space left on device"):
        models.save_model(model, chat.tokenizer, folder)
    assert models.model_hash(folder) == before
    assert [f.name for f in tmp_path.iterdir()] == ["model"]
    monkeypatch.undo()
    models.save_model(model, chat.tokenizer, folder)
    assert models.model_hash(folder) != before


def test_several_chat_templates_are_saved(chat, tmp_path):
    tokenizer = tiny.make_chat().tokenizer
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ tools }}"}
    folder = models.save_model(tiny.make_model(chat), tokenizer, tmp_path / "model")
    models.check_model(folder)
    assert models.load_tokenizer(folder).chat_template == tokenizer.chat_template
    assert models.model_hash(models.copy_model(folder, tmp_path / "copy")) == models.model_hash(folder)


def test_new_base_model_is_of_its_seed(chat):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (tiny.make_model(chat, seed) for seed in (0, 0, 1))
    assert torch.equal(logits(a), logits(b))
    assert not torch.equal(logits(a), logits(c))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rank", [0, 4])
def test_large_models_recompute_activations_with_the_same_result(chat, base, tmp_path, monkeypatch, rank):
    trained = []
    for large in (1 << 60, 0):
        monkeypatch.setattr(loading, "LARGE", large)
        model = models.load_model(base, FULL.model_copy(update={"lora": LoraConfig(rank=rank)}), training=True)
        assert model.is_activation_checkpointing == (not large)
        tiny.prefer(model, tmp_path)
        trained.append([p.detach() for p in model.parameters() if p.requires_grad])
    for kept, recomputed in zip(*trained, strict=True):
        assert torch.allclose(kept, recomputed, atol=1e-5)


@pytest.mark.parametrize(("name", "says"), [("cdua", "is no device"), ("cuda:77", "sees no GPU")])
def test_a_device_that_is_not_there_is_refused(name, says):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(IprError, match=says):
        models.device(ModelConfig(device=name))


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(chat, tmp_path):
    """Weights are written by safetensors, whose error is its own: as for a file that may not be larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, hard))
    try:
        with pytest.raises(IprError, match=r"cannot write .*model: .*File too large.*; free space") as error:
            models.save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert [*tmp_path.iterdir()] == []


# LoRA ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sft_folder(chat, base, tmp_path) -> Path:
    """An SFT agent with an adapter: on the base, trained (here: set) to something."""
    model = models.load_model(base, LORA, training=True)
    with torch.no_grad():
        for i, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return models.save_model(model, chat.tokenizer, tmp_path / "sft")


def test_a_new_adapter_changes_nothing_and_alone_is_trained(base):
    model = models.load_model(base, LORA, training=True)
    assert torch.equal(logits(model.eval()), logits(models.load_model(base, FULL)))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_of_adapters_no_library_tells_what_its_next_release_changes(base, sft_folder, recwarn):
    models.load_model(base, LORA, training=True)
    models.load_model(sft_folder, LORA)
    assert not [str(told.message) for told in recwarn if issubclass(told.category, FutureWarning)]


def test_adapter_is_saved_and_loaded_exactly(chat, base, sft_folder):
    models.check_model(sft_folder)
    assert models.context_length(sft_folder) == 512
    assert not (sft_folder / "model.safetensors").exists()
    assert json.loads((sft_folder / "base.json").read_text()) == {
        "path": str(base.resolve()),
        "revision": None,
        "hash": identity.weights(base),
        "beside": os.path.relpath(base.resolve(), sft_folder),
    }
    model = models.load_model(sft_folder, LORA)
    assert not torch.allclose(logits(model), logits(models.load_model(base, FULL)), atol=1e-2)
    continued = models.load_model(sft_folder, LORA, training=True).eval()
    assert torch.equal(logits(continued), logits(model))
    merged = models.load_model(sft_folder, FULL, training=True).eval()
    assert torch.allclose(logits(merged), logits(model), atol=1e-6)
    assert all(p.requires_grad for p in merged.parameters())

    from peft import AutoPeftModelForCausalLM

    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(sft_folder).eval()), logits(model))
    again = models.save_model(continued, chat.tokenizer, sft_folder.parent / "again")
    assert models.model_hash(again) == models.model_hash(sft_folder) != models.model_hash(base)


def test_an_adapter_is_exported_merged_for_others(base, sft_folder, tmp_path):
    """transformers alone reads the folder, no peft; it is in the base's own type, and plays and trains like another."""
    found = models.export(sft_folder, tmp_path / "merged", merge=True)
    assert found == {"folder": str(tmp_path / "merged"), "whole": True}
    assert not list((tmp_path / "merged").glob("adapter*"))
    models.check_model(tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert whole.dtype == models.config_of(base).dtype
    with_adapter = models.load_model(sft_folder, LORA)
    assert torch.allclose(logits(whole.float().eval()), logits(with_adapter), atol=1e-5)
    assert models.load_tokenizer(tmp_path / "merged").chat_template == models.load_tokenizer(sft_folder).chat_template
    assert models.export(sft_folder, tmp_path / "as-it-is") == {"folder": str(tmp_path / "as-it-is"), "whole": False}
    assert models.model_hash(tmp_path / "as-it-is") == models.model_hash(sft_folder)
    with pytest.raises(IprError, match="is there already; choose another folder"):
        models.export(sft_folder, tmp_path / "merged", merge=True)


def test_the_reference_of_an_adapter_is_base_and_sft_adapter(chat, sft_folder, tmp_path):
    """Preference training goes on from a copy of the SFT adapter; the SFT folder stays as it is, the reference."""
    before = models.model_hash(sft_folder)
    policy = models.load_model(sft_folder, LORA, training=True)
    pairs, config = tiny.make_pairs(), tiny.CONFIG
    reference = models.load_model(sft_folder, LORA)
    chosen, rejected = reference_logps(reference, chat, pairs, tiny.told, config, max_length=512)
    own = reference_logps(policy, chat, pairs, tiny.told, config, max_length=512)
    assert torch.equal(chosen, own[0])
    assert torch.equal(rejected, own[1])
    from ipr.training.trainer import train

    result = train(
        policy,
        chat,
        pairs,
        tiny.told,
        "ipr",
        config,
        reference=(chosen, rejected),
        max_length=512,
        seed=0,
        out=tmp_path / "out",
    )
    assert result.history[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert result.history[-1]["reward_margin"] > 0.001
    assert models.model_hash(sft_folder) == before
    trained = models.save_model(policy, chat.tokenizer, tmp_path / "iteration-1")
    assert torch.equal(logits(models.load_model(trained, LORA)), logits(policy))
    assert json.loads((trained / "base.json").read_text()) == json.loads((sft_folder / "base.json").read_text())


def test_an_adapter_and_its_base_in_a_run_whose_folder_is_moved(chat, tmp_path):
    """As `run.store` brings it to another machine, where the champion's copy is the base."""
    made, moved = tmp_path / "here" / "run", tmp_path / "there" / "else" / "run"
    models.save_model(tiny.make_model(chat), chat.tokenizer, made / "base" / "model")
    adapted = models.load_model(made / "base" / "model", LORA, training=True)
    before = models.model_hash(models.save_model(adapted, chat.tokenizer, made / "sft" / "model"))
    shutil.copytree(made, moved)
    shutil.rmtree(made)
    models.check_model(moved / "sft" / "model")
    assert models.adapter(moved / "sft" / "model") == (str(moved / "base" / "model"), 4)
    goes_on = models.load_model(moved / "sft" / "model", LORA, training=True)
    after = models.save_model(goes_on, chat.tokenizer, moved / "iteration-1" / "model")
    assert models.model_hash(after) == models.model_hash(moved / "sft" / "model") == before
    assert json.loads((after / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        moved / "base" / "model"
    )
    models.save_model(tiny.make_model(chat, 9), chat.tokenizer, moved / "base" / "model")
    with pytest.raises(IprError, match=r"its base .*there/else/run/base/model has changed"):
        models.load_model(moved / "sft" / "model", LORA)


def test_an_adapter_of_others_is_another_agent_on_another_base(chat, copy, tmp_path):
    folder = models.save_model(models.load_model(copy, LORA, training=True), chat.tokenizer, tmp_path / "adapter")
    (folder / "base.json").unlink()
    before = models.model_hash(folder)
    copy.rename(tmp_path / "elsewhere")
    edit(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "elsewhere"))
    assert models.model_hash(folder) == before
    models.save_model(tiny.make_model(chat, 9), chat.tokenizer, tmp_path / "elsewhere")
    assert models.model_hash(folder) != before


def test_an_adapter_on_a_changed_or_missing_base_is_refused(chat, copy, tmp_path):
    folder = models.save_model(models.load_model(copy, LORA, training=True), chat.tokenizer, tmp_path / "adapter")
    models.save_model(tiny.make_model(chat, 9), chat.tokenizer, copy)
    with pytest.raises(IprError, match=r"adapter .*: its base .*copy has changed"):
        models.load_model(folder, LORA)
    shutil.rmtree(copy)
    with pytest.raises(IprError, match=r"adapter .*adapter: its base model .*copy is missing"):
        models.check_model(folder)
    with pytest.raises(IprError, match=r"adapter .*adapter: its base model .*copy is missing"):
        models.load_model(folder, LORA)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: edit(f / "adapter_config.json", peft_type="PREFIX_TUNING"), "of type PREFIX_TUNING, only LORA"),
        (lambda f: edit(f / "adapter_config.json", r=None), "names no rank r"),
        (lambda f: edit(f / "adapter_config.json", r=2), "does not fit its base"),
        (lambda f: edit(f / "adapter_config.json", base_model_name_or_path=str(f)), "is an adapter itself"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "is no JSON object"),
        (lambda f: (f / "base.json").write_text("[]"), "is no JSON object"),
        (lambda f: edit(f / "adapter_config.json", base_model_name_or_path=["a"]), "its base model .* is missing"),
        (
            lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
            "save them as adapter_model",
        ),
        (lambda f: edit(f / "adapter_config.json", target_modules=["q_proj"]), r"has \d+ others than its base"),
        (
            lambda f: edit(f / "adapter_config.json", target_modules="all-linear", layers_to_transform=None),
            r"lacks \d+ tensors for its base",
        ),
    ],
)
def test_what_is_wrong_with_an_adapter_is_said_in_one_line(chat, base, tmp_path, damage, says):
    few = ModelConfig(device="cpu", lora=LoraConfig(rank=4, targets=["q_proj", "v_proj"]))
    folder = models.save_model(models.load_model(base, few, training=True), chat.tokenizer, tmp_path / "few")
    models.check_model(folder)
    damage(folder)
    for refuse in (models.check_model, lambda f: models.load_model(f, LORA)):
        with pytest.raises(IprError, match=says) as error:
            refuse(folder)
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("targets", [["nosuch"], ["q_proj", "nosuch"], [], ["mlp"], "nosuch", "*"])
def test_modules_that_are_not_there_are_refused(base, targets):
    config = ModelConfig(device="cpu", lora=LoraConfig(rank=4, targets=targets))
    with pytest.raises(IprError, match=r"model\.lora\.targets=.* whose modules are .*'q_proj'") as error:
        models.check_model(base, config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens"]])
def test_embeddings_that_are_the_output_layer_too_are_not_adapted(targets):
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    for tied in (True, False):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_attention_heads=2, tie_word_embeddings=tied, **sizes))
        config = ModelConfig(device="cpu", lora=LoraConfig(rank=4, targets=targets))
        with pytest.raises(IprError, match="in common with its output layer") if tied else nullcontext():
            loading.with_adapter(model, config)


def test_adapters_of_others_that_could_not_be_merged_are_refused(chat, base, copy, tmp_path):
    """What they add to embeddings would be the output layer's too, or has no place in the base."""

    def adapter(place: Path, **how: Any) -> Path:
        found = peft.get_peft_model(
            AutoModelForCausalLM.from_pretrained(place),
            peft.LoraConfig(task_type=peft.TaskType.CAUSAL_LM, r=4, **how),
        )
        return models.save_model(found, chat.tokenizer, tmp_path / "adapter")

    edit(copy / "config.json", tie_word_embeddings=True)
    weights = load_file(copy / "model.safetensors")
    save_file({name: weights[name] for name in weights if name != "lm_head.weight"}, copy / "model.safetensors")
    folder = adapter(copy, target_modules=["embed_tokens"])
    with pytest.raises(IprError, match=r"adapter .* adapts embeddings .* in common with its output layer"):
        models.check_model(folder)
    folder = adapter(base, target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(IprError, match=r"adapter .* cannot be merged into its base: .*lora_bias"):
        models.export(folder, tmp_path / "merged", merge=True)


def test_quantized_weights_are_refused_also_where_the_config_does_not_say_so(copy):
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file(weights | {name: weights[name].to(torch.float8_e4m3fn)}, copy / "model.safetensors")
    with pytest.raises(IprError, match=r"model.safetensors are quantized \(F8_E4M3\), which cannot be trained; take"):
        models.check_model(copy)


@pytest.mark.parametrize("targets", ["all-linear", ".*q_proj", ["q_proj", "self_attn.v_proj"]])
def test_modules_that_are_there_can_be_adapted(base, targets):
    models.check_model(base, ModelConfig(device="cpu", lora=LoraConfig(rank=4, targets=targets)))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rank", 8, r"rank 4, model\.lora\.rank is 8"),
        ("alpha", 32, r"alpha 16, model\.lora\.alpha is 32"),
        ("dropout", 0.1, r"dropout 0\.0, model\.lora\.dropout is 0\.1"),
    ],
)
def test_an_adapter_is_trained_as_it_is(sft_folder, key, value, says):
    config = ModelConfig(device="cpu", lora=LoraConfig(rank=4).model_copy(update={key: value}))
    for refuse in (
        lambda: models.load_model(sft_folder, config, training=True),
        lambda: models.check_model(sft_folder, config),
    ):
        with pytest.raises(IprError, match=says):
            refuse()
    models.check_model(sft_folder)
    models.load_model(sft_folder, config)
