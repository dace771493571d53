"""Data sets under DVC, for real: git clones, folders without git, remotes that are down, S3 (moto's server)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

from ipr import store
from ipr.apps import data_commands
from ipr.data import datasets
from ipr.types import IprError


@pytest.fixture(autouse=True)
def _environment():
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with mock.patch.dict(os.environ, settings | {"DVC_NO_ANALYTICS": "1"}):
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def make(folder: Path, text: str = "expert") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "some.parquet"
    path.write_text(text)
    return path


def generate(text: str):
    def write(data: Path) -> None:
        target = data / "toy" / "experts.parquet"
        target.parent.mkdir(parents=True)
        target.write_text(text)

    return write


def configure(root: Path, url: str, **settings: str) -> None:
    lines = ["[core]", "    analytics = false", "    remote = r", "['remote \"r\"']", f"    url = {url}"]
    lines += [f"    {key} = {value}" for key, value in settings.items()]
    (root / ".dvc").mkdir(exist_ok=True)
    (root / ".dvc/config").write_text("\n".join(lines) + "\n")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


# Without DVC ---------------------------------------------------------------------------------------------------------


def test_verify_names_what_is_missing(root: Path):
    assert "no data.dvc" in datasets.verify(root)[0]
    (root / "data.dvc").write_text(f"outs:\n- md5: {'0' * 32}.dir\n  hash: md5\n  path: data\n")
    assert "data/ is missing" in datasets.verify(root)[0]


def test_a_data_dvc_with_a_merge_conflict_is_named(root: Path):
    (root / "data.dvc").write_text("outs:\n<<<<<<< HEAD\n- md5: a\n=======\n- md5: b\n>>>>>>> x\n")
    with pytest.raises(IprError, match="not a DVC file"):
        datasets.recorded(root)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_only_paths_under_data_are_published(root: Path, tmp_path: Path, name: str):
    with pytest.raises(IprError, match="not a path under data/"):
        datasets.publish(root, {name: make(tmp_path)})


def test_nothing_to_publish_and_missing_files_are_named(root: Path):
    with pytest.raises(IprError, match="nothing to publish"):
        datasets.publish(root, {})
    with pytest.raises(IprError, match="no file"):
        datasets.publish(root, {"a": root / "gone"})


def test_a_busy_project_is_waited_for_and_then_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "LOCK_WAIT", 0.2)
    with datasets.alone(root), pytest.raises(IprError, match="another process is publishing"):
        datasets.publish(root, {"a": make(tmp_path)})


def test_every_column_is_explained():
    text = (Path(__file__).parents[2] / "docs/data.md").read_text()
    explained = {name for row in re.findall(r"^\| ([a-z_, ]+) \|", text, re.M) for name in row.split(", ")}
    assert {name for schema in store.SCHEMAS.values() for name in schema.names} - explained == set()


def test_without_data_dvc_data_is_generated(root: Path):
    datasets.ensure(root, generate("expert"))
    assert (root / "data/toy/experts.parquet").read_text() == "expert"
    assert [p.name for p in root.iterdir()] == ["data"]


def test_the_experts_of_all_environments_are_always_the_same(root: Path):
    assert set(data_commands.EXPERTS) == {"alfworld", "sql", "webshop"}
    for env in data_commands.EXPERTS:
        once, again = (data_commands.generate_experts(root / place, env, 3) for place in ("once", "again"))
        assert datasets.md5_of(once) == datasets.md5_of(again)


# With DVC ------------------------------------------------------------------------------------------------------------

integration = pytest.mark.integration


@integration
def test_publish_in_a_folder_without_git(root: Path, tmp_path: Path):
    first = datasets.publish(root, {"toy/experts.parquet": make(tmp_path)})
    assert first.pushed
    assert first.files == {"toy/experts.parquet": datasets.md5_of(tmp_path / "some.parquet")}
    before = (root / "data.dvc").stat().st_mtime_ns
    assert datasets.publish(root, {"toy/experts.parquet": tmp_path / "some.parquet"}) == first
    assert (root / "data.dvc").stat().st_mtime_ns == before, "publishing the same again writes nothing"

    pairs = make(tmp_path / "é b", "pairs")
    second = datasets.publish(root, {"toy/run/iteration-1/pairs.parquet": pairs, "toy.x/ü": pairs, "toy/a": pairs})
    md5, files = datasets.hashes(root)
    assert md5 == second.md5 == datasets.recorded(root), "our md5 of a folder is DVC's"
    assert set(files) == {"toy/experts.parquet", "toy/run/iteration-1/pairs.parquet", "toy.x/ü", "toy/a"}
    assert datasets.verify(root) == []

    (root / "data/toy/a").write_text("changed")
    (root / "data/toy.x/ü").unlink()
    make(root / "data/new")
    assert datasets.verify(root) == [
        "not in data.dvc: data/new/some.parquet",
        "missing: data/toy.x/ü",
        "changed: data/toy/a",
    ]
    assert not datasets.pull_newest(root), "what is not published is never overwritten"
    assert (root / "data/toy/a").read_text() == "changed"

    restored = datasets.restore(root, first.md5, tmp_path / "out" / "old")
    assert [p.relative_to(restored).as_posix() for p in restored.rglob("*.parquet")] == ["toy/experts.parquet"]
    one = datasets.restore(root, datasets.md5_of(pairs), tmp_path / "one.parquet")
    assert one.read_text() == "pairs"
    with pytest.raises(IprError, match="not empty"):
        datasets.restore(root, first.md5, restored)
    assert not list(root.glob(".ipr-*"))


@integration
def test_published_data_reach_a_clone_through_a_shared_remote(root: Path, tmp_path: Path):
    git(root, "init", "-q")
    (root / ".gitignore").write_text("/data/\n")
    configure(root, str(tmp_path / "remote"))
    (root / ".dvc/.gitignore").write_text("/tmp\n/cache\n")
    published = datasets.publish(root, {"toy/experts.parquet": make(tmp_path)})
    assert published.pushed
    assert (root / ".gitignore").read_text() == "/data/\n"
    git(root, "add", "-A")
    git(root, "commit", "-qm", "data")
    git(tmp_path, "clone", "-q", str(root), "clone")
    clone = tmp_path / "clone"
    datasets.pull(clone)
    assert datasets.hashes(clone)[0] == published.md5
    assert git(clone, "status", "--porcelain") == ""

    # A colleague publishes; the first pulls what the new data.dvc names.
    newer = datasets.publish(clone, {"toy/run/iteration-1/pairs.parquet": make(tmp_path / "b", "pairs")})
    (root / "data.dvc").write_bytes((clone / "data.dvc").read_bytes())
    assert datasets.pull_newest(root)
    assert datasets.hashes(root)[0] == newer.md5

    # The same project as an archive, without its history.
    git(tmp_path, "clone", "-q", str(root), "archive")
    (tmp_path / "archive/.git").rename(tmp_path / "git-aside")
    datasets.pull(tmp_path / "archive")
    assert datasets.hashes(tmp_path / "archive")[0] == published.md5


@integration
def test_a_fresh_clone_without_the_remote_generates_and_checks(root: Path, tmp_path: Path):
    configure(root, str(tmp_path / "remote"))
    datasets.ensure(root, generate("expert"))
    wanted = datasets.publish(root, {}).md5
    clone = tmp_path / "clone"
    (clone / ".dvc").mkdir(parents=True)
    configure(clone, str(tmp_path / "nowhere"))
    (clone / "data.dvc").write_bytes((root / "data.dvc").read_bytes())

    with pytest.raises(IprError, match="can be generated here"):
        datasets.ensure(clone, generate("another generator"))
    assert not (clone / "data").exists()
    datasets.ensure(clone, generate("expert"))
    assert datasets.verify(clone) == []
    # Generated data are not in DVC's cache; publishing puts them there.
    assert datasets.publish(clone, {}).pushed
    assert datasets.restore(clone, wanted, tmp_path / "again").is_dir()


@integration
def test_a_remote_that_is_down_costs_a_warning_and_gets_everything_later(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    configure(root, "s3://bucket/x", endpointurl="http://127.0.0.1:9")
    first = datasets.publish(root, {"toy/experts.parquet": make(tmp_path)})
    second = datasets.publish(root, {"toy/more.parquet": make(tmp_path, "more")})
    assert (first.pushed, second.pushed) == (False, False)
    assert "no answer from http://127.0.0.1:9" in caplog.text
    assert not datasets.publish(root, {}, remote="typo").pushed
    assert "no DVC remote typo; known: r" in caplog.text
    with pytest.raises(IprError, match=r"no answer from http://127.0.0.1:9"):
        datasets.reach_remote(root)
    datasets.check_remote(root, "r")  # it is known, which is all that a run asks before it starts
    with pytest.raises(IprError, match=r"no DVC remote typo; known: r; add it: dvc remote add typo URL"):
        datasets.check_remote(root, "typo")

    configure(root, str(tmp_path / "remote"))
    assert datasets.publish(root, {}).pushed
    other = tmp_path / "other"
    other.mkdir()
    configure(other, str(tmp_path / "remote"))
    for published, count in ((first, 1), (second, 2)):
        restored = datasets.restore(other, published.md5, tmp_path / f"restored-{count}")
        assert len(list(restored.rglob("*.parquet"))) == count, "older data sets wait for the remote too"


@integration
def test_s3(root: Path, tmp_path: Path):
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bucket")
        configure(root, "s3://bucket/ipr", endpointurl=endpoint)
        published = datasets.publish(root, {"toy/experts.parquet": make(tmp_path)})
        assert published.pushed
        clone = tmp_path / "clone"
        clone.mkdir()
        configure(clone, "s3://bucket/ipr", endpointurl=endpoint)
        (clone / "data.dvc").write_bytes((root / "data.dvc").read_bytes())
        datasets.pull(clone)
        assert datasets.verify(clone) == []
        with pytest.raises(IprError, match="cannot bring"):
            datasets.restore(clone, "0" * 32 + ".dir", tmp_path / "no")
        assert datasets.reach_remote(clone) == "r: s3://bucket/ipr"
        configure(clone, "s3://other/ipr", endpointurl=endpoint)
        with pytest.raises(IprError, match="no bucket other"):
            datasets.reach_remote(clone)
    finally:
        server.stop()


@integration
def test_processes_and_threads_publish_at_the_same_time(root: Path, tmp_path: Path):
    datasets.publish(root, {"toy/experts.parquet": make(tmp_path)})
    code = (
        "import sys; from pathlib import Path; from ipr.data import datasets\n"
        "root, source, name = map(Path, sys.argv[1:])\n"
        "datasets.publish(root, {f'toy/{name}-{i}.parquet': source for i in range(3)})"
    )
    source = make(tmp_path / "more", "more")
    others = [subprocess.Popen([sys.executable, "-c", code, str(root), str(source), f"p{i}"]) for i in range(2)]
    threads = [threading.Thread(target=datasets.publish, args=(root, {f"toy/t{i}.parquet": source})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(120) for other in others] == [0, 0]
    assert datasets.verify(root) == []
    assert len(datasets.hashes(root)[1]) == 1 + 2 * 3 + 2
    assert json.loads((root / ".dvc/tmp/ipr.json").read_text())["waiting"] == []
