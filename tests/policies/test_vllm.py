"""The policy against `ipr serve`, which speaks vLLM's protocol with a real model, also as a process of the run.

Against vLLM itself: `make test-vllm`, tests/vllm.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import torch

import flows
import ipr
from ipr import config as configs
from ipr import models, policies
from ipr.apps.serve_command import adapter
from ipr.config import EndpointConfig, LoraConfig, ModelConfig, RunConfig
from ipr.policies import local, vllm, vllm_server
from ipr.policies.chat import ChatPolicy
from ipr.policies.openai import Server
from ipr.rollout import play
from ipr.types import IprError, Job, Message, Prefix, Sampling, Trajectory, Turn
from tests import toy
from tests.chat_server import scripted, serving

GREEDY, SAMPLED = Sampling(0.0, 12), Sampling(1.0, 12)
MODEL = ModelConfig(device="cpu", max_length=300, lora=LoraConfig(rank=4))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, two adapters on it, and another whole model."""
    root = tmp_path_factory.mktemp("models")
    found = {name: models.save_model(toy.model(seed), toy.tokenizer(), root / name) for seed, name in enumerate("bo")}
    for seed, name in enumerate(("sft", "iteration-1")):
        found[name] = models.save_model(toy.adapted(found["b"], MODEL, seed), toy.tokenizer(), root / name)
    return found


def settings(url: str | None = None, vllm: str | None = None, workers: int = 1, **model: Any) -> RunConfig:
    rollout = {"backend": "vllm", "slots": 8, "endpoint": url, "vllm": vllm, "workers": workers}
    fields = {"model": MODEL.model_dump() | model, "rollout": rollout, "endpoint": {"retries": 0}}
    return configs.validate(fields, "test")


def here(folder: Path, model: ModelConfig = MODEL) -> ChatPolicy:
    """What our own engine plays of a folder."""
    return local.load(str(folder), "local", RunConfig(model=model))


@pytest.fixture(scope="module")
def url(folders: dict[str, Path]) -> Iterator[str]:
    """The base behind `ipr serve`, with the routes for adapters."""
    base = str(folders["b"])
    with serving(
        here(folders["b"]), "base", base, lambda f: adapter(f, base, settings(), folders["b"].parent)
    ) as found:
        yield f"{found}/v1"


def turns(count: int = 4, seeds: Sequence[int] = (3, 4, 5, 9)) -> list[Turn]:
    """Two samples of a prompt and more, and a longer conversation."""
    talk = (Message("user", "Find it."), Message("assistant", "go to box 1"), Message("user", "You see nothing."))
    return [Turn(talk[:1] if i < 3 else talk, seed, f"s{i}") for i, seed in zip(range(count), seeds, strict=True)]


def episodes(policy: Any, sampling: Sampling) -> list[Trajectory]:
    jobs = [Job(Prefix(task_id), seed) for seed, task_id in enumerate(toy.task_ids("dev")[:4])]
    return play(toy.spec(max_steps=4), policy, jobs, sampling, slots=3)


def told(trajectories: list[Trajectory]) -> list[Any]:
    return [(t.steps, t.ending, t.reward, t.invalid) for t in trajectories]


def test_a_server_plays_what_is_played_here_also_with_adapters_changed_while_it_runs(
    folders: dict[str, Path], url: str
) -> None:
    answers = set()
    for name in ("b", "sft", "iteration-1", "sft"):
        hosted, ours = policies.load(str(folders[name]), name, settings(url)), here(folders[name])
        for sampling in (GREEDY, SAMPLED):
            found = hosted.generate(turns(), sampling)
            assert found == ours.generate(turns(), sampling), "token by token"
            assert told(episodes(hosted, sampling)) == told(episodes(ours, sampling))
            answers.add((name, found[0].token_ids))
    assert len(answers) == 6, "another adapter says something else"
    listed = [card.id for card in openai.OpenAI(base_url=url, api_key="none").models.list()]
    assert [name.rsplit("-", 1)[0] for name in listed] == ["base", "sft", "iteration-1"]


