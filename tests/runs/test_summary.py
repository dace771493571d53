"""A run's figures from its records: rollouts that were saved, and where the time went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipr import config as configs
from ipr import evaluate, profiling, store
from ipr.runs import bench
from ipr.runs import report as reports
from ipr.runs.run import Run
from ipr.runs.seeds import Seeds
from ipr.runs.summary import profile, summarise
from ipr.types import Step, Trajectory

SPENT = dict.fromkeys(profiling.PARTS, 0.0) | {"seconds": 4.0, "workers": 6.0, "model": 5.0, "other": 5.0}
SPENT |= {"episodes": 40, "joined": 10, "tokens": 800, "followed": 200}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """One iteration whose records are there."""
    settings = ["algorithm.iterations=1", "eval.splits=[unseen]", "eval.bootstrap=100"]
    run = Run.open(tmp_path / "r", configs.load(None, settings))
    played = [Trajectory("g", "room", (Step("a", "b"),), 1.0, "terminated")]
    figures = evaluate.metrics(played, task_type=str, resamples=100)
    for k in (0, 1):
        for split in ("dev", "unseen"):
            store.save(run.stage(k) / "eval" / f"{split}.parquet", played)
        records = {"evaluate": dict.fromkeys(("dev", "unseen", "test"), figures), "train": {"updates": 1}}
        if k:
            records["explore"] = {"episodes": 50, "joined": 10, "profile": SPENT}
            records["reward"] = {"rollouts": {"played": 60, "reused": 5, "outcome": 0, "curtailed": 15, "gate": 80}}
        for task, facts in records.items():
            store.write_json(run.stage(k) / f"{task}.json", facts | {"seconds": 4.0})
    return run


def test_joined_episodes_count_as_saved(run: Run) -> None:
    sft, first = summarise(run, "running")["stages"]
    assert sft["rollouts"] is None
    found = first["rollouts"]
    assert (found["explored"], found["joined"], found["played"]) == (50, 10, 60)
    assert (found["total_played"], found["saved"]) == (40 + 60, 10 + 5 + 15 + 80)
    assert found["saved_share"] == pytest.approx(110 / 210)
    run.note(complete=True, identity={})
    assert bench._cost(Seeds(run.folder.parent))["episodes"] == 40 + 60


def test_episodes_that_the_context_cut_off_are_told(run: Run) -> None:
    """In the table, in Markdown (MLflow's note), in the report, and as a share among MLflow's figures."""
    assert summarise(run, "running")["warnings"] == []
    for split, full, ended in (("dev", 4, 8), ("unseen", 15, 9)):
        figures = store.read_json(run.stage(0) / "evaluate.json")
        figures[split] |= {"endings": {"overflow": full, "terminated": ended}, "games": full + ended}
        store.write_json(run.stage(0) / "evaluate.json", figures)
    explored = store.read_json(run.stage(1) / "explore.json")
    store.write_json(run.stage(1) / "explore.json", explored | {"endings": {"overflow": 5, "truncated": 45}})
    scored = store.read_json(run.stage(1) / "reward.json")
    store.write_json(run.stage(1) / "reward.json", scored | {"endings": {"overflow": 3, "terminated": 57}})
    summary = summarise(run, "running")
    context = run.config.model.max_length
    raised = f"because the context was full; raise model.max_length ({context}), or use a model with a longer context"
    assert summary["warnings"] == [
        f"sft: 19 of 36 evaluation episodes (53 %) ended {raised}",
        f"iteration-1: 5 of 50 explored episodes (10 %) ended {raised}",
        f"iteration-1: 3 of 60 scoring rollouts (5 %) ended {raised}",
    ]
    for text in (reports.table(summary), reports.markdown(summary)):
        assert all(f"WARNING: {line}" in text for line in summary["warnings"])
    store.write_json(run.folder / "summary.json", summary)
    assert f"WARNING: {summary['warnings'][0]}" in reports.write_html(run.folder).read_text()


@pytest.mark.integration
def test_the_share_that_the_context_cut_off_is_a_figure(run: Run) -> None:
    from tasks.report import _metrics

    stage = summarise(run, "running")["stages"][0]
    assert _metrics(stage)["dev/overflow"] == 0
    stage["test"] |= {"endings": {"overflow": 3, "terminated": 1}, "games": 4}
    assert _metrics(stage)["test/overflow"] == 0.75


def test_profile_has_a_row_a_task_with_rates(run: Run) -> None:
    (row,) = profile(run)
    assert (row["stage"], row["task"], row["model"]) == ("iteration-1", "explore", 5.0)
    assert (row["episodes_per_second"], row["tokens_per_second"]) == (10.0, 200.0)
    assert (row["saved_share"], row["followed_share"]) == (0.2, 0.25)


@pytest.mark.integration
def test_profile_is_written_where_it_was_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipr.tracking import Tracker
    from tasks import report

    monkeypatch.setenv("IPR_ROOT", str(run.folder.parent))
    summary = report.write(run, "running")
    assert not (run.folder / "profile.json").exists()
    assert "Where the time went" not in (run.folder / "report.html").read_text()
    assert "100 (110)" in reports.table(summary)
    run.note(profile=True)
    report.write(run, "running")
    assert [row["task"] for row in store.read_json(run.folder / "profile.json")] == ["explore"]
    assert "Where the time went" in (run.folder / "report.html").read_text()
    tracker = Tracker(run.folder, run.config.track, run.folder.parent)
    for _ in range(2):  # once, however often it is tracked
        report._profile(run, tracker)
    sent = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    (event,) = [e for e in sent if e["kind"] == "metrics"]
    assert event["step"] == 1
    assert event["values"]["profile/explore/model"] == 5.0
    assert event["values"]["profile/explore/saved_share"] == 0.2
