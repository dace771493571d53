"""Whose code runs."""

from __future__ import annotations

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
