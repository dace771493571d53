"""Whose code runs, and whether in several processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ipr.runs import project


def test_the_commit_is_of_the_packages_checkout_and_of_no_other(tmp_path: Path, monkeypatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    code = tmp_path / "src" / "project.py"
    code.parent.mkdir()
    code.write_text("code")
    git("init", "-q")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "-qm", "another project, in which an environment lies")
    assert project.code_state(code) == {}
    git("add", "-A")
    git("commit", "-qm", "code")
    assert project.code_state(code) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    code.write_text("changed")
    assert project.code_state(code)["dirty"]
    # The working directory is another repository.
    before = project.code_state()
    monkeypatch.chdir(tmp_path)
    assert project.code_state() == before != project.code_state(code)


def test_ranks_count_only_under_the_launcher(monkeypatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "x", "LOCAL_RANK": "3", "PMI_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert project.launched() == 1
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE"} & os.environ.keys()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert project.launched() == 2
