"""Which episodes go to MLflow: a drawn sample, the same one whenever it is drawn."""

from __future__ import annotations

from pathlib import Path

from ipr import store
from ipr.runs.episodes import Episodes
from ipr.tracking.traces import write_sample
from tests.runs.laid import lay


def test_a_sample_is_drawn_with_the_seed(tmp_path: Path) -> None:
    run = lay(tmp_path / "run", problems=3, iterations=1)

    def drawn(stage: str, most: int) -> list[dict]:
        return store.read_json(write_sample(Episodes(run), stage, most, tmp_path / "traces.json"))

    first = drawn("iteration-1", 10)
    assert first == drawn("iteration-1", 10)
    assert [e["kind"] for e in first] == ["explored"] * 5 + ["evaluated"] * 5
    for episode in first[:5]:
        scored = episode["steps"][episode["start"]]
        assert scored["n"] == len(scored["samples"]) == 5
    # An evaluated game is drawn in every stage, so that stages can be compared.
    games = [(e["split"], e["task_id"]) for e in first[5:]]
    assert games == [(e["split"], e["task_id"]) for e in drawn("sft", 5)]
    # No more than there are, and evaluated ones where nothing was explored.
    assert len(drawn("sft", 1000)) == 24
    assert len(drawn("iteration-1", 1000)) == 24 + 15
    assert [e["kind"] for e in drawn("iteration-1", 30)].count("explored") == 15
    assert drawn("iteration-1", 0) == []
