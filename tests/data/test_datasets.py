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
from ipr.data import datasets, objects
from ipr.types import IprError, Step, Trajectory


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


def dvc(folder: Path, *arguments: str) -> str:
    asked = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(asked, cwd=folder, check=True, capture_output=True, text=True).stdout


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
    monkeypatch.setattr(objects, "LOCK_WAIT", 0.2)
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
    again = datasets.publish(root, {"toy/experts.parquet": tmp_path / "some.parquet"})
    assert again == first, "publishing the same again makes no version"
    assert datasets.recorded(root) == first.md5, "a new project's data.dvc"

    pairs = make(tmp_path / "é b", "pairs")
    second = datasets.publish(root, {"toy/run/iteration-1/pairs.parquet": pairs, "toy.x/ü": pairs, "toy/a": pairs})
    md5, files = datasets.hashes(root)
    assert md5 == second.md5
    assert datasets.recorded(root) == first.md5, "publishing leaves data.dvc to a person"
    assert datasets.commit(root)["data.dvc"] == md5
    assert "up to date" in dvc(root, "status"), "our md5 of a folder is DVC's"
    assert set(files) == {"toy/experts.parquet", "toy/run/iteration-1/pairs.parquet", "toy.x/ü", "toy/a"}
    assert datasets.verify(root) == []

    (root / "data/toy/a").write_text("changed")
    (root / "data/toy.x/ü").unlink()
    make(root / "data/new")
    assert datasets.verify(root) == [
        "new: data/new/some.parquet",
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

    # A colleague publishes: no commit is needed for the first to have it, and no checkout is changed.
    newer = datasets.publish(clone, {"toy/run/iteration-1/pairs.parquet": make(tmp_path / "b", "pairs")})
    assert datasets.pull_newest(root)
    assert datasets.hashes(root)[0] == newer.md5
    assert git(clone, "status", "--porcelain") == git(root, "status", "--porcelain") == ""
    assert [v.number for v in datasets.history(root)] == [1, newer.version]
    datasets.pull(root, "1")
    assert datasets.hashes(root)[0] == published.md5

    # data.dvc is committed by a person, also to end a merge conflict.
    datasets.pull(root)
    assert datasets.commit(root)["commit"] == git(root, "rev-parse", "HEAD").strip()
    datasets.publish(clone, {"toy/run/iteration-2/pairs.parquet": make(tmp_path / "b", "more pairs")})
    assert datasets.commit(clone, "mine")["commit"]
    with pytest.raises(subprocess.CalledProcessError):
        git(clone, "pull", "-q", "--no-rebase")
    with pytest.raises(IprError, match=r"git checkout HEAD -- data\.dvc") as told:
        datasets.verify(clone)
    assert "ipr data pull, ipr data commit" in str(told.value)
    datasets.pull(clone)
    assert "git commit" in datasets.commit(clone)["note"]
    git(clone, "commit", "-qm", "merged")
    assert datasets.recorded(clone) == datasets.history(clone)[-1].md5

    # The same project as an archive, without its history; the version that data.dvc names, and the newest.
    git(tmp_path, "clone", "-q", str(root), "archive")
    archive = tmp_path / "archive"
    (archive / ".git").rename(tmp_path / "git-aside")
    datasets.ensure(archive, generate("what is there is not made"))
    assert datasets.hashes(archive)[0] == newer.md5 == datasets.recorded(archive)
    datasets.pull(archive)
    assert datasets.hashes(archive)[0] == datasets.history(root)[-1].md5


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
    newer = datasets.publish(clone, {"toy/run/pairs.parquet": make(tmp_path, "pairs")})
    assert newer.pushed
    assert [v.md5 for v in datasets.history(clone)] == [wanted, newer.md5], "the first version is what was there"
    assert datasets.restore(clone, wanted, tmp_path / "again").is_dir()


@integration
def test_the_first_version_is_what_is_in_data(root: Path, tmp_path: Path):
    """Where data.dvc names what nobody has any more, and in a project that has no data.dvc yet."""
    unknown = f"outs:\n- md5: {'0' * 32}.dir\n  path: data\n"
    for name, named in (("mine", unknown), ("new", None)):
        for case, files in (("hand", {}), ("run", {"toy/run/pairs.parquet": make(tmp_path, "pairs")})):
            folder, clone = tmp_path / name / case, tmp_path / name / f"{case}-clone"
            for checkout in (folder, clone):
                checkout.mkdir(parents=True)
                configure(checkout, str(tmp_path / name / f"{case}-remote"))
            if named:
                (folder / "data.dvc").write_text(named)
            generate("own")(folder / "data")
            with_experts = {"toy/experts.parquet", *files}
            assert datasets.publish(folder, files, message="mine").pushed
            versions = datasets.history(folder)
            assert versions[0].changed.keys() == {"toy/experts.parquet"}
            assert versions[-1].message == "mine"
            (clone / "data.dvc").write_bytes((folder / "data.dvc").read_bytes())
            datasets.pull(clone, str(versions[-1].number))
            assert datasets.hashes(clone)[1].keys() == with_experts
    (tmp_path / "empty/data").mkdir(parents=True)
    configure(tmp_path / "empty", str(tmp_path / "empty-remote"))
    (tmp_path / "empty/data.dvc").write_text(unknown)
    with pytest.raises(IprError, match="nothing to publish"):
        datasets.publish(tmp_path / "empty", {})


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


def rows(path: Path, *numbers: int, start: int = 0) -> Path:
    episodes = [Trajectory(f"train-{n}", "first", (Step("a", "o"),), 1.0, "terminated", start=start) for n in numbers]
    return store.save(path, episodes, Trajectory)


@pytest.fixture(scope="module")
def endpoint():
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    where = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=where, **keys).create_bucket(Bucket="shared")
    yield where
    server.stop()


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Two checkouts with one remote (a folder, or S3 where that is asked for), which has a first version."""
    both = tmp_path / "a", tmp_path / "b"
    for folder in both:
        folder.mkdir()
        if getattr(request, "param", "folder") == "s3":
            where = request.getfixturevalue("endpoint")
            configure(folder, f"s3://shared/{tmp_path.name}", endpointurl=where)
        else:
            configure(folder, str(tmp_path / "remote"))
    datasets.publish(both[0], {"toy/experts.parquet": rows(tmp_path / "first", 1, 2)})
    (both[1] / "data.dvc").write_bytes((both[0] / "data.dvc").read_bytes())
    datasets.pull(both[1])
    return both


@integration
@pytest.mark.parametrize("two", ["s3", "folder"], indirect=True)
def test_two_publishers_lose_nothing(two: tuple[Path, Path], tmp_path: Path):
    def run(folder: Path, seed: int) -> None:
        file = rows(tmp_path / f"{folder.name}.parquet", seed, 1)
        for place in ("toy/nightly", f"toy/{folder.name}"):
            mine = {f"{place}/iteration-1/explored.parquet": file}
            datasets.publish(folder, mine, place=place, aside=f"{place}-{folder.name}", message=place)

    threads = [threading.Thread(target=run, args=(folder, seed)) for seed, folder in enumerate(two, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for folder in two:
        datasets.pull(folder)
        assert datasets.verify(folder) == []
    md5, files = datasets.hashes(two[0])
    assert md5 == datasets.hashes(two[1])[0]
    # Each has its own folder, and the one that both wanted is the first's; the other's is beside it.
    names = {name.removesuffix("/explored.parquet") for name in files} - {"toy/experts.parquet"}
    beside = names & {"toy/nightly-a/iteration-1", "toy/nightly-b/iteration-1"}
    assert len(beside) == 1
    assert names - beside == {f"toy/{name}/iteration-1" for name in ("a", "b", "nightly")}
    found = datasets.history(two[0])
    assert [v.number for v in found] == list(range(1, 6))
    assert found[-1].rows == {"toy": {"experts": 2, "explored": 8}}
    assert len({v.checkout for v in found}) == 2
    assert all(v.author and v.date.endswith("Z") for v in found)


@integration
def test_hand_made_changes_meet(two: tuple[Path, Path], tmp_path: Path):
    """Another file is merged, rows are appended to the newest, and the same file is left to a person."""
    a, b = two
    datasets.publish(a, {}, rows={"toy/experts.parquet": rows(tmp_path / "traces", 2, 3)}, message="traces")
    datasets.publish(b, {}, rows={"toy/experts.parquet": rows(tmp_path / "more", 4)})
    ids = [t.task_id for t in store.load(b / "data/toy/experts.parquet", Trajectory)]
    assert ids == ["train-1", "train-2", "train-3", "train-4"]
    rows(b / "data/toy/notes.parquet", 1)
    assert datasets.publish(b, {}, message="by hand").version == 4

    rows(a / "data/toy/experts.parquet", 9)
    with pytest.raises(IprError, match=r"data/toy/experts.parquet was changed here and, meanwhile, in the newest"):
        datasets.publish(a, {})
    with pytest.raises(IprError, match=r"changed by hand \(changed: data/toy/experts.parquet\)"):
        datasets.pull(a)
    assert [t.task_id for t in store.load(a / "data/toy/experts.parquet", Trajectory)] == ["train-9"]
    # A run is not held up by that, and what was changed by hand stays.
    assert datasets.publish(a, {"toy/run/pairs.parquet": rows(tmp_path / "run", 1)}).version == 5
    assert [t.task_id for t in store.load(a / "data/toy/experts.parquet", Trajectory)] == ["train-9"]

    frame = datasets.difference(b, "1", "5")
    told = {(row.table, row.change, row.task_id) for row in frame.itertuples()}
    assert told == {
        ("experts", "came", "train-3"),
        ("experts", "came", "train-4"),
        ("notes", "came", "train-1"),
        ("pairs", "came", "train-1"),
    }
    assert set(datasets.difference(b, "4", "1").change) == {"went"}
    with pytest.raises(IprError, match="no version 77"):
        datasets.difference(b, "77", "1")


@integration
def test_rows_appended_after_a_clash_are_not_written_over(two: tuple[Path, Path], tmp_path: Path):
    a, b = two
    rows(b / "data/toy/experts.parquet", 7)
    rows(a / "data/toy/experts.parquet", 8, 9)
    datasets.publish(a, {})
    for _ in range(2):  # the second time this checkout is the last that published the file
        with pytest.raises(IprError, match="move data/ away, then: ipr data pull, and append your rows"):
            datasets.publish(b, {})
        datasets.publish(b, {}, rows={"toy/experts.parquet": b / "data/toy/experts.parquet"})
    (b / "data").rename(tmp_path / "away")
    datasets.pull(b)
    ids = [t.task_id for t in store.load(b / "data/toy/experts.parquet", Trajectory)]
    assert ids == ["train-8", "train-9", "train-7"]


@integration
def test_what_was_never_here_is_not_removed(two: tuple[Path, Path], tmp_path: Path):
    a, _ = two
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    configure(fresh, str(tmp_path / "remote"))
    (fresh / "data.dvc").write_bytes((a / "data.dvc").read_bytes())
    rows(fresh / "data/other/experts.parquet", 3)
    assert datasets.publish(fresh, {}, message="one environment").version == 2
    datasets.pull(a)
    assert {*datasets.hashes(a)[1]} == {"toy/experts.parquet", "other/experts.parquet"}
    # Once it has been here it can be.
    (a / "data/toy/experts.parquet").unlink()
    datasets.publish(a, {})
    assert {*datasets.hashes(a)[1]} == {"other/experts.parquet"}


@integration
def test_data_stay_where_a_version_cannot_be_had(two: tuple[Path, Path], tmp_path: Path):
    a, b = two
    before = datasets.hashes(b)
    # A colleague has committed before his push.
    objects_missing = f"outs:\n- md5: {'1' * 32}.dir\n  hash: md5\n  path: data\n"
    (b / "data.dvc").write_text(objects_missing)
    with pytest.raises(IprError, match="has yet to push it"):
        datasets.pull(b)
    with pytest.raises(IprError, match="has yet to push it"):
        datasets.pull(b, "1" * 32)
    assert datasets.hashes(b) == before
    (b / "data.dvc").write_bytes((a / "data.dvc").read_bytes())

    # An object of the cache is broken: nothing of it comes to data/.
    file = rows(tmp_path / "new", 7)
    newer = datasets.publish(a, {"toy/new.parquet": file})
    md5 = datasets.md5_of(file)
    broken = b / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    broken.parent.mkdir(parents=True)
    broken.write_text("broken")
    broken.chmod(0o444)  # as DVC has those that it has checked
    with pytest.raises(IprError, match="is broken; remove it and pull again"):
        datasets.pull(b)
    assert datasets.hashes(b) == before
    assert not list(b.glob(".ipr-*"))
    broken.unlink()
    assert datasets.pull(b) == datasets.history(a)[newer.version - 1]  # type: ignore[operator]
    with pytest.raises(IprError, match="no version 99"):
        datasets.pull(b, "99")


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