def test_an_adapter_that_the_server_has_lost_is_loaded_again(folders: dict[str, Path], url: str) -> None:
    hosted = policies.load(str(folders["sft"]), "sft", settings(url))
    before = hosted.generate(turns(), SAMPLED)
    client = openai.OpenAI(base_url=url, api_key="none")
    (name,) = (card.id for card in client.models.list() if card.id.startswith("sft-"))
    client.post("/unload_lora_adapter", body={"lora_name": name}, cast_to=str)
    assert hosted.generate(turns(), SAMPLED) == before
    assert name in [card.id for card in client.models.list()]


def test_a_full_context_ends_the_episode(folders: dict[str, Path], url: str) -> None:
    config, short = settings(url, max_length=90), MODEL.model_copy(update={"max_length": 90})
    hosted = policies.load(str(folders["b"]), "b", config)
    found = episodes(hosted, GREEDY)
    assert {t.ending for t in found} == {"overflow"}
    assert told(found) == told(episodes(here(folders["b"], short), GREEDY))


# What is refused ------------------------------------------------------------------------------------------------------


def test_a_run_is_checked_before_it_starts(folders: dict[str, Path], url: str, tmp_path: Path) -> None:
    path, runs = str(folders["b"]), folders["b"].parent

    def refused(said: str, config: RunConfig, folder: Path = runs / "new" / "run") -> None:
        with pytest.raises(IprError, match=said):
            vllm.check(config, folder)

    before = sorted(runs.iterdir())
    assert vllm.check(settings(url, path=path), runs / "new" / "run") == url
    assert vllm.check(settings(url, path="champion"), None) == url, "its model is not known yet"
    assert sorted(runs.iterdir()) == before, "the throw-away adapter is gone"
    assert len(openai.OpenAI(base_url=url, api_key="none").models.list().data) <= 3, "and unloaded"
    refused(
        r"does not take an adapter of rank 8 \(.*greater than 4.*; start it with: .*--max-lora-rank 8",
        settings(url, path=path, lora={"rank": 8}),
    )
    refused("finds no adapter in .*must see the run's folder", settings(url, path=path), tmp_path)
    refused(r"cannot reach .*rollout\.endpoint", settings("http://127.0.0.1:9/v1", path=path))
    refused(
        f"serves base.*, not {folders['o']}; start it with: .*vllm serve {folders['o']}",
        settings(url, path=str(folders["o"])),
    )
    refused(r"takes 300 tokens.* up to 400 .*--max-model-len 400", settings(url, path=path, max_length=400))
    refused(r"train adapters .model\.lora\.rank", settings(url, path=path, lora={"rank": 0}))
    with serving(here(folders["b"]), path) as plain:
        refused(r"loads no adapters .*UPDATING=True", settings(plain, path=path))
    with pytest.raises(IprError, match=r"set rollout\.backend=vllm too"):
        policies.check(configs.load(None, ["rollout.endpoint=http://127.0.0.1:8000/v1"]))
    with pytest.raises(IprError, match=r"unknown backend 'vlm'; did you mean 'vllm'"):
        policies.load(path, "b", configs.load(None, ["rollout.backend=vlm"]))


def test_a_server_without_token_ids_is_one_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(folders["b"])  # what the server lists
    choice = {"index": 0, "text": "words", "finish_reason": "stop", "logprobs": None}
    body = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    with scripted(lambda *_: (200, {}, body)) as url, pytest.raises(IprError, match=r"vLLM 0\.10\.2"):
        policies.load("m", "m", settings(url)).generate(turns(), GREEDY)


