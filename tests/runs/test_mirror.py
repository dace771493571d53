"""A run's folder kept in a store: what is there is whole, and another machine goes on from it (S3 is moto's server)."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from unittest import mock

import pytest

from flows.cli import main
from ipr import identity, store
from ipr.config import load
from ipr.runs import bucket, mirror
from ipr.runs.run import Run
from ipr.types import IprError


@pytest.fixture(scope="module")
def s3():
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    settings["AWS_ENDPOINT_URL"] = "http://{}:{}".format(*server.get_host_and_port())
    with mock.patch.dict(os.environ, settings):
        boto3.client("s3").create_bucket(Bucket="runs")
        yield "s3://runs/team"
    server.stop()


@pytest.fixture(params=["s3", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    where = request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "store")
    return f"{where}/{tmp_path.name}"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "EVERY", 0.05)


def begin(folder: Path, url: str, **more: str) -> Run:
    return Run.open(folder, load(None, [f"run.store={url}", *(f"{k}={v}" for k, v in more.items())]), "smoke")


def files(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for own in (".lock", mirror.MARK):
        found.pop(own, None)
    return found


def until(holds, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_another_machine_goes_on_from_what_was_finished(url: str, tmp_path: Path) -> None:
    run = begin(tmp_path / "one" / "run", url)
    large = os.urandom(12 << 20)  # in several parts
    with mirror.kept(run.folder, url):
        run.once(0, "experts", lambda: {"experts": 1})
        place = bucket.at(f"{url}/run")
        until(lambda: (found := mirror._index(place)) and "sft/experts.json" in found["files"])  # while it goes on
        (run.folder / "sft" / "model.part").write_text("half written")
        store.replace(run.folder / "sft/model/weights", lambda aside: aside.write_bytes(large))
        store.replace(run.folder / "base/model/weights", lambda aside: aside.write_bytes(large))
    whole = files(run.folder)
    del whole["sft/model.part"]
    assert len(place.keys("files/")) == len({hash(content) for content in whole.values()}), "equal contents are once"
    shutil.rmtree(run.folder)

    other = tmp_path / "two" / "run"
    assert mirror.bring(other, url, identity.of_config(run.config))
    assert files(other) == whole
    assert not mirror.bring(other, url, identity.of_config(run.config)), "nothing more to bring"
    (other / "sft/experts.json").unlink()
    assert mirror.bring(other, url)
    assert files(other) == whole


def test_what_the_run_drops_goes_from_the_store(url: str, tmp_path: Path) -> None:
    run = begin(tmp_path / "run", url)
    with mirror.kept(run.folder, url):
        store.write_text(run.folder / "sft/shards/a.parquet", "shard")
    place = bucket.at(f"{url}/run")
    before = place.keys("files/")
    run.drop_shards(0)
    with mirror.kept(run.folder, url):
        pass
    assert len(before) - len(place.keys("files/")) == 1
    assert place.read("lease.json") is None


def test_a_checkpoint_that_goes_while_it_is_sent_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url, upload = str(tmp_path / "store"), bucket._Folder.upload
    run = begin(tmp_path / "run", url)
    gone = run.folder / "sft" / "checkpoint" / "updates-000050"
    store.write_json(gone / "facts.json", {})

    def late(self: bucket._Folder, key: str, path: Path) -> None:
        shutil.rmtree(gone, ignore_errors=True)
        upload(self, key, path)

    monkeypatch.setattr(bucket._Folder, "upload", late)
    with mirror.kept(run.folder, url):
        pass
    index = mirror._index(bucket.at(f"{url}/run"))
    assert index
    assert {*index["files"]} == {*files(run.folder)}
    assert "run.store" not in caplog.text


def test_another_run_and_another_machine_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "store")
    run = begin(tmp_path / "a" / "run", url)
    with mirror.kept(run.folder, url):
        pass
    with pytest.raises(IprError, match="holds a run with another config"):
        mirror.bring(tmp_path / "b" / "run", url, identity.of_config(load(None, ["seed=1"])))
    other = begin(tmp_path / "b" / "run", url, seed="1")
    with pytest.raises(IprError, match="holds a run with another config"), mirror.kept(other.folder, url):
        pass
    monkeypatch.setattr(mirror, "LEASE", 0.3)
    place = bucket.at(f"{url}/run")
    lease = {"id": "x", "host": "elsewhere", "pid": 1, "time": time.time() + 60}
    place.write("lease.json", json.dumps(lease).encode())
    with pytest.raises(IprError, match=r"elsewhere is at this run \(process 1\)"), mirror.kept(run.folder, url):
        pass
    place.write("lease.json", json.dumps(lease | {"time": time.time() - 1}).encode())
    with mirror.kept(run.folder, url):  # its machine is gone
        pass


def test_a_file_that_takes_longer_than_the_lease_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LEASE", 1.5)
    url, upload = str(tmp_path / "store"), bucket._Folder.upload
    run = begin(tmp_path / "run", url)
    store.write_text(run.folder / "sft/model/large", "weights")

    def slow(self: bucket._Folder, key: str, path: Path) -> None:
        time.sleep(3.5 if path.name == "large" else 0)
        upload(self, key, path)

    monkeypatch.setattr(bucket._Folder, "upload", slow)
    place = bucket.at(f"{url}/run")
    with mirror.kept(run.folder, url):
        time.sleep(2.5)
        assert mirror._held(place), "the lease is renewed meanwhile"
    assert place.read("lease.json") is None
    index = mirror._index(place)
    assert index
    assert "sft/model/large" in index["files"]


def test_who_has_lost_the_lease_writes_and_deletes_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror, "LEASE", 0.5)
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    run = begin(one, url)
    store.write_text(one / "sft/checkpoint/updates-000050/facts.json", "{}")
    place = bucket.at(f"{url}/run")
    first = mirror._Mirror(one, place)  # without its threads: it stands still
    first.take()
    first.send()
    time.sleep(0.6)
    assert mirror.bring(two, url)
    with mirror.kept(two, url):
        store.write_json(two / "sft/experts.json", {})
    before = place.read("index.json"), place.keys("files/")
    run.drop_begun()
    store.write_json(one / "sft/other.json", {})
    for _ in range(2):
        first.send(last=True)
        first.leave()
    assert (place.read("index.json"), place.keys("files/")) == before
    assert "another machine has taken this run over" in caplog.text
    # The other one is at it again, and is at it still when the first one leaves.
    monkeypatch.setattr(mirror, "LEASE", 60)
    second = mirror._Mirror(two, place)
    second.take()
    late = mirror._Mirror(one, place)
    late.leave()
    assert json.loads((place.read("lease.json") or (b"{}", ""))[0])["id"] == second.lease["id"]


def test_what_another_machine_played_since_the_last_record_is_brought_back(url: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    begin(one, url)
    store.write_text(one / "sft/checkpoint/updates-000050/facts.json", "50")
    store.write_text(one / "sft/curve", "50")
    with mirror.kept(one, url):
        pass
    store.write_text(one / "sft/curve", "50 51")  # killed before it was sent
    store.write_text(one / "sft/checkpoint/updates-000051/facts.json", "51")
    assert not mirror.bring(one, url), "nobody else was at it: what is here is newer"
    assert mirror.bring(two, url)
    with mirror.kept(two, url):
        store.write_text(two / "sft/shards/a.parquet", "shard")
        store.write_text(two / "sft/checkpoint/updates-000100/facts.json", "100")
        store.write_text(two / "sft/curve", "50 100")
    assert mirror.bring(one, url)
    assert files(two).items() <= files(one).items()
    assert not mirror.bring(one, url)
    store.write_json(one / "sft/experts.json", {})
    with mirror.kept(one, url):
        pass
    (two / "sft/experts.json").write_text("{}")
    store.write_json(two / "sft/train.json", {})
    (two / "sft/curve").unlink()
    assert not mirror.bring(two, url), "it has a record that the store lacks"


def test_a_broken_file_never_takes_its_place(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    run = begin(tmp_path / "run", url)
    with mirror.kept(run.folder, url):
        run.once(0, "experts", lambda: {"experts": 1})
    for file in (tmp_path / "store/run/files").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(IprError, match="is broken: its SHA-256"):
        mirror.bring(tmp_path / "again" / "run", url)
    assert not files(tmp_path / "again" / "run")


def test_a_store_that_is_down_stops_nothing_and_is_caught_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, s3: str
) -> None:
    run = begin(tmp_path / "run", f"{s3}/down")
    with mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}), caplog.at_level(logging.INFO):
        with mirror.kept(run.folder, f"{s3}/down"):
            run.once(0, "experts", lambda: {"experts": 1})
        with pytest.raises(IprError, match="Could not connect"):
            mirror.bring(tmp_path / "other" / "run", f"{s3}/down")
    assert "the run goes on, and it is tried again" in caplog.text
    assert "lacks what was finished since" in caplog.text
    with mirror.kept(run.folder, f"{s3}/down"):
        pass
    assert mirror.bring(tmp_path / "other" / "run", f"{s3}/down")
    assert files(tmp_path / "other" / "run") == files(run.folder)


@pytest.mark.parametrize("seed", ["0", "1"])
def test_a_store_that_answers_late_keeps_what_is_further_and_what_is_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seed: str
) -> None:
    url, read, down = str(tmp_path / "store"), bucket._Folder.read, True
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    first = begin(one, url)
    with mirror.kept(one, url):
        pass
    if seed == "0":  # an older copy
        shutil.copytree(one, two)
    with mirror.kept(one, url):
        first.once(0, "experts", lambda: {"experts": 1})
        store.write_text(one / "sft/model/weights", "weights")
    place = bucket.at(f"{url}/run")
    before = place.read("index.json"), place.keys("files/")

    def late(self: bucket._Folder, key: str) -> tuple[bytes, str] | None:
        if down:
            raise IprError("no answer")
        return read(self, key)

    monkeypatch.setattr(bucket._Folder, "read", late)
    second = begin(two, url, seed=seed)
    with mirror.kept(two, url):
        until(lambda: "no answer" in caplog.text)
        down = False
        store.write_text(two / "sft/curve", "1")
    assert (place.read("index.json"), place.keys("files/")) == before
    assert ("has what" if seed == "0" else "another config") in caplog.text
    with pytest.raises(IprError, match="sync brings it" if seed == "0" else "another config"), mirror.kept(two, url):
        pass
    assert place.read("lease.json") is None, "who is refused keeps nobody waiting"
    if seed == "0":
        assert mirror.bring(two, url, identity.of_config(second.config))
        with mirror.kept(two, url):
            pass
        assert files(one).items() <= files(two).items()


def test_an_older_copy_takes_over_what_the_store_has_before_it_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    url = str(tmp_path / "store")
    one, by_sync, by_stage = (tmp_path / name / "run" for name in ("one", "two", "three"))
    first = begin(one, url)
    with mirror.kept(one, url):
        pass
    shutil.copytree(one, by_sync)
    shutil.copytree(one, by_stage)
    with mirror.kept(one, url):
        first.once(0, "experts", lambda: {"experts": 1})
        store.write_text(one / "sft/model/weights", "weights")
    assert main(["status", str(by_sync), "--sync"]) == 0
    assert main(["explore", "--dir", str(by_stage)]) == 2
    assert "no model of sft yet" in capsys.readouterr().err
    for folder in (by_sync, by_stage):
        assert files(one).items() <= files(folder).items()
    assert mirror.bring(tmp_path / "four" / "run", url)
    assert (tmp_path / "four/run/sft/model/weights").is_file()


def test_a_run_by_stages_may_change_its_config(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    before, after = (load(None, [f"run.store={url}", f"sft.epochs={n}"]) for n in (1, 2))
    run = Run.open(one, before, by_stage=True)
    with mirror.kept(one, url):
        for task in ("experts", "train"):
            run.once(0, task, lambda: {})
    shutil.copytree(one, two)
    (one / "sft/train.json").unlink()
    assert not mirror.bring(one, url, identity.of_config(after), removed=True), "DVC has removed it"
    Run.open(one, after, by_stage=True)
    assert not mirror.bring(one, url, identity.of_config(after)), "it was made with the config before"
    with mirror.kept(one, url):
        pass
    place = bucket.at(f"{url}/run")
    index = mirror._index(place)
    assert index
    assert "sft/experts.json" in index["files"]
    assert "sft/train.json" not in index["files"]
    with pytest.raises(IprError, match="another config"), mirror.kept(two, url):  # as it was before
        pass
    shutil.rmtree(two)
    assert mirror.bring(two, url, identity.of_config(after))


def test_a_folder_that_was_emptied_does_not_empty_the_store(tmp_path: Path) -> None:
    url, folder = str(tmp_path / "store"), tmp_path / "run"
    run = begin(folder, url)
    with mirror.kept(folder, url):
        run.once(0, "experts", lambda: {"experts": 1})
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != mirror.MARK:  # as `rm -r run/*` leaves it
            path.unlink()
    begin(folder, url)
    with pytest.raises(IprError, match="sync brings it"), mirror.kept(folder, url):
        pass


@pytest.mark.parametrize(
    ("url", "said"),
    [("gs://x/y", "neither an S3 bucket"), ("s3:///x", "which bucket"), ("s3://key:secret@bucket/x", "AWS_ACCESS_KEY")],
)
def test_a_store_that_cannot_be_is_named(url: str, said: str) -> None:
    with pytest.raises(IprError, match=said) as told:
        bucket.at(url)
    assert "secret" not in str(told.value).replace("AWS_SECRET", "")
