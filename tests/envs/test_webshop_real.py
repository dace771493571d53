"""Files in the published form, made here: reading, goals, splits, the cache, bad files."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from ipr import envs
from ipr.envs import checker
from ipr.envs.webshop import check_data, real
from ipr.envs.webshop.analysis import terms
from ipr.envs.webshop.catalogue import document
from ipr.envs.webshop.generate import products
from ipr.envs.webshop.real import Folder, members
from ipr.envs.webshop.reward import Score
from ipr.types import IprError


def record(number: int, **changes: Any) -> dict[str, Any]:
    """A product of the generated shop in the form of the published file."""
    p = products()[number]
    made = {
        "asin": p.asin,
        "name": p.title,
        "query": f" {p.query.title()} ",
        "category": p.category,
        "product_category": p.product_category,
        "pricing": p.price_tag.replace(" to ", ""),
        "customization_options": {
            name.title(): [{"value": v.upper(), "image": None} for v in vs] for name, vs in p.options
        },
        "small_description": list(p.bullets),
        "full_description": p.description,
        "images": [],
        "total_reviews": "3",
    }
    return {**made, **changes}


def attributes(number: int) -> dict[str, Any]:
    p = products()[number]
    words = f"Find me {p.attributes[0]} {p.query}"
    return {"attributes": list(p.attributes), "instruction": words, "instruction_attributes": [p.attributes[0]]}


def wish(number: int) -> str:
    p = products()[number]
    return f"i want {p.attributes[0]} {p.query}, {' and '.join(values[0] for _, values in p.options)}"


def human(number: int, **changes: Any) -> dict[str, Any]:
    p = products()[number]
    made = {
        "asin": p.asin,
        "instruction": f"{wish(number)}.",
        "attributes": list(p.attributes),
        "options": [f"{name}: {values[0]}" for name, values in p.options],
        "instruction_attributes": [p.attributes[0]],
        "instruction_options": [values[0] for _, values in p.options],
        "worker_id": "w",
    }
    return {**made, **changes}


NUMBERS = list(range(0, 4000, 50))


def lay(folder: Path, with_human: bool = True, records: list[Any] | None = None, kind: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    asins = {n: products()[n].asin for n in NUMBERS}
    records = [record(n) for n in NUMBERS] if records is None else records
    (folder / f"items_shuffle{kind}.json").write_text(json.dumps(records))
    (folder / f"items_ins_v2{kind}.json").write_text(json.dumps({asins[n]: attributes(n) for n in NUMBERS}))
    if with_human:
        told = {asins[n]: [human(n), human(n, instruction_attributes=[])] for n in NUMBERS[::2]}
        (folder / "items_human_ins.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ipr" / "webshop"


def all_goals(folder: Folder) -> list[real.Goal]:
    return [folder.goal(i) for s in ("test", "dev", "train") for i in folder.task_ids(s)]


def test_a_product_as_it_is_read() -> None:
    made = record(
        0,
        query=" Running Shoes ",
        pricing="$1,019.50$2,030.00",
        customization_options={"Size": [{"value": " A/B "}, {"value": "Xl"}], "Color": None},
        small_description="one",
        full_description=None,
    )
    product = real._product(made, None, str.split)
    assert (product.query, product.price_tag) == ("running shoes", "$1019.5 to $2030.0")
    assert 1019.5 < product.price < 2030.0
    assert product.price == real._product(made, None, str.split).price
    assert product.options == (("size", ("a | b", "xl")),)
    assert (product.bullets, product.description, product.attributes) == (("one",), "", ())
    assert product.nouns == tuple(made["name"].split())
    for none in (None, ""):
        assert real._product({**made, "pricing": none}, ["x"], str.split).price_tag == "$100.0"


def test_options_of_one_name_in_lower_case_are_one() -> None:
    """As in the original, which keeps them in a dict: the first's place, the last's values."""
    given = {"Size": [{"value": "S"}, {"value": "M"}], "Color": [{"value": "Red"}], "SIZE": [{"value": "L"}]}
    product = real._product(record(0, customization_options=given), None, str.split)
    assert product.options == (("size", ("l",)), ("color", ("red",)))


def test_what_is_searched() -> None:
    product = real._product(record(0, small_description=["First", "Second"]), None, str.split)
    words = document(product)
    assert words.startswith(product.title.lower())
    assert " first color: " in words
    assert ", and size: " in words
    assert "second" not in words


def test_human_goals(tmp_path: Path, cache: Path) -> None:
    folder = Folder(lay(tmp_path / "data"))
    goals = all_goals(folder)
    assert len(goals) == len(NUMBERS[::2])  # one of each two instructions has no attributes
    for goal in goals:
        product = next(p for p in products() if p.asin == goal.asin)
        price = folder.catalogue().product(0).price and next(
            q.price for q in map(folder.catalogue().product, range(len(NUMBERS))) if q.asin == goal.asin
        )
        number = products().index(product)
        assert goal.instruction == f"{wish(number)}, and price lower than {goal.price_upper:.2f} dollars"
        assert goal.options == tuple(values[0] for _, values in product.options)
        assert 0 < goal.price_upper - price <= 40
        assert goal.price_upper % 10 == 0


def test_synthetic_goals_are_all_combinations(tmp_path: Path, cache: Path) -> None:
    folder = Folder(lay(tmp_path / "data", with_human=False))
    goals = all_goals(folder)
    expected = 0
    for number in NUMBERS:
        product = products()[number]
        count = 1
        for _, values in product.options:
            count *= len(values)
        own = [g for g in goals if g.asin == product.asin]
        assert len(own) == len({g.options for g in own}) == count
        expected += count
    assert len(goals) == expected > 400
    two = next(g for g in goals if len(g.options) == 2)
    (first, a), (second, b) = two.options
    assert first < second
    assert f" with {first}: {a}, and {second}: {b}, and price lower than " in two.instruction


def test_the_official_order(tmp_path: Path, cache: Path) -> None:
    """Products in the file's order, combinations with the last option changing first, shuffled with seed 233."""
    folder = Folder(lay(tmp_path / "data", with_human=False))
    listed = []
    for number in NUMBERS:
        groups = sorted(products()[number].options)
        chosen: list[tuple[tuple[str, str], ...]] = [()]
        for name, values in groups:
            chosen = [(*before, (name, value)) for before in chosen for value in values]
        listed += [(products()[number].asin, options) for options in chosen]
    random.seed(233)
    random.shuffle(listed)
    assert [(g.asin, g.options) for g in all_goals(folder)] == listed


