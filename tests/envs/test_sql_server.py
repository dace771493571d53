"""InterCodeSQL on a real server: the same episodes, its bounds, the account, where the two engines differ; dumps."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from ipr import config as configs
from ipr import envs, identity
from ipr.apps import doctor
from ipr.envs import checker, sql
from ipr.envs.sql import compare, engine, server
from ipr.envs.sql.convert import convert
from ipr.envs.sql.engine import Result
from ipr.envs.sql.real import Folder
from ipr.envs.sql.world import Console
from ipr.types import IprError
from tests.envs import servers
from tests.envs.test_sql_world import orchestra, turn

pytest.importorskip("pymysql")
KINDS = [kind for kind in servers.DAEMONS if servers.installed(kind)]
needs_server = pytest.mark.skipif(not KINDS, reason="no MySQL or MariaDB is installed (apt-get: mariadb-server)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = orchestra(tmp_path_factory.mktemp("folder"))
    schema = {"conductor": [("Conductor_ID", "int", "PRI"), ("Name", "text", "")]}
    rows = {
        t: [{"field": f, "type": k, "null": "NO", "key": key, "default": None, "extra": ""} for f, k, key in columns]
        for t, columns in schema.items()
    }
    (found / "database/orchestra/schema.json").write_text(json.dumps(rows))
    return found


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[int]:
    with servers.server(tmp_path_factory.mktemp("server"), KINDS[0]) as found:
        servers.load(found, folder / "database/orchestra/orchestra.sqlite")
        yield found


@pytest.fixture(scope="module")
def url(port: int, folder: Path) -> str:
    """An account that may only read, made as `ipr doctor` makes it."""
    address = f"mysql://ipr:secret@127.0.0.1:{port}/"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(server.ADMIN, "root:")
        server.make_account(address, server.ServedFolder(folder, address).databases())
    return address


@needs_server
def test_the_same_episodes_are_played(folder: Path, url: str) -> None:
    spec = envs.get("sql", folder, server=url)
    (task_id,) = [i for split in ("train", "dev", "seen", "unseen") for i in spec.task_ids(split)]
    statements = ["SHOW TABLES", "DESC conductor", "SELECT COUNT(*) FROM conductor", "SELECT nope FROM conductor"]
    statements += ["SELECT Name FROM conductor LIMIT 6", "SELECT Name FROM conductor"]
    ours, theirs = Console(Folder(folder)), spec.make()
    for console in (ours, theirs):
        assert console.reset(task_id) == "Question: Who conducts?"
    for statement in statements:
        one, other = (console.step(turn(statement)) for console in (ours, theirs))
        if "nope" in statement:
            assert (one.valid, other.valid) == (False, False)
        elif "DESC" not in statement or KINDS[0] == "mysql":  # MariaDB says int(11)
            assert one == other
    assert [c.step("Action: submit").reward for c in (ours, theirs)] == [1.0, 1.0]
    assert spec.expert(task_id).reward == 1.0
    assert checker.check(spec, [task_id])["problems"] == []
    assert spec.version != sql.spec(folder).version


@needs_server
def test_one_connection_an_episode_and_one_bad_statement_spoils_no_other(folder: Path, url: str) -> None:
    spec = envs.get("sql", folder, server=url)
    one, other = spec.make(), spec.make()
    for console in (one, other):
        console.reset("ic_spider_dev/00000")
        console.step(turn(f"SELECT 'mine', {id(console)}"))
    assert isinstance(one, Console)
    assert isinstance(other, Console)
    made = [c._session._made for c in (one, other)]  # type: ignore[union-attr]
    assert None not in made
    assert made[0] is not made[1]
    one.step(turn("SELECT * FROM conductor WHERE"))
    assert one.step(turn("SELECT MIN(Conductor_ID) FROM conductor")).observation == "[(1,)]"
    one.close()
    assert not made[0].open
    assert other.step(turn("SELECT MAX(Conductor_ID) FROM conductor")).observation == "[(12,)]"
    other.close()


@needs_server
def test_the_server_keeps_the_bounds(url: str) -> None:
    connection = server.Connection(server.address(url), "orchestra")
    many = ", ".join(f"conductor c{k}" for k in range(9))
    start = time.perf_counter()
    assert connection.run(f"SELECT COUNT(*), SUM(c0.Conductor_ID + c8.Conductor_ID) FROM {many}").kind == "error"
    assert connection.run("SELECT SLEEP(20)").text != "[(0,)]"
    assert "rows" in connection.run(f"SELECT c0.Name FROM {', '.join(f'conductor c{k}' for k in range(6))}").text
    assert time.perf_counter() - start < 20
    for statement in (
        "DELETE FROM conductor",
        "DROP TABLE conductor",
        "CREATE TABLE x (a INT)",
        "SET GLOBAL max_connections = 1",
    ):
        assert connection.run(statement).rows is None
    assert connection.run("SELECT COUNT(*) FROM conductor").rows == ((12,),)
    assert connection.run("SELECT 1; SELECT 2").kind == "error"
    connection.close()


@needs_server
def test_the_account_is_checked(port: int, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "may only read" in server.check_account(url)
    with pytest.raises(IprError, match="may do more than read"):
        server.check_account(f"mysql://root@127.0.0.1:{port}/")
    with pytest.raises(IprError, match="IPR_MYSQL_PASSWORD"):
        server.check_account(f"mysql://ipr:wrong@127.0.0.1:{port}/")
    monkeypatch.setenv(server.PASSWORD, "secret")  # which a config would be written with
    address = f"mysql://ipr@127.0.0.1:{port}/"
    config = configs.validate({"env": {"name": "sql", "data": str(folder), "server": address}}, "test")
    assert "ipr may only read" in doctor._served(config)()


@needs_server
def test_databases_that_the_server_lacks_are_named(tmp_path: Path, url: str) -> None:
    file = orchestra(tmp_path) / "ic_spider_dev.json"
    file.write_text(file.read_text().replace('"orchestra"', '"choir"'))
    with pytest.raises(IprError, match="choir"):
        envs.get("sql", tmp_path, server=url)


@needs_server
def test_where_the_engines_differ_is_reported(
    folder: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("SELECT COUNT(*) FROM conductor", "equal"), ("SELECT VERSION()", "refused here")]
    # MariaDB has other words for a column that is not there.
    rows.append(("SELECT nope FROM conductor", "equal" if KINDS[0] == "mysql" else "words"))
    file = tmp_path / "statements.jsonl"
    file.write_text("\n".join(json.dumps({"db": "orchestra", "statement": s}) for s, _ in rows))
    report = compare.compare(folder, url, file)
    assert (report["statements"], report["equal"]) == (3, [k for _, k in rows].count("equal"))
    assert [d["kind"] for d in report["differences"]] == [k for _, k in rows if k != "equal"]
    assert main(["env", "compare", "sql", "--data", str(folder), "--server", url]) == 0
    assert "equal: 1" in capsys.readouterr().out


def test_verdicts() -> None:
    def rows(*values: int) -> Result:
        return Result(tuple((v,) for v in values), "")

    refused = Result(None, "no", "error")
    assert compare.verdict(rows(1, 2), rows(1, 2)) == "equal"
    assert compare.verdict(rows(1, 2), rows(2, 1)) == "order"
    assert compare.verdict(rows(1), rows(2)) == "rows"
    assert compare.verdict(refused, rows(1)) == "refused here"
    assert compare.verdict(rows(1), refused) == "refused there"
    assert compare.verdict(refused, Result(None, "non", "error")) == "words"


def test_addresses(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv(server.PASSWORD, "hidden")
    at = server.address("mysql://me@db.example:3307/")
    assert (at.host, at.port, at.user, at.password) == ("db.example", 3307, "me", "hidden")
    assert "hidden" not in str(at)
    for url in ("mysql://db.example/", "postgres://me@db/", "mysql://me@db/world"):
        with pytest.raises(IprError, match="give mysql://user@host/"):
            server.address(url)
    with pytest.raises(IprError, match="only sql plays on a server"):
        envs.get("alfworld", server="mysql://me@db/")
    with pytest.raises(IprError, match=r"env\.data"):
        envs.get("sql", server="mysql://me@db/")


DUMP = r"""-- MySQL dump 10.13  Distrib 8.0.36
/*!40101 SET NAMES utf8mb4 */;
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `band`;
USE `band`;
DROP TABLE IF EXISTS `Player`;
CREATE TABLE `Player` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `name` varchar(20) DEFAULT 'it''s; (so)',
  `fee` decimal(10,2) NOT NULL DEFAULT '0.00',
  `born` date DEFAULT NULL,
  `kind` enum('a','b,c') DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `n` (`name`),
  KEY `f` (`fee`,`born`),
  CONSTRAINT `x` FOREIGN KEY (`id`) REFERENCES `other` (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=4 DEFAULT CHARSET=utf8mb4;
LOCK TABLES `Player` WRITE;
INSERT INTO `Player` VALUES (1,'O\'Neil; \\ (\"x\")',12.50,'1990-01-02','a'),(2,'two\nlines',-1,NULL,NULL);
INSERT INTO `Player` (`name`, `id`) VALUES ('é''s',3);
UNLOCK TABLES;
/*!50001 CREATE VIEW `v` AS SELECT 1 */;
CREATE VIEW `w` AS SELECT 1;
"""


def test_a_dump_becomes_spiders_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = tmp_path / "dump.sql"
    dump.write_text(DUMP)
    assert main(["data", "convert", str(dump), "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["databases"], report["tables"], report["rows"], report["left_out"]) == (1, 1, 3, 1)
    item = {"db": "band", "gold": "SELECT * FROM player", "query": "Who?", "hardness": "easy"}
    (tmp_path / "out/ic_spider_dev.json").write_text(json.dumps([item]))
    folder = Folder(tmp_path / "out")
    database = folder.database(folder.question("ic_spider_dev/00000"))
    assert database.run("SHOW TABLES").rows == (("player",),)
    assert database.run("DESC player").rows == (
        ("id", "int", "NO", "PRI", None, "auto_increment"),
        ("name", "varchar(20)", "YES", "UNI", "it's; (so)", ""),
        ("fee", "decimal(10,2)", "NO", "MUL", "0.00", ""),
        ("born", "date", "YES", "", None, ""),
        ("kind", "enum('a','b,c')", "YES", "", None, ""),
    )
    assert str(database.run("SELECT id, name, fee, born FROM player ORDER BY id").rows) == str(
        (
            (1, 'O\'Neil; \\ ("x")', Decimal("12.50"), date(1990, 1, 2)),
            (2, "two\nlines", Decimal("-1.00"), None),
            (3, "é's", None, None),
        )
    )
    dump.write_text("SELECT 1;")
    with pytest.raises(IprError, match="no CREATE TABLE"):
        convert(dump, tmp_path / "none")


@needs_server
def test_what_changes_a_session_and_what_passes_is_never_anothers_answer(port: int, url: str) -> None:
    def fresh() -> server.Connection:
        return server.Connection(server.address(url), "orchestra")

    grouped = "SELECT Name, MAX(Conductor_ID) FROM conductor"
    one, expected = fresh(), fresh().run("SELECT DATABASE()")
    for statement in ("USE information_schema", "SET SESSION sql_mode = ''", "SET @x = 5", "SELECT @x := 6"):
        one.run(statement)
        assert one.run("SELECT DATABASE()") == fresh().run("SELECT DATABASE()") == expected
    assert "5" not in one.run("SELECT @x").text
    assert one.run(grouped).kind == fresh().run(grouped).kind == "error"
    one.run("SELECT 'held'")
    with servers.connect(port) as root, root.cursor() as cursor:
        cursor.execute(f"KILL {one._made.thread_id()}")
    assert one.run("SELECT 'after', COUNT(*) FROM conductor").text == "[('after', 12)]"
    late = f"SELECT SUM(c0.Conductor_ID) FROM {', '.join(f'conductor c{k}' for k in range(9))}"
    assert one.run(late).kind == "error"
    assert server.engine.remembered((str(server.address(url)), "orchestra", "", late)) is None
    one.close()


@needs_server
def test_what_a_server_has_is_part_of_what_decides(port: int, folder: Path, url: str) -> None:
    """Its rows, keys and views, its version and settings; not where it stands, nor who asks."""

    def now(at: str = url) -> tuple[dict[str, Any], str]:
        spec = envs.get("sql", folder, server=at)
        return identity.games(spec), identity.of_games(spec)

    first = now()
    assert now() == first == now(f"mysql://root@localhost:{port}/")
    assert str(port) not in str(first)
    seen = [first[1]]
    with servers.connect(port, database="orchestra") as root, root.cursor() as cursor:
        for change, back in (
            (
                "INSERT INTO conductor (Conductor_ID, Name) VALUES (99, 'New')",
                "DELETE FROM conductor WHERE Conductor_ID = 99",
            ),
            ("CREATE INDEX named ON conductor (Name(9))", "DROP INDEX named ON conductor"),
            ("CREATE VIEW one AS SELECT 1 AS x", "DROP VIEW one"),
        ):
            cursor.execute(change)
            seen.append(now()[1])
            cursor.execute(back)
            assert now() == first
        cursor.execute("SET GLOBAL div_precision_increment = 6")
        changed = now()
        cursor.execute("SET GLOBAL div_precision_increment = 4")
    assert len(set(seen)) == len(seen)
    assert changed[1] == first[1], "the same games, played otherwise"
    assert identity.differences(first[0], changed[0]) == ["server.div_precision_increment: '4' -> '6'"]


@needs_server
def test_the_bounds_of_a_statement_grow_with_the_data(port: int, url: str) -> None:
    with servers.connect(port, database="orchestra") as root, root.cursor() as cursor:
        cursor.execute("CREATE TABLE many (a INT, b INT, c INT, d INT, e INT, f INT)")
        cursor.execute("INSERT INTO many (a) VALUES (1), (2), (3), (4), (5), (6), (7), (8)")
        for _ in range(13):
            cursor.execute("INSERT INTO many (a) SELECT a FROM many")
        server._bounds.cache_clear()
        try:
            connection = server.Connection(server.address(url), "orchestra")
            rows = connection.run("SELECT a FROM many").rows
            assert rows is not None
            assert len(rows) == 8 * 2**13 > engine.MAX_ROWS
            connection.close()
        finally:
            cursor.execute("DROP TABLE many")
            server._bounds.cache_clear()


MADE = """CREATE TABLE Parent (a INT NOT NULL, b VARCHAR(9) NOT NULL DEFAULT 'it''s', PRIMARY KEY (b, a), UNIQUE (a)) ;
CREATE TABLE Child (
  id INT NOT NULL AUTO_INCREMENT, a INT COMMENT 'no DEFAULT 5', b VARCHAR(9), flag BIT(1) DEFAULT b'0', t TEXT,
  made DATETIME DEFAULT CURRENT_TIMESTAMP, changed TIMESTAMP NULL DEFAULT NOW() ON UPDATE NOW(), y YEAR UNIQUE,
  exact DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3), fee DECIMAL(9,2) DEFAULT -1.5, e ENUM('A, b', 'C)') DEFAULT 'C)',
  PRIMARY KEY (id), KEY two (a, b), UNIQUE KEY short (b(3)), KEY (fee DESC), UNIQUE both_ (made, e),
  CONSTRAINT belongs FOREIGN KEY (b, a) REFERENCES Parent (b, a) ON DELETE CASCADE,
  FOREIGN KEY (a) REFERENCES Parent (a)
) AUTO_INCREMENT=40 ;
CREATE TABLE Lone (x INT, y INT NOT NULL, z INT NOT NULL, UNIQUE (x), UNIQUE (y, x), UNIQUE (z), UNIQUE (y)) ;
CREATE TABLE Pair (x INT NOT NULL, y INT NOT NULL, z INT, UNIQUE (z), UNIQUE (y, x))"""


@pytest.mark.skipif(not servers.installed("mysql"), reason="no MySQL is installed (Debian: mysql-server-core)")
def test_a_table_of_mysqls_own_words_is_described_as_there(tmp_path: Path) -> None:
    asked = [
        f"{what} {table}" for what in ("SHOW CREATE TABLE", "DESC") for table in ("parent", "child", "lone", "pair")
    ]
    with servers.server(tmp_path, "mysql") as port, servers.connect(port) as root, root.cursor() as cursor:
        cursor.execute("CREATE DATABASE kin")
        cursor.execute("USE kin")
        for statement in MADE.split(" ;\n"):
            cursor.execute(statement)
        theirs = []
        for statement in asked:
            cursor.execute(statement)
            theirs.append(tuple(tuple(v.decode() if isinstance(v, bytes) else v for v in r) for r in cursor.fetchall()))
    dump = tmp_path / "kin.sql"
    dump.write_text("".join(f"{rows[0][1]};\n" for rows in theirs[:4]))
    convert(dump, tmp_path / "out")
    item = {"db": "kin", "gold": "SELECT * FROM child", "query": "Who?", "hardness": "easy"}
    (tmp_path / "out/ic_spider_dev.json").write_text(json.dumps([item]))
    folder = Folder(tmp_path / "out")
    database = folder.database(folder.question("ic_spider_dev/00000"))
    for statement, rows in zip(asked, theirs, strict=True):
        assert database.run(statement).rows == rows


NAMED = [
    "SELECT column_name FROM information_schema.columns WHERE table_name = 'conductor'",
    "SELECT table_name, column_name FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME IN ('Conductor', 'nope')",
    "SELECT table_name FROM information_schema.tables WHERE table_name = 'conductor' OR (table_name LIKE 'nope')",
    "SELECT COUNT(*) FROM information_schema.columns c WHERE c.table_name = 'nope'",
]
"""Of a table that no other database has, or none at all."""
UNSURE = [
    "SELECT column_name FROM information_schema.columns WHERE table_name = 'stage'",
    "SELECT column_name FROM information_schema.columns WHERE table_name = 'user'",
    "SELECT column_name FROM information_schema.columns WHERE table_name = 'conductor' OR column_name = 'Name'",
    "SELECT column_name FROM information_schema.columns WHERE table_name LIKE 'conduct%'",
    "SELECT column_name FROM information_schema.columns WHERE NOT table_name = 'conductor'",
    "SELECT column_name FROM information_schema.columns WHERE table_name = column_name",
]


def two_databases(tmp_path: Path) -> Folder:
    """The orchestra, and another database with a stage, as it has one."""
    folder = orchestra(tmp_path)
    (folder / "database/choir").mkdir()
    for name in ("orchestra", "choir"):
        with sqlite3.connect(folder / f"database/{name}/{name}.sqlite") as connection:
            connection.execute("CREATE TABLE Stage (id INT)")
        connection.close()
    file = folder / "ic_spider_dev.json"
    asked = json.loads(file.read_text())
    file.write_text(json.dumps([*asked, asked[0] | {"db": "choir", "gold": "SELECT * FROM Stage"}]))
    return Folder(folder)


@pytest.mark.parametrize("statement", UNSURE)
def test_information_schema_of_tables_that_others_may_have_is_refused(statement: str, tmp_path: Path) -> None:
    folder = two_databases(tmp_path)
    database = folder.database(folder.question("ic_spider_dev/00000"))
    assert "information_schema.columns without a condition" in database.run(statement).text
    asked = [database.run(statement).rows for statement in NAMED]
    assert [len(rows or ()) for rows in asked] == [2, 2, 1, 1]


@needs_server
def test_information_schema_of_a_table_by_its_name_is_the_servers(folder: Path, url: str) -> None:
    ours = Folder(folder).session(Folder(folder).question("ic_spider_dev/00000"))
    theirs = server.Connection(server.address(url), "orchestra")
    for statement in NAMED:
        assert ours.run(statement).rows == theirs.run(statement).rows
    theirs.close()
