"""The GPU benchmark runs; its figures need a GPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from ipr.engine import kv


def test_engines_run_tiny_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--sizes", "tiny", "--context", "100", "--steps", "6", "--rows", "1", "3"]
    assert gpu.main(["engines", "--device", "cpu", *sizes, "--json", str(tmp_path / "f.jsonl")]) == 0
    found = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [(row["engine"], row["rows"]) for row in found] == [
        ("ours", 1),
        ("transformers", 1),
        ("ours", 3),
        ("transformers", 3),
    ]
    model = gpu.make("tiny", gpu.argparse.Namespace(context=100, steps=6, compile=False), torch.device("cpu"))
    # 2 layers, keys and values of 2 heads of 16 numbers, 2 bytes each. Five passes after the prompt, or six where its
    # last token is fed after what rows share.
    each = kv.bytes_a_token(model, model.dtype)
    assert each == 2 * 2 * 2 * 16 * 2
    read = [gpu.bytes_of(model) + each * kept for kept in (103.0, 102.0 + 101.0 + 100.0)]
    ours = [row for row in found if row["engine"] == "ours"]
    assert [row["gigabytes_a_pass"] for row in ours] == pytest.approx([bytes / 1e9 for bytes in read], rel=0.01)
    assert all(row["pass_share"] > 0 and row["decode"] > 0 for row in ours)
    assert "tiny         3 transformers" in capsys.readouterr().out


def test_a_model_is_compared_with_transformers() -> None:
    assert gpu.same("llama", gpu.families()["llama"](), torch.device("cpu"), rows=3, steps=6)


def test_without_a_gpu_it_says_what_to_do() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="--device cpu --sizes tiny"):
        gpu.main(["engines"])


def test_a_part_of_the_session_that_is_none_is_refused() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "gpu_session.sh"
    done = subprocess.run(["sh", script, "check", "engine"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no part 'engine'; parts: check, loop, engines, training\n"
