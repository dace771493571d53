"""Pairs and trajectories for other trainers; TRL itself says whether it takes them. The way back: test_imports."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from flows.cli import main
from ipr import models, store
from ipr.algorithms.pairs import pair
from ipr.config import RunConfig
from ipr.envs import get
from ipr.runs.run import Run
from ipr.types import PreferencePair, Trajectory

SPEC = get("alfworld")


def trajectories(count: int = 3) -> list[Trajectory]:
    return [SPEC.expert(i) for i in SPEC.task_ids("train")[:count]]


def pairs() -> list[PreferencePair]:
    """Expert against another expert's words, at the start and at step 1."""
    a, b, _ = trajectories()
    return [pair("outcome", a, b, 0, 1.0, "expert"), pair("step", a, b, 1, 0.5, "agent")]


def exported(format: str, source: Path, out: Path, *more: str) -> list[dict]:
    assert main(["data", "export", format, str(source), "--out", str(out), *more]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with experts and the pairs of two iterations."""
    run = Run.open(tmp_path / "run", RunConfig())
    store.save(run.folder / "experts.parquet", trajectories())
    for k, row in zip((2, 10), pairs(), strict=True):
        store.save(run.folder / f"iteration-{k}/pairs.parquet", [row])
    return run.folder


def test_pairs_are_prompt_chosen_rejected(tmp_path: Path) -> None:
    rows = exported("trl", store.save(tmp_path / "pairs.parquet", pairs()), tmp_path / "out.jsonl")
    assert [set(row) for row in rows] == [{"prompt", "chosen", "rejected"}] * 2
    prompt = [m.as_dict() for m in SPEC.prompt]
    for row, made in zip(rows, pairs(), strict=True):
        assert row["prompt"] == prompt + [asdict(m) for m in made.prompt]
        assert row["chosen"] == [asdict(m) for m in made.chosen]
        assert row["rejected"] == [asdict(m) for m in made.rejected]
        assert row["prompt"][-1]["role"] == "user"
        assert row["chosen"][0]["role"] == row["rejected"][-1]["role"] == "assistant"


def test_trl_takes_the_file(tmp_path: Path) -> None:
    utils = pytest.importorskip("trl.data_utils")
    datasets = pytest.importorskip("datasets")
    exported("trl", store.save(tmp_path / "pairs.parquet", pairs()), tmp_path / "out.jsonl")
    rows = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    tokenizer = models.load_tokenizer("embedded")
    for row, made in zip(rows, pairs(), strict=True):
        assert utils.is_conversational(row)
        assert utils.maybe_extract_prompt(row) == row
        text = utils.apply_chat_template(row, tokenizer)
        assert set(text) == {"prompt", "chosen", "rejected"}
        for side, turns in (("chosen", made.chosen), ("rejected", made.rejected)):
            whole = [*SPEC.prompt, *made.prompt, *turns]
            said = tokenizer.apply_chat_template([m.as_dict() for m in whole], tokenize=False)
            assert text["prompt"] + text[side] == said


def test_a_run_gives_the_pairs_of_all_its_iterations_and_a_stage_its_own(run: Path, tmp_path: Path) -> None:
    whole = exported("trl", run, tmp_path / "a.jsonl")
    assert whole == exported("trl", run / "iteration-2", tmp_path / "b.jsonl") + exported(
        "trl", run / "iteration-10/pairs.parquet", tmp_path / "c.jsonl"
    )


def test_messages_begin_with_the_prompt_and_end_with_the_agent(run: Path, tmp_path: Path) -> None:
    rows = exported("messages", run, tmp_path / "out.jsonl")
    assert [row["task_id"] for row in rows] == [t.task_id for t in trajectories()]
    for row, t in zip(rows, trajectories(), strict=True):
        assert row["messages"] == [m.as_dict() for m in (*SPEC.prompt, *t.history(0), *t.continuation(0))]
        assert row["messages"][-1]["role"] == "assistant"


def test_out_and_back_by_the_command(run: Path, tmp_path: Path) -> None:
    exported("messages", run, tmp_path / "out.jsonl")
    back = ["data", "import", "messages", str(tmp_path / "out.jsonl"), "--out", str(tmp_path / "back.parquet")]
    assert main(back) == 0
    assert (tmp_path / "back.parquet").read_bytes() == (run / "experts.parquet").read_bytes()


@pytest.mark.parametrize("format", ["trl", "messages"])
def test_bad_sources_are_refused(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = store.save(tmp_path / "other.parquet", trajectories() if format == "trl" else pairs())
    for source in (tmp_path / "none", other):
        assert main(["data", "export", format, str(source), "--out", str(tmp_path / "out.jsonl")]) == 2
        assert str(source) in capsys.readouterr().err


def test_the_environment_is_that_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = get("sql")
    experts = [sql.expert(i) for i in sql.task_ids("train")[:2]]
    published = store.save(tmp_path / "data" / "sql" / "experts.parquet", experts, Trajectory)
    elsewhere = store.save(tmp_path / "experts.parquet", experts, Trajectory)
    (first, _) = exported("messages", published, tmp_path / "out.jsonl")
    assert sql.prompt[0].content in json.dumps(first, ensure_ascii=False).replace("\\n", "\n")
    out = ["--out", str(tmp_path / "none.jsonl")]
    assert main(["data", "export", "messages", str(published), "--env", "alfworld", *out]) == 2
    assert "is of sql; leave --env out" in capsys.readouterr().err
    assert not (tmp_path / "none.jsonl").exists()
    assert main(["data", "export", "messages", str(elsewhere), *out]) == 0
    assert "is taken for alfworld's; name another environment with --env" in capsys.readouterr().err
    assert exported("messages", elsewhere, tmp_path / "own.jsonl", "--env", "sql")[0] == first
