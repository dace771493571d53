"""`ipr data convert`: dumps as people have them; what is not read is told, and a broken one leaves nothing behind."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from ipr.envs.sql.convert import convert
from ipr.envs.sql.real import Folder
from ipr.types import IprError

GOOD = "CREATE DATABASE `good`;\nUSE `good`;\nCREATE TABLE `t` (`id` int, `n` varchar(9), PRIMARY KEY (`id`));\n"


@pytest.fixture
def dump(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "dump.sql").write_text(text)
        return tmp_path / "dump.sql"

    return write


def rows(out: Path, query: str, name: str = "good") -> list[Any]:
    connection = sqlite3.connect(out / "database" / name / f"{name}.sqlite")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("INSERT INTO t VALUES (1, 'a')", (1, "a")),
        ('insert into "t" ("n", "id") values (\'a\', 1)', (1, "a")),
        ("INSERT IGNORE INTO t (n, id) VALUES ('a', 1), ('b', 1)", (1, "a")),
        ("INSERT LOW_PRIORITY INTO T VALUE (1, 'a')", (1, "a")),
        ("REPLACE INTO `t` VALUES (1, 'b'), (1, 'a')", (1, "a")),
        ("INSERT t VALUES (1, 'a')", (1, "a")),
        ("USE other; INSERT INTO good.t VALUES (1, 'a')", (1, "a")),
        ("USE other; INSERT INTO `good`.`t` VALUES (1, 'a')", (1, "a")),
        ("INSERT INTO t VALUES (b'101', x'4a')", (5, b"J")),
        ("INSERT INTO t VALUES (.5e1, 0x14A)", (5, b"\x01J")),
        ("INSERT INTO t VALUES (1, _utf8mb4'a')", (1, "a")),
        ("/* it's */ INSERT INTO t VALUES (1, 'a')", (1, "a")),
        ("/* it's\n its */\n\nINSERT INTO t VALUES\n-- it's\n(1, 'a'); -- it's", (1, "a")),
        ("DELIMITER ;;\nCREATE TRIGGER x BEGIN INSERT INTO t VALUES (NEW.id); END ;;\nDELIMITER ;\n"
         "INSERT INTO t VALUES (1, 'a')", (1, "a")),
    ],
)  # fmt: skip
def test_statements_with_rows(statement: str, row: tuple[Any, ...], dump: Callable[[str], Path]) -> None:
    path = dump(f"{GOOD}{statement};\n")
    assert convert(path, path.parent / "out")["messages"] == []
    assert rows(path.parent / "out", "SELECT * FROM t") == [row]


def test_keys_are_those_of_the_dump(dump: Callable[[str], Path]) -> None:
    path = dump(
        "CREATE TABLE `other` (`y` int NOT NULL, PRIMARY KEY (`y`));\n"
        "CREATE TABLE `t` (`id` int, `y` int, `z` int, `n` text, PRIMARY KEY (`y`,`id`), KEY `kz` (`z`,`id`),"
        " CONSTRAINT `fk1` FOREIGN KEY (`z`) REFERENCES `other` (`y`) ON DELETE CASCADE);\n"
        "INSERT INTO other VALUES (1), (2);\nINSERT INTO t VALUES (1, 2, 1, 'b'), (2, 1, 2, 'a');\n"
    )
    out = path.parent / "out"
    assert convert(path, out)["messages"] == []
    (name,) = (p.name for p in (out / "database").iterdir())
    assert [(r[1], r[5]) for r in rows(out, "PRAGMA table_info(t)", name)] == [("id", 2), ("y", 1), ("z", 0), ("n", 0)]
    assert [r[2:5] for r in rows(out, "PRAGMA foreign_key_list(t)", name)] == [("other", "z", "y")]
    (out / "ic_spider_dev.json").write_text(json.dumps([{"db": name, "gold": "SELECT 1", "query": "What?"}]))
    folder = Folder(out)
    database = folder.database(folder.question(folder.all_ids()[0]))
    assert database.run("SELECT n FROM t").text == "[('a',), ('b',)]"
    assert "cannot be answered here exactly" in database.run("SHOW CREATE TABLE t").text


@pytest.mark.parametrize(
    ("column", "named"),
    [
        ("`c` int GENERATED ALWAYS AS (`id` + 1) VIRTUAL", "'c' is a generated column"),
        ("c int AS (id + 1) STORED", "'c' is a generated column"),
        ("`c` int DEFAULT (`id` + 1)", "a default that is computed"),
    ],
)
def test_what_no_dump_tells_is_refused(column: str, named: str, dump: Callable[[str], Path]) -> None:
    path = dump(f"CREATE TABLE `t` (`id` int, {column});\n")
    with pytest.raises(IprError, match=named):
        convert(path, path.parent / "out")
    assert not (path.parent / "out").exists()


def test_a_table_without_quotes(dump: Callable[[str], Path]) -> None:
    """Columns and keys in each way of writing them; what follows the table's parenthesis is no column."""
    path = dump(
        "USE good;\n"
        "CREATE TABLE IF NOT EXISTS good.T (id int unsigned COMMENT 'NOT NULL, UNIQUE', e enum('a','b') DEFAULT 'a',\n"
        "  bt bit(1) NOT NULL, u int UNIQUE, v int, w int AUTO_INCREMENT, KEY k (v DESC), FOREIGN KEY (u) REFERENCES\n"
        "  x (y), CONSTRAINT PRIMARY KEY (id), UNIQUE (w), CHECK (v > 0)) ENGINE=InnoDB COMMENT='of (a, b)';\n"
        "CREATE TABLE IF NOT EXISTS T (other int);\n"
        "CREATE TABLE second (id int PRIMARY KEY);"
    )
    convert(path, path.parent / "out")
    described = json.loads((path.parent / "out/database/good/schema.json").read_text())
    assert [tuple(row.values()) for row in described["t"]] == [
        ("id", "int unsigned", "NO", "PRI", None, ""),
        ("e", "enum('a','b')", "YES", "", "a", ""),
        ("bt", "bit(1)", "NO", "", None, ""),
        ("u", "int", "YES", "UNI", None, ""),
        ("v", "int", "YES", "MUL", None, ""),
        ("w", "int", "YES", "UNI", None, "auto_increment"),
    ]
    assert [tuple(row.values()) for row in described["second"]] == [("id", "int", "NO", "PRI", None, "")]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t SELECT * FROM u",
        "INSERT INTO t SET id = 1",
        "LOAD DATA INFILE 'x' INTO TABLE t",
        "UPDATE t SET id = 2",
        "CREATE TABLE u LIKE t",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE t ADD KEY (n)",
    ],
)
def test_what_is_not_read_is_told(
    statement: str, dump: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    harmless = "DROP TABLE IF EXISTS u;\nSET NAMES utf8;\n/*!40000 ALTER TABLE `t` DISABLE KEYS */;\n"
    path = dump(f"{GOOD}{harmless}ALTER TABLE t ENABLE KEYS;\n{statement};\n")
    assert main(["data", "convert", str(path), "--out", str(path.parent / "out"), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == f"good: left out: {statement}\n"
    assert json.loads(said.out)["left_out"] == 1
    assert json.loads(said.out)["messages"] == [said.err.strip()]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("INSERT INTO t VALUES (1,'a'),(2", "row 2 of table good.t: no whole value at '2'"),
        ("INSERT INTO t VALUES (1,'a'),\n", "row 2 of table good.t: no row at ''"),
        ("INSERT INTO t VALUES (1,'a') ON DUPLICATE KEY", "row 2 of table good.t: no row at 'ON DUPLICATE KEY'"),
        ("INSERT INTO t VALUES ", "row 1 of table good.t: no row at ''"),
        ("INSERT INTO t VALUES (1,'a'),(2,'b", "it ends within a text: INSERT INTO t VALUES (1,'a'),(2,'b"),
        ("CREATE TABLE u (id int, n varchar(9)", "table good.u: no end of 'id int, n varchar(9)'"),
        ("CREATE TABLE u (id);", "table good.u: no column at 'id'"),
        ("CREATE TABLE u (id int, id int);", "table good.u: duplicate column name"),
        ("INSERT INTO t VALUES (1,'a');\nINSERT INTO t VALUES (2,'b'),(3,'c',9);", "row 3 of table good.t: 3 values"),
        ("INSERT INTO t (nope) VALUES (1);", "row 1 of table good.t: table t has no column named nope"),
        ("INSERT INTO t VALUES (1,'a'),(1,'b');", "row 2 of table good.t: UNIQUE constraint failed"),
        ("INSERT INTO t VALUES (18446744073709551615,'a');", "row 1 of table good.t: a whole number beyond 64 bits"),
        ("INSERT INTO t VALUES (1,NOW());", "row 1 of table good.t: no whole value at 'NOW()"),
        ("INSERT INTO `nope` VALUES (1);", "rows of table good.nope before its CREATE TABLE"),
        ("USE `../../evil`;\nCREATE TABLE `u` (`id` int);", "'../../evil' is no name of a database"),
    ],
)  # fmt: skip
def test_a_broken_dump_is_named_and_leaves_nothing(text: str, told: str, dump: Callable[[str], Path]) -> None:
    path, out = dump(GOOD + text), dump(GOOD).parent / "out"
    path.write_text(GOOD + "INSERT INTO t VALUES (7,'old');")
    convert(path, out)
    path.write_text(GOOD + text)
    with pytest.raises(IprError) as error:
        convert(path, out)
    assert str(error.value).startswith(f"{path}: {told}")
    assert str(error.value).endswith("; give a dump as mysqldump writes it")
    assert "\n" not in str(error.value)
    assert rows(out, "SELECT * FROM t") == [(7, "old")]
    assert sorted(p.name for p in out.rglob("*")) == ["create.json", "database", "good", "good.sqlite", "schema.json"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    """The first of them before the first statement; PowerShell redirects in the second."""
    (tmp_path / "d.sql").write_bytes(f"{GOOD[24:]}INSERT INTO t VALUES (1,'\u00e9');".encode(encoding))
    convert(tmp_path / "d.sql", tmp_path / "out")
    assert rows(tmp_path / "out", "SELECT n FROM t") == [("\u00e9",)]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Bytes of a BLOB, as mysqldump writes them without --hex-blob, are kept; those of a text are told."""
    dump = tmp_path / "d.sql"
    dump.write_bytes(GOOD.encode() + b"INSERT INTO t VALUES (1,_binary 'a\xff\\0');")
    convert(dump, tmp_path / "out")
    assert rows(tmp_path / "out", "SELECT n FROM t") == [(b"a\xff\0",)]
    dump.write_bytes(GOOD.encode() + b"INSERT INTO t VALUES (1,'a'),(2,'caf\xe9');")
    with pytest.raises(IprError, match=r"row 2 of table good\.t: a text with a byte that is no UTF-8"):
        convert(dump, tmp_path / "out")


def test_what_cannot_be_read_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.sql.gz").write_bytes(gzip.compress(GOOD.encode()))
    (tmp_path / "d.sql").write_text(GOOD)
    for name, out, told in (
        ("d.sql.gz", "out", "is packed; unpack it"),
        ("none.sql", "out", "none.sql: No such file or directory; give a dump"),
        ("d.sql", "d.sql", "is a file; choose another folder"),
    ):
        assert main(["data", "convert", str(tmp_path / name), "--out", str(tmp_path / out)]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
