"""The GPU benchmark runs; its figures need a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu


def test_it_runs_tiny_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    sizes = ["--context", "100", "--steps", "6", "--batches", "1", "3"]
    found = gpu.main(["--device", "cpu", "--parameters", "tiny", *sizes, "--json", str(tmp_path / "f.json")])
    torch.set_num_threads(before)
    assert [row["rows"] for row in found["rows"]] == [1, 3]
    # Five passes after the prompt, or six where its last token is fed after what rows share. 2 layers, keys and values
    # of 2 heads of 16 numbers, 2 bytes each.
    assert found["key_values_a_token"] == 2 * 2 * 2 * 16 * 2
    read = [found["weights"] + kept * 256 for kept in (103, 102.5 + 101.5 + 100.5)]
    assert [row["gigabytes_a_pass"] for row in found["rows"]] == pytest.approx([bytes / 1e9 for bytes in read])
    assert all(row["pass"] > row["engine"] > 0 for row in found["rows"])
    assert json.loads((tmp_path / "f.json").read_text())["rows"] == found["rows"]
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_without_a_gpu_it_says_what_to_do() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="--device cpu --parameters tiny"):
        gpu.main([])
