"""The benchmark of engines gives each the same work; its figures need the engines."""

from __future__ import annotations

from pathlib import Path

from benchmarks import engines


def test_a_turn_reads_what_was_written_and_what_was_then_seen() -> None:
    asked: list[list[list[int]]] = []

    def write(prompts: list[list[int]], turn: int) -> list[list[int]]:
        asked.append([list(ids) for ids in prompts])
        return [[7, 4], [8, 9]]

    work = {"samples": 2, "turns": 2, "end": 4}
    assert engines.play(work, [{"prompt": [1, 2], "seen": [[5, 6]]}], write) == 8
    assert asked == [[[1, 2], [1, 2]], [[1, 2, 7, 4, 5, 6], [1, 2, 8, 9, 4, 5, 6]]]


def test_an_engine_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    assert engines.run("vllm", None, tmp_path) == "not installed"
    assert engines.run("vllm", str(tmp_path / "python"), tmp_path) == "not installed"
