"""What a scheduled run takes: new problems, another number, or nothing."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ipr import models, store
from ipr.apps import schedule
from ipr.apps.schedule import Claim, Next, Skipped
from ipr.runs import bucket
from ipr.runs.run import FIRST_BASE
from ipr.types import IprError
from tests import toy

POOL = [f"train/{k}" for k in range(7)]
OVERRIDES = ["env.tasks=3", "data.publish=false", "track.enabled=false"]


def claim(number: int, *problems: str, **changed) -> Claim:
    made = Claim(
        number, f"smoke-{number}", "smoke", 1, "model", "data", "config", 0, True, problems, time.time(), done=True
    )
    return replace(made, **changed)


def test_the_least_explored_are_chosen_until_nothing_could_be_new() -> None:
    wanted = claim(0)
    known: list[Claim] = []
    for number in (1, 2):
        chosen = schedule.choose(POOL, known, 3, wanted)
        assert isinstance(chosen, list)
        assert chosen == POOL[3 * number - 3 : 3 * number]
        known.append(claim(number, *chosen))
    assert schedule.choose(POOL, known, 3, wanted) == [POOL[0], POOL[1], POOL[6]], (
        "what is new, then the least explored"
    )
    known.append(claim(3, POOL[6]))
    skipped = schedule.choose(POOL, known, 3, wanted)
    assert isinstance(skipped, Skipped)
    assert "smoke-3 had the same start, data and config, and all 7 problems" in skipped.why
    for changed in ({"start": "new champion"}, {"data": "new data"}, {"config": "other"}):
        assert schedule.choose(POOL, known, 3, replace(wanted, **changed)) == POOL[:3]
    # A run that died with its problems: they are taken up again, a day later.
    died = [*known[:-1], replace(known[-1], done=False)]
    assert isinstance(schedule.choose(POOL, died, 3, wanted), Skipped)
    later = schedule.choose(POOL, died, 3, replace(wanted, time=time.time() + 2 * schedule.DAY))
    assert isinstance(later, list)
    assert POOL[6] in later


def test_what_was_brought_is_explored_first() -> None:
    pool = schedule.traces_first(POOL, ["train/5", "of no split"])
    assert pool == ["train/5", *(i for i in POOL if i != "train/5")]
    assert schedule.choose(pool, [claim(1, *POOL[:2])], 2, claim(0)) == ["train/5", "train/2"]


def test_history_is_of_the_remote_and_of_folders(tmp_path: Path) -> None:
    place, runs = "ipr/schedules/ipr-agent", tmp_path / "runs"
    shared = bucket.at(str(tmp_path / "remote"))
    folder = runs / "smoke-1"
    store.write_text(folder / "config.yaml", "{}")
    store.write_json(folder / "schedule.json", claim(1, "train/1", done=False))
    found = schedule.history(None, place, runs)
    assert [(c.number, c.done) for c in found] == [(1, False)], "a folder alone"
    shared.write(f"{place}/000001.json", schedule._content(claim(1, "train/2", run="of-another-checkout")))
    store.write_json(folder / "manifest.json", {"complete": True})
    found = schedule.history(shared, place, runs)
    assert {(c.run, c.number) for c in found} == {("of-another-checkout", 1), ("smoke-1", 2)}, "the next number"
    assert all(c.done for c in found)
    assert shared.keys(place) == [f"{place}/000001.json", f"{place}/000002.json"], "what the remote lacked is there now"
    (folder / "schedule.json").unlink()
    assert schedule.history(shared, place, runs) == found, "the folder is gone"
    assert schedule.history(shared, "ipr/schedules/another", runs) == []


def test_two_checkouts_share_numbers_and_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presets = Path(__file__).parents[2] / "flows" / "configs"
    monkeypatch.setattr(schedule, "champion_info", lambda *_: None)
    found: list[Next | Skipped] = []
    overrides = [*OVERRIDES, f"run.store={tmp_path / 'store'}"]

    def start(name: str) -> None:
        found.append(schedule.next_run("smoke", overrides, tmp_path / name / "runs", tmp_path / name, presets))

    threads = [threading.Thread(target=start, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claims = [store.read_json(one.folder / "schedule.json") for one in found if isinstance(one, Next)]
    assert sorted(c["number"] for c in claims) == [1, 2, 3]
    assert len({c["seed"] for c in claims}) == 3
    assert len({p for c in claims for p in c["problems"]}) == 9
    assert {one.config.seed for one in found if isinstance(one, Next)} == {c["seed"] for c in claims}


def test_a_remote_that_is_down_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(*_):
        raise IprError("no answer from the remote")

    monkeypatch.setattr(schedule, "champion_info", lambda *_: None)
    monkeypatch.setattr(schedule, "_shared", down)
    presets = Path(__file__).parents[2] / "flows" / "configs"
    for number in (1, 2):
        found = schedule.next_run("smoke", OVERRIDES, tmp_path / "runs", tmp_path, presets)
        assert isinstance(found, Next)
        assert found.folder.name.startswith(f"smoke-{number:04d}-")
        store.write_text(found.folder / "config.yaml", found.config.to_yaml())
        store.write_json(found.folder / "manifest.json", {"preset": "smoke", "complete": number == 1})
    assert "history is that of" in caplog.text
    again = schedule.next_run("smoke", OVERRIDES, tmp_path / "runs", tmp_path, presets)
    assert again == found, "an unfinished one is continued"
    other = schedule.next_run("smoke", [*OVERRIDES, "track.registered_model=b"], tmp_path / "runs", tmp_path, presets)
    assert isinstance(other, Next)
    assert other.folder != found.folder, "by the same policy alone"


def test_a_run_starts_from_the_champion_of_its_own_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presets = Path(__file__).parents[2] / "flows" / "configs"
    base = models.save_model(toy.model(), toy.tokenizer(), tmp_path / "base")
    champion = {"folder": models.save_model(toy.model(1), toy.tokenizer(), tmp_path / "champion"), "tags": {}}
    monkeypatch.setattr(schedule, "champion_info", lambda *_: champion)
    overrides = [o for o in OVERRIDES if o != "track.enabled=false"] + [f"model.path={base}", "sft.epochs=2"]

    def begun() -> Next:
        found = schedule.next_run("smoke", overrides, tmp_path / "runs", tmp_path, presets)
        assert isinstance(found, Next)
        return found

    for known in ({}, {FIRST_BASE: models.model_hash(base)}):
        champion["tags"] = known
        found = begun()
        assert (found.config.model.path, found.config.sft.epochs) == ("champion", 0)
        assert store.read_json(found.folder / "schedule.json")["base"] == models.model_hash(base)
    champion["tags"] = {FIRST_BASE: "another"}
    with pytest.raises(
        IprError, match=r"of 'ipr-agent' was trained from another model than .*track\.registered_model="
    ):
        begun()


def test_an_endpoint_that_is_no_address_is_told(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(IprError, match=r"s3://b/x.*Invalid endpoint: minio:9000"):
        bucket.at("s3://b/x").keys("")
