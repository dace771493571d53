"""`ipr doctor`: each thing that can be amiss, for real; exit 1 only for what stops a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from flows.cli import main
from ipr import config as configs
from ipr import policies
from ipr.apps import doctor as checker
from ipr.types import IprError
from tests.conftest import Install

NOWHERE = "http://127.0.0.1:9"
"""A port at which nothing listens."""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in git, without data, without servers."""
    folder = tmp_path / "project"
    folder.mkdir()
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], cwd=folder, check=True)
    monkeypatch.setenv("IPR_ROOT", str(folder))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict]]:
    code = main(["doctor", *arguments, "--json"])
    return code, {check["name"]: check for check in json.loads(capsys.readouterr().out.splitlines()[-1])}


def test_all_is_well(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = doctor(capsys)
    assert code == 0
    assert {"python", "packages", "disk", "cores", "gpu", "git", "data", "dvc remote", "mlflow", "prefect"} <= set(
        found
    )
    assert {"embedded models", "environment alfworld", "environment sql", "environment webshop"} <= set(found)
    assert [name for name, check in found.items() if check["needed"] and not check["ok"]] == []
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ipr run quick can start"


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nvidia-smi tells of them; torch sees none."""
    card = "NVIDIA H200, 143771 MiB, 4 MiB, 570.86"
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '{card}'\necho '{card}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    card = "NVIDIA H200, 143771 MiB, 4 MiB, 570.86"
    (found,) = list(checker._gpus())
    assert (found.ok, found.detail) == (
        False,
        f"{card}; {card} (memory, in use, driver), but torch is a build for CPUs",
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (found,) = list(checker._gpus())
    assert not found.ok
    assert found.detail.endswith("cannot use it with its CUDA 13.0")
    assert "newer driver" in found.fix


@pytest.mark.usefixtures("two_gpus")
def test_what_several_gpus_speak_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with socket.create_server(("", 0)) as taken:
        monkeypatch.setattr(checker, "PORT", taken.getsockname()[1])
        found = {check.name: check for check in checker._gpus()}
    assert found["gpu"].ok
    assert found["gpu"].detail.endswith("torch sees 2, CUDA 13.0")
    # This build has none.
    assert (found["nccl"].ok, found["nccl"].detail) == (False, "torch is built without it")
    assert not found["port"].ok
    assert "--main_process_port" in found["port"].fix
    found = {check.name: check for check in checker._gpus()}
    assert found["port"].ok
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [check.name for check in checker._gpus()] == ["gpu"]


def test_what_only_waits_does_not_stop_a_run(
    root: Path, install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    install("pandas", {}, pandas="")  # of another version than the lock's
    install("broken-package", {"broken": "plug_is_not_there", "sql": "x"})
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text(
        f"[core]\n remote = r\n['remote \"r\"']\n url = s3://b\n endpointurl = {NOWHERE}\n"
    )
    (root / "data.dvc").write_text("outs:\n- md5: 0123.dir\n  path: data\n")
    code, found = doctor(capsys)
    assert code == 0
    amiss = {name: check["detail"] for name, check in found.items() if not check["ok"]}
    assert amiss.pop("mlflow").startswith(f"no answer from the MLflow server {NOWHERE}")
    assert amiss.pop("lock").startswith("pandas is 1, locked ")
    assert f"no answer from {NOWHERE}" in amiss.pop("dvc remote")
    assert "no data/" in amiss.pop("data")
    assert "plug_is_not_there" in amiss.pop("environment broken")
    assert "names an environment 'sql', which is built in and stays" in amiss.pop("environment")
    assert amiss == {}
    assert all(check["fix"] for check in found.values() if not check["ok"])


def test_data_that_was_changed_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "data").mkdir()
    (root / "data" / "x").write_text("x")
    assert doctor(capsys)[1]["data"]["detail"] == "data/ is not under DVC yet"
    (root / "data.dvc").write_text("outs:\n- md5: 0123.dir\n  path: data\n")
    assert "was taken as 0123.dir" in doctor(capsys)[1]["data"]["detail"]


def test_servers_that_stop_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{NOWHERE}/api")
    code, found = doctor(capsys)
    assert (code, found["prefect"]["ok"]) == (1, False)
    assert "unset PREFECT_API_URL" in found["prefect"]["fix"]
    assert main(["doctor"]) == 1
    assert "STOP prefect: " in capsys.readouterr().out
    assert main(["deploy", "smoke", "--cron", "0 3 * * *"]) == 2
    assert "no answer from the Prefect server" in capsys.readouterr().err


class _Login(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        health = self.path == "/health"
        self.send_response(200 if health else 401)
        self.end_headers()
        self.wfile.write(b"OK" if health else b"You are not authenticated.")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_tracking_server_that_wants_a_password_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow's own with --app-name basic-auth: its health is told to everyone."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Login) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        found = {check.name: check for check in checker._servers(tmp_path, configs.load(None, []))}
        server.shutdown()
    assert not found["mlflow"].ok
    assert "401" in found["mlflow"].detail
    assert "_PASSWORD" in found["mlflow"].fix


def test_what_a_config_names_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", NOWHERE), ("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    config = configs.load(None, ["rollout.scheduler=tcp://127.0.0.1:9", "run.store=s3://bucket/runs"])
    found = {check.name: check for check in checker._servers(tmp_path, config)}
    assert (found["dask"].ok, found["dask"].needed) == (False, True)
    assert "no Dask scheduler answers" in found["dask"].detail
    assert (found["run.store"].ok, found["run.store"].needed) == (False, True)
    assert NOWHERE in found["run.store"].detail
    config = configs.load(None, [f"run.store={tmp_path / 'store'}"])
    assert {check.name: check for check in checker._servers(tmp_path, config)}["run.store"].ok


def test_vllm_that_is_not_there_stops_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    here = "quick", "rollout.backend=vllm"
    code, found = doctor(capsys, *here, "model.lora.rank=8", f"rollout.endpoint={NOWHERE}/v1", "endpoint.retries=0")
    assert code == 1
    assert "cannot reach" in found["backend vllm"]["detail"]


def test_a_package_that_stops_a_run(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("fastapi", {})
    code, found = doctor(capsys)
    assert (code, found["fastapi"]["detail"]) == (1, "1")
    assert "pip install 'fastapi<0.151,>=0.139'" in found["fastapi"]["fix"]


def test_a_broken_data_file_stops_a_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "data.dvc").write_text("<<<<<<< HEAD\n")
    code, found = doctor(capsys)
    assert (code, found["data"]["fix"]) == (1, "git checkout HEAD -- data.dvc")


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ({"model_type": "qwen3", "head_dim": 128}, "in the run's own process, auto"),
        ({"model_type": "gemma2", "num_key_value_heads": 4}, "by transformers' own cache, which is slower: "),
        ({"model_type": "gpt_oss", "num_local_experts": 32}, "uses s_aux, which ours lacks"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256, "kv_lora_rank": 512}, "slower: our attention fails"),
        ({"model_type": "nemotron", "num_key_value_heads": 8}, "slower: our attention fails"),
        ({"model_type": "mamba"}, "no attention of ours can take the place of mamba's own"),
        ({"model_type": "granitemoehybrid"}, "no attention of ours can take the place of granitemoehybrid's own"),
        ({"model_type": "bamba"}, "no attention of ours can take the place of bamba's own"),
        ({"model_type": "mamba2", "num_heads": 128}, "no attention of ours can take the place of mamba2's own"),
        ({"model_type": "zamba2", "num_hidden_layers": 54}, "no attention of ours can take the place of zamba2's own"),
        ({"model_type": "falcon", "new_decoder_architecture": True}, "in the run's own process"),
    ],
)
def test_how_a_model_plays_is_tried_with_a_tiny_copy(architecture: dict, told: str, tmp_path: Path) -> None:
    """Of a config of the usual size; there are no weights."""
    size = {"hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32, "vocab_size": 100_000}
    (tmp_path / "config.json").write_text(json.dumps(size | architecture))
    config = configs.load(None, [f"model.path={tmp_path}"])
    assert told in policies.check(config)


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_an_encoder_is_refused(kind: str, tmp_path: Path) -> None:
    """It would be trained on words that it has been shown."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(IprError, match=rf"is an encoder \({kind}\).*take a model that generates"):
        policies.check(configs.load(None, [f"model.path={tmp_path}"]))


def test_what_is_to_run_is_looked_at(install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, name in (("env.data", "environment alfworld"), ("model.path", "model"), ("env.name", "environment")):
        code, found = doctor(capsys, "smoke", f"{key}={tmp_path / 'nothing'}")
        assert (code, found[name]["ok"], found[name]["needed"]) == (1, False, True)
        assert key in found[name]["fix"]
    install("plug-guess", {"guess": "ipr_guess"})
    code, found = doctor(capsys, "smoke", "env.name=guess")
    assert (code, found["environment guess"]["detail"]) == (0, "plug-guess, 1")
    assert main(["doctor", "smok"]) == 2
    assert "did you mean 'smoke'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["model.lora.rank=4", "model.lora.targets=[nosuch]"], "model.lora.targets=['nosuch'] cannot be adapted"),
        (["machine.memory=0.0001", "env.tasks=8"], "GiB on a GPU"),
        (["model.device=foo"], "model.device=foo is no device"),
        (["model.max_length=256"], "expert episodes of alfworld are longer than the context of 256 tokens"),
    ],
)
def test_what_a_run_refuses_is_told(keys: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = doctor(capsys, "smoke", *keys)
    assert (code, found["start"]["needed"]) == (1, True)
    assert told in found["start"]["detail"]
