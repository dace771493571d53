"""A GGUF file, written here as llama.cpp writes one, becomes a model folder that is what it was written from."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flows.cli import main
from ipr import models
from ipr.config import ModelConfig
from ipr.types import IprError
from tests import families

gguf: Any = pytest.importorskip("gguf")
CPU = ModelConfig(device="cpu")
TEXT = "go to  cabinet 12\n\nIt's <|eot_id|> Ünï 🤖"


@pytest.fixture(scope="module")
def tokenizer():
    return families.RIGHT["llama-3.1"]()


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


def written(file: Path, model: Any, tokenizer: Any, architecture: str = "llama", **more: Any) -> Path:
    """The file, and in it these tensors beside the model's; words are cut as `pre` says, as of that `kind`.

    `blank`: whether one goes before a text.
    """
    pre, kind, blank = more.pop("pre", "llama-bpe"), more.pop("kind", "gpt2"), more.pop("blank", None)
    tensors = more
    config, tree = model.config, json.loads(tokenizer.backend_tokenizer.to_str())
    added = {int(i): token for i, token in tokenizer.added_tokens_decoder.items()}
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    if blank is not None:
        writer.add_add_space_prefix(blank)
    writer.add_token_list([tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if i in added else kinds.NORMAL for i in range(len(tokenizer))])
    writer.add_token_merges([" ".join(pair) for pair in tree["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:  # llama.cpp turns neighbours, transformers halves
            value = value.view(heads, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), value.numpy())
    for name, value in tensors.items():
        writer.add_tensor(f"{name}.weight", value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_the_folder_is_the_model(model, tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = written(tmp_path / "tiny.gguf", model, tokenizer), tmp_path / "tiny"
    families.RIGHT["qwen2.5"]().save_pretrained(tmp_path)  # beside it, and not the file's
    assert main(["model", "import", str(file), "--out", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said == {
        "folder": str(folder),
        "parameters": model.num_parameters(),
        "next": f"ipr run quick model.path={folder}",
    }
    ids = torch.tensor([tokenizer.encode(TEXT, add_special_tokens=False)])
    with torch.no_grad():
        torch.testing.assert_close(models.load_model(folder, CPU)(ids).logits, model(ids).logits)
    read = models.load_tokenizer(folder)
    assert [r.encode(TEXT, add_special_tokens=False) for r in (read, tokenizer)] == [ids[0].tolist()] * 2
    assert str(read.chat_template).endswith(tokenizer.chat_template)  # today's date goes before it
    assert (read.bos_token, read.eos_token) == (tokenizer.bos_token, tokenizer.eos_token)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    with pytest.raises(IprError, match="is there already"):
        models.import_gguf(file, folder)


def test_without_a_chat_template_it_says_so(model, tokenizer, tmp_path: Path) -> None:
    bare = families.RIGHT["llama-3.1"]()
    bare.chat_template = ""
    said = models.import_gguf(written(tmp_path / "tiny.gguf", model, bare), tmp_path / "tiny")
    assert "has no chat template" in said["lacks"]


def test_what_cannot_be_read_is_refused(model, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: Path, why: str) -> None:
        with pytest.raises(IprError, match=why) as error:
            models.import_gguf(file, tmp_path / "made")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "made").exists()

    refused(tmp_path / "nowhere.gguf", "no file")
    (tmp_path / "text.gguf").write_text("This is no model. " * 10)
    refused(tmp_path / "text.gguf", "cannot read .*text.gguf: GGUF magic invalid")
    refused(written(tmp_path / "other.gguf", model, tokenizer, "mpt"), "architecture mpt is not supported")
    scaled = written(tmp_path / "scaled.gguf", model, tokenizer, rope_freqs=torch.ones(8))
    refused(scaled, "scales positions .rope_freqs.weight.")
    refused(written(tmp_path / "glm.gguf", model, tokenizer, pre="chatglm-bpe"), r"cuts words .* \(chatglm-bpe\)")
    whole = (tmp_path / "scaled.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.gguf", "cannot read .*cut.gguf")
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    refused(scaled, r"pip install 'ipr\[gguf\]'")


def test_digits_that_are_never_merged_need_no_cut_of_their_own(tokenizer, model, tmp_path: Path) -> None:
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    apart = {"type": "Digits", "individual_digits": True}
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [apart, whole]}
    tree["model"]["merges"] = [pair for pair in tree["model"]["merges"] if not any(c.isdigit() for c in "".join(pair))]
    smol = families.make(json.dumps(tree), tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    models.import_gguf(written(tmp_path / "smol.gguf", model, smol, pre="smollm"), tmp_path / "smol")
    text = "room 123, 4 boxes\n\n  (5)\tit's 6th"
    assert models.load_tokenizer(tmp_path / "smol").encode(text) == smol.encode(text)


@pytest.mark.parametrize(
    ("name", "blank"),
    [("llama-2", None), ("llama-2", True), ("mistral-7b-v0.1", None), ("mistral-7b-v0.3", False), ("gemma-2", False)],
)
def test_sentencepiece_has_its_blanks_where_the_file_says(name: str, blank: bool | None, tmp_path: Path) -> None:
    """llama.cpp puts one before a text, and before one after a marker, where a file does not forbid it."""
    tokenizer = families.RIGHT[name]()
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes, **heads))
    file = written(tmp_path / "tiny.gguf", model, tokenizer, kind="llama", pre="default", blank=blank)
    models.import_gguf(file, tmp_path / "tiny")
    talk = [{"role": "assistant" if i % 2 else "user", "content": f"go to  cabinet {i}"} for i in range(3)]
    tokenizers: list[Any] = [models.load_tokenizer(tmp_path / "tiny"), tokenizer]
    ids = [t.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"] for t in tokenizers]
    assert ids[0] == ids[1]


def test_sentencepiece_with_markers_of_its_own_is_refused_where_its_blanks_are_not_known(tmp_path: Path, model) -> None:
    tokenizer = families.RIGHT["mistral-7b-v0.3"]()
    for blank in (None, True):
        file = written(tmp_path / "tiny.gguf", model, tokenizer, kind="llama", pre="default", blank=blank)
        with pytest.raises(IprError, match=r"whether a blank follows its markers \(e\.g\. \[/INST\]\); take its safe"):
            models.import_gguf(file, tmp_path / "tiny")


def test_a_part_of_a_model_is_refused(model, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {name: value for name, value in model.state_dict().items() if ".1.mlp." not in name}
    monkeypatch.setattr(model, "state_dict", lambda: state)
    with pytest.raises(IprError, match=r"lacks 3 tensors of its model; merge"):
        models.import_gguf(written(tmp_path / "half.gguf", model, tokenizer), tmp_path / "half")


def test_a_gguf_as_the_model_names_the_command(tmp_path: Path) -> None:
    file = tmp_path / "some.gguf"
    file.touch()
    for path in (tmp_path, file):
        with pytest.raises(IprError, match=rf"ipr model import {file} --out"):
            models.check_model(path)
    (tmp_path / "other.gguf").touch()
    with pytest.raises(IprError, match=r"ipr model import .*ONE-OF-THEM.gguf"):
        models.check_model(tmp_path)
