"""The sandbox: an attack is stopped in time and leaves nothing behind; MySQL's words on SQLite."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ipr.envs.sql import engine
from ipr.envs.sql.engine import Database, Source, open_file
from ipr.envs.sql.errors import ERROR
from ipr.types import IprError

BIG = "hex(hex(hex(hex(hex(hex(hex(hex(hex(hex(hex(hex('abcdefghijklmnopqrstuvw'))))))))))))"  # 94,208 characters
MANY = "person a, person b, person c, person d, person e, person f, person g, person h"
_A = "a" * 16
SAME = f"replace(replace(replace('{_A}', 'a', '{_A}'), 'a', '{_A}'), 'a', '{_A}')"  # 65,536 times the same letter
LONG = f"(SELECT {SAME} AS s, CONCAT(substr({SAME}, 1, 32000), 'b') AS n) AS z, {MANY}"


def nested_with(levels: int, column: str) -> str:
    """Each name is used twice by the next: planning takes 2 ** levels."""
    names = ["c0 AS (SELECT 1 AS x)"]
    names += [f"c{k} AS (SELECT {column} AS x FROM c{k - 1} AS a, c{k - 1} AS b)" for k in range(1, levels + 1)]
    return f"WITH {', '.join(names)} SELECT * FROM c{levels}"


ATTACKS = {
    "insert": "INSERT INTO person VALUES (99, 'Mallory', 1, 'x')",
    "update": "UPDATE person SET age = 0",
    "delete": "DELETE FROM person",
    "replace into": "REPLACE INTO person VALUES (1, 'Mallory', 1, 'x')",
    "with delete": "WITH x AS (SELECT 1) DELETE FROM person",
    "returning": "DELETE FROM person RETURNING *",
    "drop": "DROP TABLE person",
    "create": "CREATE TABLE evil (x)",
    "create as": "CREATE TABLE evil AS SELECT * FROM person",
    "temp table": "CREATE TEMP TABLE evil (x)",
    "temp view": "CREATE TEMP VIEW evil AS SELECT 1",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON person BEGIN INSERT INTO person VALUES (1, 'x', 1, 'x'); END",
    "virtual table": "CREATE VIRTUAL TABLE evil USING fts5(x)",
    "alter": "ALTER TABLE person RENAME TO people",
    "index": "CREATE INDEX i ON person(age)",
    "attach": "ATTACH DATABASE '{folder}/evil.db' AS evil",
    "attach short": "attach '{folder}/evil.db' as evil",
    "detach": "DETACH main",
    "vacuum into": "VACUUM INTO '{folder}/evil.db'",
    "vacuum": "VACUUM",
    "reindex": "REINDEX",
    "analyze": "ANALYZE",
    "begin": "BEGIN IMMEDIATE",
    "savepoint": "SAVEPOINT s",
    "pragma": "PRAGMA writable_schema = ON",
    "pragma journal": "PRAGMA journal_mode = WAL",
    "pragma query only": "PRAGMA query_only = OFF",
    "pragma function": "SELECT * FROM pragma_database_list",
    "pragma temp dir": "PRAGMA temp_store_directory = '{folder}'",
    "schema": "SELECT * FROM sqlite_master",
    "schema count": "SELECT COUNT(*) FROM sqlite_schema",
    "schema by name": "SELECT * FROM main.sqlite_master",
    "load extension": "SELECT load_extension('{folder}/evil.so')",
    "readfile": "SELECT readfile('/etc/passwd')",
    "writefile": "SELECT writefile('{folder}/evil', 'x')",
    "edit": "SELECT edit('x', 'sh')",
    "tokenizer": "SELECT fts3_tokenizer('simple')",
    "outfile": "SELECT * FROM person INTO OUTFILE '{folder}/evil'",
    "load file": "SELECT LOAD_FILE('/etc/passwd')",
    "many statements": "SELECT 1; DELETE FROM person",
    "many unreadable": "SELECT 1 FROM FROM; DELETE FROM person; SELECT ((",
    "commented": "SELECT 1 /* ; */ ; -- \n DROP TABLE person",
    "executable comment": "/*!50000 DELETE FROM person */",
    "nul": "SELECT 1\x00; DELETE FROM person",
    "half character": "SELECT '\ud83d' FROM",
    "random": "SELECT random()",
    "rand": "SELECT RAND()",
    "order by random": "SELECT * FROM person ORDER BY random()",
    "randomblob": "SELECT randomblob(10)",
    "now": "SELECT date('now')",
    "now hidden": "SELECT datetime(CONCAT('n', 'ow'))",
    "now by default": "SELECT date()",
    "strftime now": "SELECT strftime('%s')",
    "local time": "SELECT datetime('2020-01-01', 'localtime')",
    "current": "SELECT CURRENT_TIMESTAMP",
    "current date": "SELECT CURRENT_DATE",
    "now()": "SELECT NOW()",
    "changes": "SELECT changes(), last_insert_rowid()",
    "version": "SELECT sqlite_version()",
    "sleep": "SELECT SLEEP(10)",
    "benchmark": "SELECT BENCHMARK(1000000000, 1)",
    "endless": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r",
    "endless rows": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
    "endless distinct": "WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT n + 1 FROM r) SELECT MAX(n) FROM r",
    "cross join": f"SELECT COUNT(*) FROM {MANY}",
    "cross join rows": f"SELECT * FROM {MANY}",
    "cross join sorted": f"SELECT * FROM {MANY} ORDER BY CONCAT(a.name, b.name, c.name, d.name)",
    "cross join grouped": f"SELECT a.id * b.id * c.id * d.id * e.id AS x, COUNT(*) FROM {MANY} GROUP BY x",
    "cross join distinct": f"SELECT COUNT(DISTINCT a.id + b.id * 1000 + c.id * 1000000 + d.id * 1e9) FROM {MANY}",
    "window": f"SELECT SUM(a.id) OVER (ORDER BY b.id, c.id, d.id) FROM {MANY}",
    "zeroblob": "SELECT zeroblob(1000000000)",
    "printf": "SELECT printf('%1000000000d', 1)",
    "format": "SELECT format('%.*c', 1000000000, 'x')",
    "string bomb": f"SELECT CONCAT({BIG}, {BIG})",
    "replace bomb": f"SELECT replace(replace({BIG}, '3', '33333333'), '3', '33333333')",
    "group_concat": f"SELECT group_concat(CONCAT(a.name, b.name, c.name)) FROM {MANY}",
    "sorted strings": f"WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 90000) "
    f"SELECT n, CONCAT({BIG}, n) AS x FROM r ORDER BY x DESC",
    "large rows": f"WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT CONCAT({BIG}, n) FROM r",
    "long instr": f"SELECT SUM(instr(CONCAT(h.name, z.s), CONCAT(z.n, h.id))) FROM {LONG}",
    "long instrs": "SELECT " + " + ".join(["instr(CONCAT(h.id, z.s), z.n)"] * 40) + f" FROM {LONG}",
    "many instrs": "SELECT " + " + ".join(["instr(z.s, z.n)"] * 100) + f" FROM {LONG}",
    "instrs of one text": f"SELECT {' + '.join(['t.s'] * 100)} FROM (SELECT instr(z.s, z.n) AS s FROM {LONG}) AS t",
    "long replace": f"SELECT length(replace(CONCAT(h.name, z.s), CONCAT(z.n, h.id), 'x')) FROM {LONG}",
    "many replaces": "SELECT " + ", ".join(["replace(z.s, z.n, 'x')"] * 100) + f" FROM {LONG}",
    "long like": f"SELECT COUNT(*) FROM {LONG} WHERE CONCAT(z.s, h.name, g.name) LIKE '%a%a%a%a%a%a%a_%a_%a_z'",
    "long glob": f"SELECT COUNT(*) FROM {LONG} WHERE CONCAT(z.s, h.id, g.id) GLOB '*a*a*a*a*[^6]*[^6]?a?z'",
    "long compare": f"SELECT COUNT(*) FROM {LONG} WHERE CONCAT(z.s, h.id) > CONCAT(z.s, g.id)",
    "long trims": f"SELECT SUM(length(trim(CONCAT(z.s, h.id), CONCAT('a', g.id)))) FROM {LONG}",
    "pattern": f"SELECT 'a' LIKE {BIG}",
    "reverse": f"SELECT SUM(length(reverse(CONCAT(z.s, h.id)))) FROM {LONG}",
    "dates": f"SELECT SUM(year('2020-01-01')) + COUNT(date(a.age)) FROM {MANY}",
    "with planning": nested_with(24, "a.x"),
    "with planning, grouped": nested_with(24, "COUNT(*)"),
    "wide": "SELECT " + ", ".join(["1"] * 1900),
    "wide star": f"SELECT {', '.join(f'{t}.*' for t in 'abcdefgh' * 8)} FROM {MANY}",
    "nested parentheses": "SELECT " + "(" * 1500 + "1" + ")" * 1500,
    "unclosed": "SELECT " + "(" * 3000,
    "nots": "SELECT " + "NOT " * 900 + "1",
    "minuses": "SELECT " + "- " * 1500 + "1",
    "cases": "SELECT " + "CASE WHEN 1 THEN " * 150 + "1" + " END" * 150,
    "functions": "SELECT " + "abs(" * 700 + "1" + ")" * 700,
    "subqueries": "SELECT " + "(SELECT " * 400 + "1" + ")" * 400,
    "from subqueries": "SELECT * FROM " + "(SELECT * FROM " * 14 + "person" + ")" * 14,
    "unions": "SELECT 1" + " UNION SELECT 1" * 240,
    "ors": "SELECT 1 WHERE 0" + " OR 0" * 700,
    "plusses": "SELECT 1" + "+1" * 1900,
    "joins": "SELECT COUNT(*) FROM person" + "".join(f" JOIN person p{k} ON 1" for k in range(90)),
    "joins without on": "SELECT a FROM t" + " JOIN t x" * 300,
    "joins of nothing": "SELECT JOIN US ID " + "JOIN US ID " * 300,
    "planning for an error": nested_with(24, "COUNT(*)") + " x" * 30,
    "too long": "SELECT '" + "x" * 1_000_000 + "'",
    "recursive update": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
    "UPDATE person SET age = (SELECT n FROM r)",
    "attach memory": "ATTACH ':memory:' AS evil",
    "natural joins": "SELECT COUNT(*) FROM person" + " NATURAL JOIN person" * 150,
    "nested json": "SELECT json('" + "[" * 1900 + "]" * 1900 + "')",
    "long list": "SELECT 1 WHERE 1 IN (" + ",".join(map(str, range(100_000))) + ")",
    "megabyte of parentheses": "(" * 1_000_000,
    "megabyte of back quotes": "`" * 1_000_001,
    "megabyte of words": "case " * 200_000,
    "megabyte of a name": "DESC " + "a" * 1_000_000,
    "quotes": "SELECT " + "'" * 3001,
    "comments": "/*" * 1900,
    "json": "SELECT value FROM json_each('[1,2,3]')",
    "json tree": "SELECT COUNT(*) FROM json_tree('[[[1]]]')",
    "series": "SELECT * FROM generate_series(1, 1000000000)",
    "dbstat": "SELECT * FROM dbstat",
    "nothing": ";;;",
    "parameter": "SELECT ?, :x, @y",
    "regexp": "SELECT 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaa!' REGEXP '(a+)+$'",
}
ANSWERED = {"from subqueries", "now", "now()", "current", "current date"}
"""What may be answered with rows, having done no harm."""


def build(folder: Path, rows: int = 200) -> Path:
    file = folder / "town.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE person (id INTEGER PRIMARY KEY, name VARCHAR(20), age INT, town TEXT)")
        people = [(k, f"Person {k}", 20 + k % 50, ("Ulm", "Graz", "Brno")[k % 3]) for k in range(1, rows + 1)]
        connection.executemany("INSERT INTO person VALUES (?, ?, ?, ?)", people)
    connection.close()
    return file


def opened(file: Path) -> Database:
    return Database(Source("town", lambda: open_file(file), None, str(file)))


@pytest.fixture
def town(tmp_path: Path) -> Path:
    return build(tmp_path)


def state(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def run_attacks(folder: Path) -> dict[str, Any]:
    """Every attack on one connection: the kind of answer, seconds, and whether the next statement works."""
    database = opened(build(folder))
    database.run("SELECT * FROM person ORDER BY name")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, Any] = {}
    for name, text in ATTACKS.items():
        start = time.thread_time()  # others may have the core, too
        result = database.run(text.replace("{folder}", str(folder)))
        seconds = time.thread_time() - start
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        works = database._run("SELECT COUNT(*), MAX(age) FROM person")[0].rows == ((200, 69),)
        found[name] = (result.kind, result.text, seconds, works, peak)
    return found


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bool]:
    """The attacks in a process of their own, whose memory can be measured; and whether any file changed."""
    folder = tmp_path_factory.mktemp("attacked")
    places = (folder, tmp_path_factory.mktemp("copy"))
    build(places[1])
    code = (
        "import json, sys; from pathlib import Path; from tests.envs.test_sql_engine import run_attacks;"
        "print(json.dumps(run_attacks(Path(sys.argv[1]))))"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=root,
        env={"PYTHONPATH": f"{root / 'src'}:{root}", "TMPDIR": str(folder), "SQLITE_TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout), list(state(folder).values()) == list(state(places[1]).values())


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_stopped_and_the_next_statement_works(name: str, attacked: tuple[dict[str, Any], bool]) -> None:
    kind, text, seconds, works, peak = attacked[0][name]
    assert seconds < 1.5
    assert works
    assert peak < 100
    assert len(text) <= engine.SHOWN + 3
    text.encode()
    assert name in ANSWERED or kind != "rows", text


def test_no_attack_writes_anything(attacked: tuple[dict[str, Any], bool]) -> None:
    assert attacked[1]


def test_the_guards_hold_each_alone(town: Path) -> None:
    """Past the translation, the sandbox itself refuses."""
    database = opened(town)
    for text in ("DELETE FROM person", "PRAGMA query_only=OFF", "ATTACH ':memory:' AS x", "VACUUM INTO '/tmp/x'"):
        assert database._fetch(text)[0] is None
    connection = open_file(town)  # without the authorizer
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM person")


def test_a_stop_by_opcodes_is_the_same_every_time(town: Path) -> None:
    database = opened(town)
    database._watch.opcodes = 200_000
    query = "SELECT COUNT(*) FROM person a, person b, person c"
    assert {database._run(query)[0] for _ in range(3)} == {
        engine.Result(
            None, f"{ERROR}Query execution was interrupted, maximum statement execution time exceeded", "error"
        )
    }


def test_a_column_of_long_texts_is_read_and_one_that_cannot_be_is_told(tmp_path: Path) -> None:
    """More than SQLite may hold at a time, and more than it may hold of one value."""
    file = tmp_path / "notes.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as made, made:
        made.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT, scan TEXT)")
        made.executemany("INSERT INTO note VALUES (?, ?, ?)", ((k, f"{k:09}" * 10_000, "") for k in range(900)))
        made.execute("UPDATE note SET scan = ? WHERE id = 7", ("x" * 200_000,))
    database = opened(file)
    assert database.run("SELECT substr(body, 1, 9) FROM note WHERE id = 12").rows == (("000000012",),)
    assert database.run("SELECT scan FROM note WHERE id = 1").text == (
        f"{ERROR}A column or table of such size cannot be answered here exactly as MySQL does; write the statement"
        " without it"
    )
    assert database.run("SELECT COUNT(*) FROM note").rows == ((900,),)


def test_connections_do_not_cross_a_fork(town: Path) -> None:
    source = Source("town", lambda: open_file(town), None, str(town))
    ours = engine.database(source)
    assert engine.database(source) is ours
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        theirs = engine.database(source)
        good = theirs is not ours and theirs.run("SELECT MIN(id) FROM person").rows == ((1,),)
        os.write(write, b"y" if good else b"n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"y"
    assert ours.run("SELECT MAX(id) FROM person").rows == ((200,),)


def test_a_thread_that_ends_leaves_no_connection(town: Path) -> None:
    """SQLite's limit of memory is the process's: MLflow would run out of it after some iterations."""
    opened_there: list[weakref.ref[Database]] = []

    def work() -> None:
        source = Source("town", lambda: open_file(town), None, str(town))
        assert engine.database(source).run("SELECT COUNT(*), MAX(id) FROM person").rows
        opened_there.append(weakref.ref(engine.database(source)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert [known() for known in opened_there] == [None]


def test_few_connections_and_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_kept", engine._Kept())
    monkeypatch.setattr(engine, "MAX_OPEN", 2)
    monkeypatch.setattr(engine, "KEPT", 100_000)
    file = build(tmp_path)
    for k in range(5):
        database = engine.database(Source(f"town{k}", lambda: open_file(file), None, str(file)))
        for n in range(30):
            assert database.run(f"SELECT {n}, name FROM person").rows is not None
    assert len(engine._kept.databases) == 2
    assert 0 < engine._kept.weight == sum(cost for _, cost in engine._kept.results.values()) <= 100_000


# MySQL's words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("SHOW TABLES;", [("person",)]),
        ("show full tables", [("person", "BASE TABLE")]),
        ("SHOW DATABASES LIKE 'TOWN'", [("town",)]),
        ("SELECT 7/2", [(Decimal("3.5000"),)]),
        ("SELECT 7 DIV 2", [(3,)]),
        ("SELECT CONCAT('a', 'b', 1)", [("ab1",)]),
        ("SELECT IF(1 > 2, 'x', 'y')", [("y",)]),
        ('SELECT COUNT(*) FROM person WHERE town = "ULM"', [(66,)]),
        ("SELECT COUNT(*) FROM person WHERE 'ulm' = town", [(66,)]),
        ("SELECT COUNT(*) FROM person WHERE town IN ('ulm', 'graz')", [(133,)]),
        ("SELECT COUNT(*) FROM person WHERE town != 'ulm'", [(134,)]),
        ("SELECT COUNT(*) FROM person WHERE name LIKE 'person 1_'", [(10,)]),
        ("SELECT COUNT(*) FROM town.person AS p WHERE p.age = 30", [(4,)]),
        ("SELECT `name` FROM `person` LIMIT 1, 2", [("Person 2",), ("Person 3",)]),
        ("SELECT LEFT(name, 3), RIGHT(name, 2) FROM person WHERE id = 10", [("Per", "10")]),
        ("SELECT YEAR('2020-03-04'), MONTH('2020-03-04')", [(2020, 3)]),
        ("SELECT id FROM person WHERE age = 20 ORDER BY id LIMIT 1 -- why not", [(50,)]),
        ("SELECT\n  COUNT(*)\nFROM person;", [(200,)]),
        ("# only a remark\nSELECT 1", [(1,)]),
        ("SELECT 1 WHERE 1 = 0", []),
    ],
)
def test_mysql_on_sqlite(town: Path, statement: str, rows: list[tuple[Any, ...]]) -> None:
    result = opened(town).run(statement)
    assert result.rows == tuple(rows), result.text
    assert result.text == str(rows)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("SELECT * FROM people", "Table 'town.people' doesn't exist\n"),
        ("DESC people", "Table 'town.people' doesn't exist\n"),
        ("SELECT * FROM sea.town", "Unknown database 'sea'"),
        ("SELECT nope FROM person", "Unknown column 'nope' in 'field list'"),
        ("SELECT `nope` FROM person", "Unknown column 'nope' in 'field list'"),
        ("SELECT name FROM person WHERE nope = 1", "Unknown column 'nope' in 'where clause'"),
        ("SELECT name FROM person ORDER BY nope", "Unknown column 'nope' in 'order clause'"),
        ("SELECT p.nope FROM person p", "Unknown column 'p.nope' in 'field list'"),
        ("SELECT id FROM person a JOIN person b ON a.id = b.id", "Column 'id' in field list is ambiguous"),
        ("SELECT foo(1)", "FUNCTION town.foo does not exist"),
        ("SELECT SUM(SUM(age)) FROM person", "Invalid use of group function"),
        ("SELECT 1 UNION SELECT 1, 2", "The used SELECT statements have a different number of columns"),
        ("DROP TABLE person", "DROP command denied; only SELECT, SHOW TABLES and DESC can be run"),
        ("DO 1", "DO command denied; only SELECT, SHOW TABLES and DESC can be run"),
        ("CHECK TABLE person", "CHECK command denied; only SELECT, SHOW TABLES and DESC can be run"),
        ("", "Query was empty"),
    ],
)
def test_errors_read_like_mysqls(town: Path, statement: str, text: str) -> None:
    result = opened(town).run(statement)
    assert (result.rows, result.text) == (None, ERROR + text)


@pytest.mark.parametrize(
    ("statement", "near"),
    [
        ("SELEC 1", "SELEC 1"),
        ("SELECT", ""),
        ("SELECT name FROM person WHERE WHERE", "WHERE"),
        ("SELECT age FROM person GROUP BY age WHERE WHERE", "WHERE WHERE"),
        ("SELECT name, FROM person", "FROM person"),
    ],
)
def test_syntax_errors_quote_the_rest(town: Path, statement: str, near: str) -> None:
    assert opened(town).run(statement).text == engine.shown(f"{ERROR}{syntax_error(near)}")


def test_desc_takes_what_is_written_down_else_the_database(town: Path) -> None:
    rows = (
        ("id", "integer", "NO", "PRI", None, ""),
        ("name", "varchar(20)", "YES", "", None, ""),
        ("age", "int", "YES", "", None, ""),
        ("town", "text", "YES", "", None, ""),
    )
    for statement in ("DESC person", "describe `PERSON`;", "SHOW COLUMNS FROM person", "desc town.person"):
        assert opened(town).run(statement).rows == rows
    written = {"Person": [("id", "int", "NO", "PRI", None, "auto_increment")]}
    other = Database(Source("town", lambda: open_file(town), written, "x"))
    assert other.run("DESC person").rows == tuple(written["Person"])


def test_long_observations_are_cut(town: Path) -> None:
    result = opened(town).run("SELECT * FROM person")
    assert result.rows is not None
    assert len(result.rows) == 200
    assert result.text == str(list(result.rows))[:350] + "..."


def test_text_that_is_no_utf8_is_shown_somehow(tmp_path: Path) -> None:
    file = tmp_path / "town.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE t (x TEXT)")
        connection.execute("INSERT INTO t VALUES (CAST(X'41E942' AS TEXT))")
    connection.close()
    assert opened(file).run("SELECT x FROM t").rows == (("A\ufffdB",),)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "town.sqlite"
    file.write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    with pytest.raises(IprError, match=r"town\.sqlite"):
        opened(file)


def syntax_error(near: str) -> str:
    return (
        "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version for the"
        f" right syntax to use near '{near}' at line 1\n"
    )


PIECES = """SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT JOIN ON AS person name age town COUNT ( ) ( ) * , . ; = < 'x'
" ` UNION ALL WITH r CASE WHEN THEN END NOT IN EXISTS BETWEEN AND OR LIKE NULL OVER PARTITION INTERVAL DAY CAST CONVERT
USING MATCH AGAINST SHOW DESC SET := @ ? -- /* */ # 0x1 1e999 _utf8 \u00e9 \ud83d { } [ ]"""


def test_no_text_raises_or_takes_long(town: Path) -> None:
    """Statements put together from pieces, most of them nonsense."""
    pieces = PIECES.split()
    rng = random.Random(7)
    database = opened(town)
    for k in range(3000):
        text = " ".join(rng.choices(pieces, k=rng.randint(1, 40)))
        if k % 10 == 0:
            text = "SELECT " + (" ".join(rng.choices(pieces, k=4)) + " ") * 200
        start = time.process_time()
        database._run(text.encode("utf-8", "replace").decode())[0].text.encode()
        assert time.process_time() - start < 1.5, text