def test_splits(tmp_path: Path, cache: Path) -> None:
    folder = Folder(lay(tmp_path / "data", with_human=False))
    test, dev, train, seen, unseen = (folder.task_ids(s) for s in ("test", "dev", "train", "seen", "unseen"))
    total = len(test) + len(dev) + len(train)
    assert [*test, *dev, *train] == [f"goal/{k:06d}" for k in range(total)]
    assert len(test) == len(dev) == total // 4
    assert sorted(seen + unseen) == test
    trained = {folder.goal(i).asin for i in train}
    assert {folder.goal(i).asin in trained for i in seen} == {True}
    assert {folder.goal(i).asin in trained for i in unseen} <= {False}
    with pytest.raises(IprError, match="split 'valid'"):
        folder.task_ids("valid")
    for wrong in ("goal/999999", "goal/1", "goal/\u0661\u0661\u0661\u0661\u0661\u0661", "train/000000"):
        with pytest.raises(IprError, match="is no goal of this data"):
            folder.goal(wrong)


def index(data: Path, train: Any, test: Any) -> Path:
    for split, numbers in (("train", train), ("test", test)):
        (data / f"{split}_indices.json").write_text(json.dumps(numbers))
    return data


def test_published_index_files(tmp_path: Path, cache: Path) -> None:
    """Goals 3 and 40 are in both; dev is of the others."""
    data = lay(tmp_path / "data", with_human=False)
    total = len(all_goals(Folder(data)))
    folder = Folder(index(data, [*range(100, 200), 3, 40], [40, 9, 3, *range(20, 30)]))
    assert folder.task_ids("train") == [f"goal/{k:06d}" for k in (*range(100, 200), 3, 40)]
    assert folder.task_ids("test") == folder.task_ids("official-13")
    assert folder.task_ids("official-13")[:4] == ["goal/000040", "goal/000009", "goal/000003", "goal/000020"]
    assert folder.task_ids("both-2") == ["goal/000040", "goal/000003"]
    clean = folder.task_ids("clean-11")
    assert clean == ["goal/000009", *(f"goal/{k:06d}" for k in range(20, 30))]
    assert sorted(folder.task_ids("seen") + folder.task_ids("unseen")) == sorted(clean)
    dev = folder.task_ids("dev")
    assert len(dev) == total // 4
    assert not {*dev} & {*folder.task_ids("train"), *folder.task_ids("test")}
    assert checker.check(envs.get("webshop", data), games=1)["problems"] == []
    with pytest.raises(IprError, match="there are train, dev, test, seen, unseen, official-13, clean-11, both-2"):
        folder.task_ids("official-200")
    (data / "train_indices.json").unlink()
    with pytest.raises(IprError, match=r"test_indices\.json is one of a pair, and train_indices\.json lacks"):
        Folder(data)


