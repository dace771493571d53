"""Registered versions are MLflow models: loaded and served by MLflow itself, their weights stored once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from ipr import models, store
from ipr.config import LoraConfig, ModelConfig, TrackConfig
from ipr.models import folders
from ipr.tracking import Tracker, champion_info
from ipr.tracking.client import connect
from ipr.tracking.packaging import local, schema_and_profile
from ipr.types import Step, Trajectory
from tests.training import tiny

pytestmark = pytest.mark.integration

FULL, LORA = ModelConfig(device="cpu"), ModelConfig(device="cpu", lora=LoraConfig(rank=4))
ASKED = [{"role": "user", "content": "where is the ring?"}]


@pytest.fixture(autouse=True)
def _environment():
    with mock.patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield


@pytest.fixture(scope="module")
def chat():
    return tiny.make_chat()


def weights_of(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_ino


def test_versions_are_loaded_and_served_by_mlflow_and_weights_are_stored_once(chat, tmp_path: Path) -> None:
    import mlflow.models
    import mlflow.pyfunc
    from fastapi.testclient import TestClient
    from mlflow import transformers as flavour
    from mlflow.pyfunc import scoring_server

    config = TrackConfig(uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    tracker = Tracker(tmp_path / "run", config, tmp_path)
    sft = models.save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "run/sft/model")
    lora = models.load_model(sft, LORA, training=True)
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapter = models.save_model(lora, chat.tokenizer, tmp_path / "run/iteration-1/model")
    same = models.copy_model(sft, tmp_path / "run/iteration-2/model")  # an iteration that changed nothing
    data = tmp_path / "data/toy/experts.parquet"
    store.save(data, [Trajectory("t", "look", (Step("a", "b"),), 1.0, "terminated")])
    from ipr.data import datasets

    for k, folder in enumerate((sft, adapter, same)):
        tracker.dataset("experts", data, datasets.md5_of(data), "input", k)
        tracker.model(folder, k, {"dev/reward": 0.5}, {"git.commit": "abc"}, ASKED)
    tracker.champion({"iteration": 0, "promote": True, "why": "a test"})
    assert tracker.sync()

    client = connect(config, tmp_path)
    versions = {int(v.version): v for v in client.search_model_versions("name = 'ipr-agent'")}
    assert versions[3].source == versions[1].source  # one logged model, two versions
    assert versions[2].source != versions[1].source
    champion = champion_info(config, tmp_path)
    assert champion is not None
    assert weights_of(champion["folder"]) == weights_of(sft) == weights_of(same)  # not even a copy of the run's
    assert models.model_hash(champion["folder"]) == models.model_hash(sft)

    ids = torch.arange(5, 60)[None]
    for version, folder, settings in ((1, sft, FULL), (2, adapter, LORA)):
        loaded: Any = flavour.load_model(f"models:/ipr-agent/{version}", return_type="components")
        ours = models.load_model(folder, settings)
        with torch.no_grad():
            gap = (loaded["model"].eval()(ids).logits - ours.eval()(ids).logits).abs().max()
        assert gap < 1e-5, version
        text = loaded["tokenizer"].apply_chat_template(ASKED, tokenize=False)
        assert text == chat.tokenizer.apply_chat_template(ASKED, tokenize=False)
    about = mlflow.models.get_model_info("models:/ipr-agent/2")
    assert about.metadata is not None
    assert about.metadata["base_hash"] == folders.hash_of_base(str(sft))
    assert about.signature is not None
    assert about.saved_input_example_info is not None

    served = mlflow.pyfunc.load_model("models:/ipr-agent@champion")
    server = TestClient(scoring_server.init(served))
    answer = server.post("/invocations", json={"messages": ASKED, "max_tokens": 4})
    assert answer.status_code == 200, answer.text
    assert answer.json()[0]["choices"][0]["message"]["role"] == "assistant"

    runs = client.search_runs([client.get_experiment_by_name("ipr").experiment_id])
    inputs = next(r for r in runs if r.info.run_name == "sft").inputs
    assert inputs is not None
    dataset = inputs.dataset_inputs[0].dataset
    assert '"name": "task_id"' in dataset.schema
    assert '"num_rows": 1' in dataset.profile


def test_a_data_set_that_is_no_table_has_no_schema(tmp_path: Path) -> None:
    assert schema_and_profile(tmp_path / "nothing.parquet") is None
    assert schema_and_profile(store.save(tmp_path / "empty.parquet", [], Trajectory)) is None
    assert local("s3://bucket/x") is None
    assert local("mlflow-artifacts:/1/x") is None
    assert local("file:///srv/a%20b") == local("/srv/a b") == Path("/srv/a b")


def test_equal_weights_are_kept_once_and_others_left_alone(chat, tmp_path: Path) -> None:
    one = models.save_model(tiny.make_model(chat), chat.tokenizer, tmp_path / "one")
    two = Path(shutil.copytree(one, tmp_path / "two"))
    models.share_weights(two, one)
    assert weights_of(one) == weights_of(two)
    (tmp_path / "other").mkdir()
    other = store.write_text(tmp_path / "other/model.safetensors", "other")
    models.share_weights(other.parent, one)
    assert other.read_text() == "other"
