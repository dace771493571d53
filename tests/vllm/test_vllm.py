"""vLLM itself, its CPU build in an environment of its own (`make test-vllm`), started by our code.

What it refuses, and how; that it plays what our engine plays; that what would stop a run later is found before it; and
a run that is killed and continued.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import torch

from ipr import config as configs
from ipr import models, policies, store
from ipr.config import RunConfig
from ipr.policies import local, vllm
from ipr.policies.vllm_server import VllmProcess
from ipr.types import IprError, Message, Sampling, Trajectory, Turn
from tests.living import alive
from tests.vllm import agents, bad_requests

VLLM = Path(__file__).parents[2] / ".venv-vllm/bin/vllm"
GREEDY, SAMPLED = Sampling(0.0, 12), Sampling(1.0, 12)

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(3000),  # it starts five times, each in half a minute on a core of its own
    pytest.mark.skipif(not VLLM.is_file(), reason=f"no vLLM in {VLLM.parent}: make test-vllm installs it"),
]


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Little memory and one thread, here and for vLLM; what a test started ends with the last one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)
    while vllm._kept:
        vllm._kept.pop()[1].stop()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    agents.make(folder)
    return folder


def settings(base: Path, rank: int = agents.RANK_THERE, url: str | None = None) -> RunConfig:
    model = agents.MODEL.model_dump() | {"path": str(base), "lora": {"rank": rank}}
    where = {"endpoint": url} if url else {"vllm": str(VLLM)}
    fields = {"model": model, "rollout": {"backend": "vllm", "slots": 8} | where, "endpoint": {"retries": 0}}
    return configs.validate(fields, "test")


def process() -> VllmProcess:
    """The one that was started last."""
    return vllm._kept[0][1]


def turns() -> list[Turn]:
    talk = (Message("user", "Find it."), Message("assistant", "go to box 1"), Message("user", "You see nothing."))
    return [Turn(talk[: 1 if i < 3 else 3], seed, f"s{i}") for i, seed in enumerate((3, 4, 5, 9))]


def test_it_plays_what_our_engine_plays_with_adapters_changed_while_it_runs(root: Path) -> None:
    config, said = settings(root / "base"), []
    policies.check(config, root)
    started = set()
    for name in ("base", "sft", "iteration-1", "sft"):
        hosted = policies.load(str(root / name), name, config)
        ours = local.load(str(root / name), name, RunConfig(model=config.model))
        said.append(hosted.generate(turns(), GREEDY))
        assert said[-1] == ours.generate(turns(), GREEDY), "token by token"
        assert hosted.generate(turns(), SAMPLED) == hosted.generate(turns(), SAMPLED), "by the seeds"
        policies.rest()
        started.add(id(process()))
    assert len(started) == 1
    assert said[1] == said[3]
    assert len({one[0].token_ids for one in said}) == 3, "another adapter says something else"


def test_it_takes_an_agent_that_is_exported_merged(root: Path) -> None:
    models.export(root / "sft", root / "merged", merge=True)
    hosted = policies.load(str(root / "merged"), "merged", settings(root / "merged"))
    adapter = local.load(str(root / "sft"), "sft", RunConfig(model=settings(root / "base").model))
    assert hosted.generate(turns(), GREEDY) == adapter.generate(turns(), GREEDY), "token by token"


def test_long_prompts_with_seeds_do_not_end_its_engine(root: Path) -> None:
    """Together longer than what a pass reads: in pieces, they did."""
    policy = policies.load(str(root / "base"), "base", settings(root / "base"))
    asked = [Turn((Message("user", f"Find {i}. " * 20),), i, i) for i in range(60)]
    assert all(one.token_ids for one in policy.generate(asked, SAMPLED))


def test_what_it_refuses_is_on_record(root: Path) -> None:
    policies.load(str(root / "base"), "base", settings(root / "base"))
    found = bad_requests.played(process().url, process().key, str(root / "base"), root)
    assert found == json.loads(bad_requests.ANSWERS.read_text()), json.dumps(found, indent=2)


def test_an_adapter_that_it_cannot_take_is_found_before_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies.load(str(root / "base"), "base", settings(root / "base"))
    url = f"{process().url}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", process().key)
    assert policies.check(settings(root / "base", url=url), root / "run") == url
    with pytest.raises(IprError, match=r"adapter of rank 16 .*greater than max_lora_rank 8.*--max-lora-rank 16"):
        policies.check(settings(root / "base", 16, url), root / "run")
    assert not [card.id for card in openai.OpenAI(base_url=url).models.list() if card.id.startswith("check-")]
    assert not list(root.glob(".adapter-*"))
    # Another one, without --enable-lora.
    policies.load(str(root / "base"), "base", settings(root / "base", 0))
    url = f"{process().url}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", process().key)
    with pytest.raises(IprError, match=r"LoRA is not enabled.*start it with: .*--enable-lora"):
        policies.check(settings(root / "base", url=url), root / "run")


def test_a_start_that_fails_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm._Need, "flags", lambda _: [str(root / "base"), "--no-such-flag"])
    with pytest.raises(IprError, match=r"did not start \(vllm: error: .*--no-such-flag\); its output: ") as error:
        policies.load(str(root / "base"), "base", settings(root / "base", 16))
    Path(str(error.value).rpartition(" ")[2]).unlink()


def test_a_run_is_killed_and_continued(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    run = tmp_path / "runs" / "it"
    tiny = ["env.tasks=4", "env.max_steps=6", "eval.games=2", "eval.dev_games=2", "rollout.max_new_tokens=16"]
    tiny += ["algorithm.iterations=1", "algorithm.samples=2", "algorithm.tau=0", "rollout.slots=16"]
    asked = [*tiny, "model.lora.rank=4", "rollout.backend=vllm", f"rollout.vllm={VLLM}", "model.max_length=2048"]
    command = [sys.executable, "-m", "flows.cli", "run", "smoke", "--dir", str(run), "--json", *asked]
    hidden = ("PREFECT_", "MLFLOW_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | {
        "IPR_ROOT": str(tmp_path)
    }

    killed = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(lambda: (run / "sft" / "model").is_dir(), killed)
    servers = [
        one for one in psutil.Process(killed.pid).children(recursive=True) if "kept.py" in " ".join(one.cmdline())
    ]
    below = [one for server in servers for one in [server, *server.children(recursive=True)]]
    assert len(below) > 2, "what keeps it, the server, its engine"
    played = (run / "base" / "eval" / "dev.parquet").read_bytes()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    wait(lambda: not any(alive(one) for one in below))

    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert [stage["name"] for stage in summary["stages"]] == ["base", "sft", "iteration-1"]
    assert (run / "base" / "eval" / "dev.parquet").read_bytes() == played, "it went on, and did not begin anew"
    explored = store.load(run / "iteration-1" / "explored.parquet", Trajectory)
    assert explored
    assert {trajectory.policy for trajectory in explored} == {"sft"}
    assert (run / "iteration-1" / "model" / "adapter_model.safetensors").is_file()


def wait(until: Any, process: subprocess.Popen | None = None, seconds: float = 2000) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert process is None or process.poll() is None, "the run ended"
        assert time.monotonic() < end
        time.sleep(0.1)