def test_index_files_in_other_encodings_are_read(tmp_path: Path, cache: Path) -> None:
    data = index(lay(tmp_path / "data"), [1, 2], [3])
    for name in ("train", "test"):
        file = data / f"{name}_indices.json"
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert Folder(data).task_ids("train") == ["goal/000001", "goal/000002"]


@pytest.mark.parametrize(
    ("train", "fault"),
    [([1, 11896], "names goal 11896 and the data has"), ({"a": 1}, "no index file"), (["1"], "no index file")],
)
def test_index_files_of_other_data_are_refused(train: Any, fault: str, tmp_path: Path, cache: Path) -> None:
    folder = Folder(index(lay(tmp_path / "data"), train, [1]))
    with pytest.raises(IprError, match=rf"train_indices\.json.*{fault}") as raised:
        folder.task_ids("train")
    assert "\n" not in str(raised.value)


def test_a_shop_too_small_for_a_split_says_what_to_do(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The 1,000 products and the few human instructions for them: no product of test has a train goal, too."""
    data = lay(tmp_path / "data")
    told = {products()[n].asin: [human(n)] for n in NUMBERS[::4]}
    (data / "items_human_ins.json").write_text(json.dumps(told))
    assert main(["run", "quick", "env.name=webshop", f"env.data={data}", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert f"split 'seen' of env.data={data} has no games (train 10, dev 5, seen 0, unseen 5)" in said
    assert "eval.splits=[unseen]" in said
    assert "move items_human_ins.json away" in said


def test_the_contract_holds(tmp_path: Path, cache: Path) -> None:
    for with_human in (True, False):
        spec = envs.get("webshop", lay(tmp_path / f"data{with_human}", with_human))
        report = checker.check(spec, spec.task_ids("train")[:12])
        assert report["problems"] == []
        assert report["expert_wins"] >= 8
        assert spec.version.startswith("real-3-")
        assert spec.task_type(spec.task_ids("train")[0]) in {
            "fashion",
            "beauty",
            "electronics",
            "garden",
            "grocery",
            "sports",
        }


def test_the_expert_says_only_what_it_was_shown(tmp_path: Path, cache: Path) -> None:
    """No word of its thoughts, searches and clicks is in neither the instruction nor the pages before, but for stop
    words and the form of a turn. It earns less than one who knew the product, and enough to be imitated."""
    for with_human in (True, False):
        folder = Folder(lay(tmp_path / f"data{with_human}", with_human))
        played = [folder.expert(i, 10) for i in folder.task_ids("train")[:40]]
        for t in played:
            seen = set(terms(t.first_observation)) | {"thought", "action", "search", "click"}
            for step in t.steps:
                assert set(terms(step.action)) <= seen, step.action
                seen |= set(terms(step.observation))
        assert sum(t.reward > 0.7 for t in played) > 0.8 * len(played)
        assert all(t.ending == "terminated" and not t.invalid for t in played)


@pytest.mark.parametrize("said", ["i am looking for something.", "", "."])
def test_an_instruction_without_content_words_is_not_bought(said: str, tmp_path: Path, cache: Path) -> None:
    """Nor is a listing without a title, which cannot be read."""
    data = lay(tmp_path / "data", records=[record(n, pricing="$2,500.00") for n in NUMBERS])
    told = {products()[n].asin: [human(n, instruction=said)] for n in NUMBERS}
    (data / "items_human_ins.json").write_text(json.dumps(told))
    report = check_data(data, most=5)
    assert (report["goals"], report["not_bought"], report["differences"]) == (5, 5, [])
    spec = envs.get("webshop", data)
    assert checker.check(spec, spec.task_ids("train")[:2])["problems"] == []


def test_the_expert_survives_titles_of_nothing_and_prices_of_dots(tmp_path: Path, cache: Path) -> None:
    names = {0: "", 1: "5 in . shoes", 2: "\n"}
    records = [record(n, name=names.get(k % 4, products()[n].title)) for k, n in enumerate(NUMBERS)]
    report = check_data(lay(tmp_path / "data", records=records))
    assert (report["goals"], report["differences"]) == (40, [])


def test_values_that_no_click_reaches_are_not_chosen(tmp_path: Path, cache: Path) -> None:
    """The original parts an action at its last bracket."""
    packs = {"Size": [{"value": "[2 pack]"}, {"value": "2 pack large"}]}
    data = lay(tmp_path / "data", records=[record(n, customization_options=packs) for n in NUMBERS])
    told = {products()[n].asin: [human(n, instruction=f"{wish(n)}, 2 pack")] for n in NUMBERS}
    (data / "items_human_ins.json").write_text(json.dumps(told))
    folder = Folder(data)
    for task_id in folder.task_ids("train")[:20]:
        played = folder.expert(task_id, 10)
        assert (played.ending, played.invalid) == ("terminated", 0)
        assert [s.action.partition("Action: ")[2] for s in played.steps][2:-1] == ["click[2 pack large]"]


def test_check_data(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_data(lay(tmp_path / "data"))
    assert (report["goals"], report["not_bought"], report["differences"]) == (40, 0, [])
    assert 0.8 < report["mean_reward"] <= 1
    assert report["steps_per_s"] > 1000
    assert check_data(tmp_path / "data", most=7)["goals"] == 7
    monkeypatch.setattr("ipr.envs.webshop.expert.score", lambda *_: Score(0.25, 0, 0, 0, False, False, False, 0))
    report = check_data(tmp_path / "data", most=1)
    assert report["differences"][-1]["game"] == "goal/000000"
    assert report["differences"][-1]["expected"] == "reward 0.25"


def test_ties_go_to_the_lesser_asin(tmp_path: Path, cache: Path) -> None:
    """As in the original, whose index is asked for equal scores by ASIN; not in the order of the file."""
    asins = ["B0ZZZZZZZZ", "B012345678", "B0MMMMMMMM"]
    records = [record(0, asin=asin, name="Odd Gadget Thing") for asin in asins] + [record(n) for n in NUMBERS[1:]]
    data = lay(tmp_path / "data", with_human=False, records=records)
    for folder in (Folder(data), Folder(data)):  # built, then read from disk
        found = [folder.catalogue().product(row).asin for row in folder.catalogue().search("odd gadget")]
        assert found == sorted(asins)


def test_odd_products_are_left_out(tmp_path: Path, cache: Path) -> None:
    records = [record(n) for n in NUMBERS]
    odd = [record(0), record(1, asin="nan"), record(1, asin="B0TOOLONG123")]
    plain, same = (Folder(lay(tmp_path / name, records=r)) for name, r in (("a", records), ("b", records + odd)))
    assert len(plain.catalogue()) == len(same.catalogue()) == len(NUMBERS)


def test_a_price_beyond_all_limits_has_none(tmp_path: Path, cache: Path) -> None:
    records = [record(n, pricing="$2,500.00") for n in NUMBERS]
    goal = all_goals(Folder(lay(tmp_path / "data", records=records)))[0]
    assert goal.price_upper == 1_000_000
    assert "price" not in goal.instruction


# The cache -----------------------------------------------------------------------------------------------------------


def built(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.is_dir())


def test_a_catalogue_is_built_once_and_anew_when_a_file_changes(tmp_path: Path, cache: Path) -> None:
    data = lay(tmp_path / "data")
    first = Folder(data)
    first.catalogue()
    stamp = (cache / first.key / "docs.npy").stat().st_mtime_ns
    again = Folder(data)
    assert (again.key, again.catalogue().search("shoes")) == (first.key, first.catalogue().search("shoes"))
    assert (cache / first.key / "docs.npy").stat().st_mtime_ns == stamp
    assert built(cache) == [first.key]

    human_file = data / "items_human_ins.json"
    human_file.write_text(human_file.read_text().replace("i want", "I want"))
    changed = Folder(data)
    assert changed.key != first.key
    assert all_goals(changed)[0].instruction.startswith("I want")
    assert Folder(data, tagger=str.split).key not in (first.key, changed.key)  # other nouns, other rewards
    assert built(cache) == sorted([first.key, changed.key])


def test_a_changed_file_of_the_same_size_is_noticed(tmp_path: Path, cache: Path) -> None:
    data = lay(tmp_path / "data")
    file, first = data / "items_shuffle.json", Folder(data).key
    about = file.stat()
    file.write_text(file.read_text().replace("Shoes", "Boots"))
    assert file.stat().st_size == about.st_size
    assert Folder(data).key != first


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    records = [record(n) for n in NUMBERS]
    del records[7]["query"]
    data = lay(tmp_path / "data", records=records)
    with pytest.raises(IprError, match=r"items_shuffle\.json: product 7 .*no 'query'"):
        Folder(data).catalogue()
    assert built(cache) == []
    assert not list(cache.glob(".*.part"))


def test_two_builders_at_once(tmp_path: Path, cache: Path) -> None:
    """The other one is done while this one writes: its catalogue is kept and used."""
    data = lay(tmp_path / "data")
    folder = Folder(data)
    slow = real._products(folder.files, str.split, tmp_path)

    def interrupted(aside: Path) -> Any:
        Folder(data, cache).catalogue()
        (cache / folder.key / "mine").touch()
        return slow

    from ipr.envs.webshop.catalogue import on_disk

    pid = os.getpid()
    with pytest.MonkeyPatch.context() as patch:
        pids = iter([pid + 1])
        patch.setattr("os.getpid", lambda: next(pids, pid))
        on_disk(cache / folder.key, interrupted)
    assert (cache / folder.key / "mine").exists()
    assert built(cache) == [folder.key]
    assert not list(cache.glob(".*.part"))


def test_a_broken_cache_says_so(tmp_path: Path, cache: Path) -> None:
    data = lay(tmp_path / "data")
    folder = Folder(data)
    folder.catalogue()
    (cache / folder.key / "docs.npy").unlink()
    with pytest.raises(IprError, match="delete the folder"):
        Folder(data).catalogue()


# Bad folders and files -----------------------------------------------------------------------------------------------


def test_missing_files_are_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(IprError, match="/no/such: no such folder"):
        envs.get("webshop", "/no/such")
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(IprError, match="no items_shuffle"):
        Folder(data)
    (data / "items_shuffle_1000.json").write_text("[]")
    with pytest.raises(IprError, match=r"no items_ins_v2_1000\.json"):
        Folder(data)
    (data / "items_ins_v2_1000.json").write_text("{}")
    with pytest.raises(IprError, match="names no goal"):
        Folder(data).task_ids("train")


def test_the_files_of_one_set_go_together(tmp_path: Path, cache: Path) -> None:
    data = lay(lay(tmp_path / "data"), kind="_1000")
    assert [f.name for f in real.files(data)] == ["items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"]
    (data / "items_shuffle.json").unlink()
    assert [f.name for f in real.files(data)][:2] == ["items_shuffle_1000.json", "items_ins_v2_1000.json"]


@pytest.mark.parametrize(
    "broken", ["", "[", '[{"asin": "B0"}', "nonsense", '[{"asin": }]', "7", '[{"asin": 1}]', "[3]"]
)
def test_broken_products_are_one_line(tmp_path: Path, cache: Path, broken: str) -> None:
    data = lay(tmp_path / "data")
    (data / "items_shuffle.json").write_text(broken)
    with pytest.raises(IprError, match=r"items_shuffle\.json.*fetch the file anew") as error:
        Folder(data).catalogue()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["name", "product_category", "full_description", "small_description"])
def test_a_field_that_is_no_text_is_told_before_the_shop_opens(tmp_path: Path, cache: Path, field: str) -> None:
    data = lay(tmp_path / "data")
    rows = json.loads((data / "items_shuffle.json").read_text())
    rows[1][field] = [7]
    (data / "items_shuffle.json").write_text(json.dumps(rows))
    with pytest.raises(IprError, match=r"items_shuffle\.json: product 1 .*7\]? is no text"):
        Folder(data).catalogue()


@pytest.mark.parametrize("broken", ["", "{", '{"B0": {}', "[1, 2]", '{"B0": 3}'])
@pytest.mark.parametrize("name", ["items_ins_v2.json", "items_human_ins.json"])
def test_broken_instructions_are_one_line(tmp_path: Path, cache: Path, name: str, broken: str) -> None:
    data = lay(tmp_path / "data")
    (data / name).write_text(broken.replace("B0", products()[0].asin))
    with pytest.raises(IprError, match=rf"{name}.*fetch") as error:
        Folder(data).catalogue()
    assert "\n" not in str(error.value)


def test_a_human_entry_without_a_field_is_named(tmp_path: Path, cache: Path) -> None:
    data = lay(tmp_path / "data")
    (data / "items_human_ins.json").write_text(json.dumps({"B012345678": [{"instruction_attributes": ["x"]}]}))
    with pytest.raises(IprError, match=r"items_human_ins\.json: B012345678 .*no 'instruction'"):
        Folder(data).catalogue()


@pytest.mark.parametrize("given", [None, {"color": "red"}, "red", [["color", "red"]]])
@pytest.mark.parametrize("kind", ["options", "attributes"])
def test_a_human_entry_of_another_form_is_named(tmp_path: Path, cache: Path, kind: str, given: Any) -> None:
    data, field = lay(tmp_path / "data"), f"instruction_{kind}"
    told = {products()[0].asin: [human(0, **{field: given or (None if kind == "options" else [7])})]}
    (data / "items_human_ins.json").write_text(json.dumps(told))
    with pytest.raises(IprError, match=rf"items_human_ins\.json: \w+ is not .*'{field}' is no list of texts") as raised:
        Folder(data).catalogue()
    assert "\n" not in str(raised.value)


def test_members_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {f"k\u00e9 {i}": {"a": ["x, ]}" * i, None, 1.5]} for i in range(40)}
    file = tmp_path / "x.json"
    for chunk in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(real, "CHUNK", chunk)
        for indent in (None, 2):
            file.write_text(json.dumps(value, ensure_ascii=chunk > 7, indent=indent), encoding="utf-8")
            assert dict(members(file)) == value
            assert {k: json.loads(text) for k, text in members(file, raw=True)} == value
            file.write_text(json.dumps(list(value.values()), indent=indent), encoding="utf-8")
            assert [v for _, v in members(file)] == list(value.values())
            for encoding in ("utf-8-sig", "utf-16"):
                file.write_text(json.dumps(value, indent=indent), encoding=encoding)
                assert dict(members(file)) == value