_CARD = {"object": "model", "created": 1, "owned_by": "vllm"}


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, {"object": "list", "data": []}, "does not list its models; it must be vLLM"),
        (200, {"models": [{"name": "m"}]}, "does not list its models; it must be vLLM"),
        (200, b"<html>Sign in</html>", "does not list its models; it must be vLLM"),
        (401, {"error": "Unauthorized"}, r"refuses the key \(401 Unauthorized\); set OPENAI_API_KEY"),
        (404, b"<html>Not found</html>", r"refuses the request \(404 and a web page.*\); it must be vLLM"),
        (404, {"detail": "Not Found"}, r"refuses the request \(404 Not Found\); it must be vLLM"),
        (200, {"data": [_CARD | {"id": "m", "root": "/other"}]}, "serves m, not .*; start it with: .*vllm serve"),
        (200, {"data": [_CARD | {"id": f"m{i}"} for i in range(30)]}, "serves m0, .*, m7 and 22 others, not "),
    ],
)
def test_odd_lists_of_models_are_one_line(
    status: int, body: Any, told: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with scripted(lambda *_: (400, {}, {}), (status, {}, body)) as url:
        for path in (
            str(folders["b"]),
            *(["champion"] if "serves" not in told else []),
        ):  # which model is not known yet
            with pytest.raises(IprError, match=told):
                vllm.check(settings(url, path=path), tmp_path)


@pytest.mark.parametrize("ids", ["ab", [None, 2], [1.0], [-1], {"a": 1}])
def test_ids_that_are_none_are_one_line(
    ids: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(folders["b"])  # what the server lists
    choice = {"index": 0, "text": "words", "finish_reason": "stop", "logprobs": None, "token_ids": ids}
    body = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    with scripted(lambda *_: (200, {}, body)) as url, pytest.raises(IprError, match="token ids that are none"):
        policies.load("m", "m", settings(url)).generate(turns(), GREEDY)


def test_a_server_that_limits_answers_is_one_line_and_no_full_context(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(folders["b"])  # what the server lists
    choice = {"index": 0, "text": "a", "finish_reason": "length", "logprobs": None, "token_ids": [5] * 7}
    body = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    said = r"\(length\) after 7 of the 12 tokens asked for; .* --generation-config vllm .*rollout\.max_new_tokens"
    with scripted(lambda *_: (200, {}, body)) as url:
        policy = policies.load("m", "m", settings(url))
        with pytest.raises(IprError, match=said):
            policy.generate(turns(), GREEDY)
        assert {one.finish for one in policy.generate(turns(), Sampling(0.0, 7))} == {"length"}


def test_an_adapter_that_cannot_be_loaded_is_one_line(folders: dict[str, Path], url: str, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)

    def post(route: str, **body: str) -> str:
        return client.post(f"/{route}_lora_adapter", body=body, cast_to=str)

    for folder in (tmp_path / "none", folders["o"]):
        with pytest.raises(openai.NotFoundError, match="No adapter found"):
            post("load", lora_name="a", lora_path=str(folder))
    post("load", lora_name="a", lora_path=str(folders["sft"]))
    with pytest.raises(openai.BadRequestError, match="already been loaded"):
        post("load", lora_name="a", lora_path=str(folders["sft"]))
    post("unload", lora_name="a")
    with pytest.raises(openai.NotFoundError, match="'a' cannot be found"):
        post("unload", lora_name="a")
    with pytest.raises(openai.NotFoundError, match="`a` does not exist"):
        client.completions.create(model="a", prompt=[5, 6])


def test_completions_are_vllms(folders: dict[str, Path], url: str) -> None:
    client: Any = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    prompts: list[list[int]] = [here(folders["b"]).chat.prompt(turn.conversation) for turn in turns()[2:]]
    more = {"return_token_ids": True}

    def ask(prompt: Any, **fields: Any) -> list[Any]:
        asked = client.completions.create(model="base", prompt=prompt, max_tokens=9, **{"extra_body": more} | fields)
        return [choice.model_dump()["token_ids"] for choice in asked.choices]

    samples = ask(prompts, n=2, seed=5)
    assert samples == [*ask(prompts[0], n=2, seed=5), *ask(prompts[1], seed=5), *ask(prompts[1], seed=6)]
    answer = client.completions.create(model="base", prompt=prompts[0], temperature=0)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompts[0]), 16)
    for fields, said in (
        ({"prompt": "words"}, "prompt"),
        ({"prompt": [10**6]}, "out of vocabulary"),
        ({"prompt": [5] * 301}, "context length is 300"),
        ({"extra_body": {"stop_token_ids": [99]}}, "do not end a turn"),
        ({"extra_body": {"top_k": 5}}, "not supported"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.completions.create(**{"model": "base", "prompt": prompts[0]} | fields)


# A server that the run starts -----------------------------------------------------------------------------------------

AS_VLLM = """#!/bin/sh
# `ipr serve` with vLLM's name and flags: serve MODEL --max-model-len N ... --host H --port P
model=$2
while [ $# -gt 0 ]; do
  case $1 in --max-model-len) length=$2 ;; --port) port=$2 ;; esac
  shift
done
export IPR_API_KEY=$VLLM_API_KEY PYTHONPATH={path}
exec {python} -m flows.cli serve $model --port $port --adapters {inside} model.device=cpu model.max_length=$length
"""
ANSWERS = """#!{python}
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

open({mark!r}, "w").write(str(os.getpid()))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def executable(place: Path, text: str) -> str:
    place.write_text(text)
    place.chmod(0o755)
    return str(place)


@pytest.fixture
def _stopped() -> Iterator[None]:
    yield
    while vllm._kept:
        vllm._kept.pop()[1].stop()


@pytest.mark.usefixtures("_stopped")
def test_the_run_starts_a_server_and_keeps_it_while_adapters_change(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the output of the one that dies stays
    path = f"{Path(flows.__path__[0]).parent}:{Path(ipr.__path__[0]).parent}"
    text = AS_VLLM.format(path=path, python=sys.executable, inside=folders["b"].parent)
    config = settings(vllm=executable(tmp_path / "vllm", text), path=str(folders["b"]))
    assert "that the run starts" in policies.check(config, tmp_path)
    processes = []
    for name in ("b", "sft", "iteration-1", "sft"):
        policy = policies.load(str(folders[name]), name, config)
        for sampling in (GREEDY, SAMPLED):
            assert policy.generate(turns(), sampling) == here(folders[name]).generate(turns(), sampling)
            policies.rest()
        processes.append(vllm._kept[0][1])
    assert len({id(one) for one in processes}) == 1, "one server for all adapters"
    # It dies: the next request says why, the next stage has a new one.
    psutil.Process(processes[0]._process.pid).children()[0].kill()
    with pytest.raises(IprError, match="vLLM has ended"):
        policy.generate(turns(), GREEDY)
    again = policies.load(str(folders["sft"]), "sft", config)
    assert again.generate(turns(), GREEDY) == here(folders["sft"]).generate(turns(), GREEDY)


def test_a_server_takes_the_share_of_a_gpu_that_is_counted(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(vllm, "VllmProcess", lambda executable, flags, **_: given.append(flags))
    monkeypatch.setattr(vllm, "_kept", [])
    monkeypatch.setattr(models, "device", lambda _: torch.device("cuda", 0))
    vllm._process(vllm._Need(str(folders["b"]), 4, 300, settings(vllm=sys.executable)))
    assert given[0][given[0].index("--gpu-memory-utilization") + 1] == "0.9" == str(vllm_server.SHARE)


def test_the_server_is_on_the_gpu_that_the_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(number: int | None) -> str | None:
        return vllm_server._environment(["/opt/vllm"], "key", True, number).get("CUDA_VISIBLE_DEVICES")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (seen(None), seen(1)) == (None, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7e")
    assert (seen(None), seen(0), seen(1)) == ("4,GPU-7e", "4", "GPU-7e")
    with pytest.raises(IprError, match=r"model\.device=cuda:2, but CUDA_VISIBLE_DEVICES=4,GPU-7e names 2 GPUs"):
        seen(2)


def test_the_server_of_a_killed_run_ends_with_it(tmp_path: Path) -> None:
    server = executable(tmp_path / "vllm", ANSWERS.format(python=sys.executable, mark=str(tmp_path / "pid")))
    code = (
        "import sys, time\nfrom ipr.policies.vllm_server import VllmProcess\n"
        f"VllmProcess([{server!r}], [], sleeps=False)\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    env = os.environ | {"TMPDIR": str(tmp_path)}  # its output stays
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    pid = int((tmp_path / "pid").read_text())
    assert psutil.pid_exists(pid)
    run.kill()
    run.communicate()
    try:
        psutil.Process(pid).wait(60)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the server lives"


def test_the_runs_own_server_is_asked_past_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(vllm_server, "_PATIENCE", 30)
    server = executable(tmp_path / "vllm", ANSWERS.format(python=sys.executable, mark=str(tmp_path / "pid")))
    vllm_server.VllmProcess([server], [], sleeps=False).stop()

    def listed(url: str, key: str | None) -> list[str]:
        asked = Server(url, EndpointConfig(retries=0), "rollout.vllm", "", key)
        return [model.id for model in asked.client.models.list()]

    with scripted(lambda *_: (200, {}, {})) as url:
        assert listed(url, "our own") == ["m"]
        with pytest.raises(openai.APIConnectionError):  # an endpoint of somebody else may lie behind the proxy
            listed(url, None)


PREFIX = "(EngineCore pid=7) ERROR 11-30 08:26:24 [core.py:9] "
SAID = {
    "RuntimeError: no offset": [
        "(APIServer pid=5) WARNING 11-30 08:21:47 [utils.py:255] this can cause `OSError: [Errno 24] Too many`.",
        PREFIX + "Traceback (most recent call last):",
        PREFIX + "RuntimeError: no offset",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ],
    "vllm: error: unrecognized arguments: --no-such-flag": [
        "usage: vllm [-h] [-v]",
        "vllm: error: unrecognized arguments: --no-such-flag",
    ],
    "pydantic_core.ValidationError: 1 validation error for ModelConfig: Value error, no such type": [
        "pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, no such type",
    ],
    "Killed": ["loading", "Killed", ""],
    "it said nothing": [],
}


@pytest.mark.parametrize("cause", SAID)
def test_what_vllm_says_becomes_one_line(cause: str) -> None:
    assert vllm_server.cause(SAID[cause]) == cause


def test_a_server_that_does_not_start_is_one_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # its output stays
    path = str(folders["b"])
    server = executable(tmp_path / "vllm", "#!/bin/sh\necho 'ValueError: out of memory'\nexit 1\n")
    with pytest.raises(IprError, match=r"vLLM did not start \(ValueError: out of memory\); its output: /") as error:
        policies.load(path, "b", settings(vllm=server))
    output = Path(str(error.value).rpartition(" ")[2])
    assert output.read_text() == "ValueError: out of memory\n"
    executable(tmp_path / "vllm", "#!/bin/sh\necho '  Value error, Sleep mode is not supported on this platform.'\n")
    with pytest.raises(IprError, match=r"no sleep mode on this platform.*rollout\.endpoint"):
        policies.load(path, "b", settings(vllm=server))


def test_where_vllm_runs_has_to_be_said(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(folders["b"])
    for ask in (lambda c: vllm.check(c, None), lambda c: policies.load(path, "b", c)):
        with pytest.raises(IprError, match=r"rollout\.vllm=PATH .*rollout\.endpoint=http"):
            ask(settings())
        with pytest.raises(IprError, match=r"leave one of them out"):
            ask(settings("http://127.0.0.1:9/v1", vllm="vllm"))
    with pytest.raises(IprError, match=r"rollout\.vllm=/nowhere/vllm is no executable"):
        vllm.check(settings(vllm="/nowhere/vllm"), None)
    with pytest.raises(IprError, match=r"rollout\.workers=2: each starts a vLLM .* here are 0 GPUs; use 1, or one"):
        vllm.check(settings(vllm=sys.executable, workers=2), None)
    monkeypatch.setattr(models, "gpus", lambda _: ["0", "1"])
    assert "a server that the run starts" in vllm.check(settings(vllm=sys.executable, workers=2), None)
    with pytest.raises(IprError, match=r"rollout\.workers=3: .* here are 2 GPUs; use 2"):
        vllm.check(settings(vllm=sys.executable, workers=3), None)
    with pytest.raises(IprError, match=r"rank=600 is more than vLLM takes"):
        vllm.check(settings(vllm=sys.executable, lora={"rank": 600}), None)
    with pytest.raises(IprError, match=r"rollout\.vllm is a server; set rollout\.backend=vllm too"):
        policies.check(configs.load(None, ["rollout.vllm=vllm"]))
    assert vllm_server.find(sys.executable) == [sys.executable, "-m", "vllm.entrypoints.cli.main"]


def test_end_tokens_of_the_config_alone_are_sent(folders: dict[str, Path], tmp_path: Path) -> None:
    """As our own engine takes them, where a model has no generation_config.json."""
    folder = tmp_path / "model"
    shutil.copytree(folders["b"], folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [5, 7]}))
    model = models.load_model(str(folder), MODEL)
    own = local.policy(model, models.load_tokenizer(str(folder)), "b", max_length=300, slots=8)
    assert {5, 7} <= set(own.engine.ends)
    with serving(own, str(folder)) as url:
        assert vllm.load(str(folder), "b", settings(url)).engine.ends == own.engine.ends
