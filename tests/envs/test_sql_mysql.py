"""MySQL 8's answers on SQLite: values from its reference manual, and those on which MariaDB 10.11 agrees with it.

https://dev.mysql.com/doc/refman/8.0/en/functions.html. Errors are in the words of MySQL 8's message file.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ipr.envs.sql.collation import key
from ipr.envs.sql.engine import Database, Source, open_file
from ipr.envs.sql.errors import ERROR

D = Decimal
DESCRIBED = {
    "Town": [
        ("id", "int", "NO", "PRI", None, ""),
        ("Name", "varchar(40)", "YES", "", None, ""),
        ("people", "text", "YES", "", None, ""),
        ("founded", "date", "YES", "", None, ""),
        ("height", "float(10,2)", "YES", "", None, ""),
        ("rate", "float", "YES", "", None, ""),
        ("tax", "decimal(10,2)", "YES", "", None, ""),
        ("region", "char(10)", "YES", "MUL", None, ""),
    ],
    "street": [
        ("id", "int", "NO", "PRI", None, "auto_increment"),
        ("town_id", "int", "YES", "MUL", None, ""),
        ("title", "varchar(20)", "NO", "", "", ""),
        ("opened", "datetime", "YES", "", None, ""),
    ],
}
TOWNS = [
    (3, "Ärding", "150", "1990-05-17", 12.5, 8.1, 1.25, "North"),
    (1, "arding", "90", "1999-01-02", 7.25, 0.5, 2.5, "South"),
    (2, "Zell am See", "1200 or so", None, 757.0, 8.1, 3.75, "north"),
    (4, "Zell-Weg", None, "2004-02-29", None, None, None, None),
]
STREETS = [
    (1, 1, "Main", "2001-01-01 10:00:00"),
    (2, 1, "main", "2001-02-01 00:00:00"),
    (3, 3, "High", None),
    (4, 3, "50% off", "2009-10-04 22:23:00"),
    (5, 2, "a_b", "2010-07-30 08:05:09"),
    (6, 9, "acb", "2010-07-30 08:05:09"),
]


def land(file: Path) -> Path:
    """The database as a SQLite file, with its `schema.json`."""
    with sqlite3.connect(file) as connection:
        connection.executescript(
            """CREATE TABLE Town (id INT, Name TEXT, people TEXT, founded TEXT, height REAL, rate REAL, tax NUMERIC,
            region TEXT, PRIMARY KEY (id));
            CREATE TABLE street (id INTEGER PRIMARY KEY, town_id INT, title TEXT, opened TEXT);
            CREATE VIEW broken AS SELECT nope FROM lost; CREATE VIEW named AS SELECT Name FROM Town"""
        )
        connection.executemany("INSERT INTO Town VALUES (?, ?, ?, ?, ?, ?, ?, ?)", TOWNS)
        connection.executemany("INSERT INTO street VALUES (?, ?, ?, ?)", STREETS)
    connection.close()
    names = ("field", "type", "null", "key", "default", "extra")
    written = {t: [dict(zip(names, row, strict=True)) for row in rows] for t, rows in DESCRIBED.items()}
    file.with_name("schema.json").write_text(json.dumps(written))
    return file


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    file = land(tmp_path_factory.mktemp("mysql") / "Land.sqlite")
    return Database(Source("Land", lambda: open_file(file), DESCRIBED, str(file), served=True))


VALUES: dict[str, Any] = {
    # type conversion in comparisons (type-conversion.html)
    "1 = '1'": 1,
    "1 > '6x'": 0,
    "7 > '6x'": 1,
    "0 > 'x6'": 0,
    "0 = 'x6'": 1,
    "'a' = 'A'": 1,
    "'a' = 'a '": 0,  # utf8mb4_0900_ai_ci is NO PAD
    "'é' = 'E'": 1,
    "'straße' = 'strasse'": 1,
    "NULL = NULL": None,
    "NULL <=> NULL": 1,
    "2 BETWEEN '1' AND 3": 1,
    "'b' BETWEEN 'A' AND 'C'": 1,
    "3 IN (1, '3')": 1,
    "5 && 0": 0,
    "5 || 0": 1,
    "NOT 0": 1,
    "1 XOR 1": 0,
    # pattern matching
    "'David!' LIKE 'David_'": 1,
    r"'David_' LIKE 'David\_'": 1,
    r"'David!' LIKE 'David\_'": 0,
    "'David_' LIKE 'David|_' ESCAPE '|'": 1,
    "'Ärger' LIKE 'a%R'": 1,
    "10 LIKE '1%'": 1,
    "'Michael!' REGEXP '.*'": 1,
    "'pix' REGEXP '^(pi|apa)$'": 0,
    "'aXbc' REGEXP '^[^a-dXYZ]+$'": 0,
    "'justalnums' REGEXP '[[:alnum:]]+'": 1,
    # arithmetic and rounding
    "7 / 2": D("3.5000"),
    "1 / 3 * 3": D("1.0000"),
    "5 DIV 2": 2,
    "-5 DIV 2": -2,
    "10.5 % 3": D("1.5"),
    "1 / 0": None,
    "1.10 + 2.205": D("3.305"),
    "ROUND(-1.58)": D("-2"),
    "ROUND(1.298, 1)": D("1.3"),
    "ROUND(23.298, -1)": D("20"),
    "ROUND(2.5)": D("3"),
    "ROUND(25e-1)": 2.0,
    "ROUND(5, 2)": 5,
    "TRUNCATE(-1.999, 1)": D("-1.9"),
    "ROUND(-0.4)": D("0"),  # decimals know no negative zero
    "-0.0": D("0.0"),
    "0 * -1.5": D("0.0"),
    "TRUNCATE(-0.4, 0)": D("0"),
    "CAST(-0.001 AS DECIMAL(5, 2))": D("0.00"),
    "-1 / 100000": D("0.0000"),
    "CONCAT(ROUND(-0.4), -0.00)": "00.00",
    "CAST(-1 AS UNSIGNED)": 18446744073709551615,
    "-1 | 0": 18446744073709551615,
    "CAST(3 AS UNSIGNED) - 2": 1,
    "FLOOR(-1.23)": -2,
    "CEILING(1.23)": 2,
    "PI()": 3.141593,
    "CAST(2.5 AS SIGNED)": 3,
    "CAST('2.9x' AS SIGNED)": 2,
    "CAST(' -2e3' AS SIGNED)": -2,
    "CAST('99999999999999999999' AS SIGNED)": -1,
    "CAST(1.005 AS DECIMAL(10, 2))": D("1.01"),
    "CAST(3.50 AS CHAR)": "3.50",
    "CAST('2010-07-30 01:02:03' AS DATE)": date(2010, 7, 30),
    "FORMAT(12332.123456, 4)": "12,332.1235",
    "FORMAT(12332.2, 0)": "12,332",
    "FORMAT(2.5, 0)": "3",
    "FORMAT(2.5e0, 0)": "2",  # doubles are rounded half to even
    "FORMAT('1234.5', 0)": "1,234",
    "FORMAT(0.125e0, 2)": "0.12",
    "FORMAT(-0.4, 0)": "0",
    "FORMAT(1234567.891, 2, 'en_US')": "1,234,567.89",
    "'1e400' + 0": 1.7976931348623157e308,
    "POW(2, -1)": 0.5,
    "GREATEST(2, 0)": 2,
    "LEAST(34.0, 3.0)": D("3.0"),
    "IF(1 > 2, 2, 3)": 3,
    "IFNULL(NULL, 10)": 10,
    "IFNULL(1, 'x')": "1",
    "NULLIF(1, 1)": None,
    "CASE 1 WHEN 1 THEN 'one' ELSE 'more' END": "one",
    # texts
    "LENGTH('é')": 2,
    "CHAR_LENGTH('é')": 1,
    "CONCAT('My', NULL, 'QL')": None,
    "CONCAT(14.3)": "14.3",
    "CONCAT_WS(',', 'First', NULL, 'Last')": "First,Last",
    "SUBSTRING('Quadratically', 5, 6)": "ratica",
    "SUBSTRING('Sakila', -5, 3)": "aki",
    "SUBSTRING('abc', 0)": "",
    "SUBSTRING('abc' FROM 2 FOR 1)": "b",
    "POSITION('b' IN 'abc')": 2,
    "SUBSTRING_INDEX('www.mysql.com', '.', -2)": "mysql.com",
    "LPAD('hi', 4, '??')": "??hi",
    "LPAD('hi', 1, '??')": "h",
    "TRIM(LEADING 'x' FROM 'xxxbarxxx')": "barxxx",
    "FIELD('Bb', 'Aa', 'bB')": 2,
    "FIND_IN_SET('b', 'a,b,c')": 2,
    "INSTR('foobarbar', 'BAR')": 4,
    "LOCATE('bar', 'foobarbar', 5)": 7,
    "LOCATE('e', 'Liège')": 5,
    "INSTR('LIÈGE', 'è')": 3,
    "STRCMP('text', 'text2')": -1,
    "INSERT('Quadratic', 3, 4, 'What')": "QuWhattic",
    "UPPER('straße')": "STRAßE",
    "DATABASE()": "land",
    # dates
    "DATE_FORMAT('2009-10-04 22:23:00', '%W %M %Y')": "Sunday October 2009",
    "DATE_FORMAT('1900-10-04 22:23:00', '%D %y %a %d %m %b %j')": "4th 00 Thu 04 10 Oct 277",
    "DATE_FORMAT('1997-10-04 22:23:00', '%H %k %I %r %T %S %w')": "22 22 10 10:23:00 PM 22:23:00 00 6",
    "DATE_FORMAT('1999-01-01', '%X %V')": "1998 52",
    "DATE_FORMAT('2006-06-00', '%d')": "00",
    "DATE_FORMAT('2020-02-29', '%U %u %v %x %e %c %p %l %h %f %%')": "08 09 09 2020 29 2 AM 12 12 000000 %",
    "STR_TO_DATE('01,5,2013', '%d,%m,%Y')": date(2013, 5, 1),
    "STR_TO_DATE('a09:30:17', 'a%h:%i:%s')": timedelta(hours=9, minutes=30, seconds=17),
    "STR_TO_DATE('abc', '%Y')": None,
    "DATE_ADD('2018-05-01', INTERVAL 1 DAY)": "2018-05-02",
    "DATE_ADD(DATE '2018-05-01', INTERVAL 1 DAY)": date(2018, 5, 2),
    "ADDDATE('2018-05-01', 1)": "2018-05-02",
    "DATE_ADD('2018-05-01', INTERVAL -1 DAY)": "2018-04-30",
    "TIMESTAMP '2018-05-01 10:00:00'": datetime(2018, 5, 1, 10),
    "CAST('2018-02-30' AS DATE)": None,
    "DATE_SUB('2018-05-01', INTERVAL 1 YEAR)": "2017-05-01",
    "DATE_ADD('2020-12-31 23:59:59', INTERVAL 1 SECOND)": "2021-01-01 00:00:00",
    "DATE_SUB('2025-01-01 00:00:00', INTERVAL '1 1:1:1' DAY_SECOND)": "2024-12-30 22:58:59",
    "DATE_ADD('2024-01-31', INTERVAL 1 MONTH)": "2024-02-29",
    "TIMESTAMPDIFF(MONTH, '2003-02-01', '2003-05-01')": 3,
    "TIMESTAMPDIFF(YEAR, '2002-05-01', '2001-01-01')": -1,
    "TIMESTAMPDIFF(MINUTE, '2003-02-01', '2003-05-01 12:05:55')": 128885,
    "DATEDIFF('2007-12-31 23:59:59', '2007-12-30')": 1,
    "EXTRACT(YEAR_MONTH FROM '2019-07-02 01:02:03')": 201907,
    "WEEK('2008-02-20', 1)": 8,
    "WEEK('2008-12-31', 1)": 53,
    "YEARWEEK('1987-01-01')": 198652,
    "DAYOFWEEK('2007-02-03')": 7,
    "LAST_DAY('2004-02-05')": date(2004, 2, 29),
    "TO_DAYS('2007-10-07')": 733321,
    "YEAR('abc')": None,
}


@pytest.mark.parametrize("expression", VALUES)
def test_an_expression_has_mysqls_value_and_type(database: Database, expression: str) -> None:
    result = database.run(f"SELECT {expression}")
    assert result.rows is not None, result.text
    assert repr(result.rows) == repr(((VALUES[expression],),))


ROWS: dict[str, list[tuple[Any, ...]]] = {
    # a table is read in the order of its key, groups come as they are first seen
    "SELECT id, Name FROM town": [(1, "arding"), (2, "Zell am See"), (3, "Ärding"), (4, "Zell-Weg")],
    "SELECT region, COUNT(*) FROM town GROUP BY region": [(None, 1), ("north", 2), ("South", 1)],
    "SELECT town_id, COUNT(*) FROM street GROUP BY town_id": [(1, 2), (2, 1), (3, 2), (9, 1)],  # from the index alone
    "SELECT town_id, MAX(title) FROM street GROUP BY town_id": [(1, "Main"), (2, "a_b"), (3, "High"), (9, "acb")],
    "SELECT DISTINCT region FROM town": [(None,), ("north",), ("South",)],
    "SELECT DISTINCT title FROM street WHERE id < 4": [("Main",), ("High",)],
    "SELECT GROUP_CONCAT(name), ANY_VALUE(name), SUM(id) FROM town": [
        ("arding,Zell am See,Ärding,Zell-Weg", "arding", D("10"))
    ],
    "SELECT t.name, COUNT(s.id) FROM town t LEFT JOIN street s ON s.town_id = t.id GROUP BY t.id": [
        ("arding", 2),
        ("Zell am See", 1),
        ("Ärding", 2),
        ("Zell-Weg", 0),
    ],
    "SELECT name FROM town ORDER BY name": [("arding",), ("Ärding",), ("Zell am See",), ("Zell-Weg",)],
    "SELECT COUNT(DISTINCT name), COUNT(DISTINCT region, tax) FROM town": [(3, 3)],
    "SELECT MAX(name), MIN(title) FROM town, street": [("Zell-Weg", "50% off")],
    "SELECT 3 UNION SELECT 1 UNION SELECT 3": [(3,), (1,)],
    "SELECT 'b' UNION SELECT 'B' UNION SELECT 'a'": [("b",), ("a",)],
    "SELECT 1 UNION SELECT 2.50": [(D("1.00"),), (D("2.50"),)],
    "(SELECT id FROM town ORDER BY id DESC LIMIT 1) UNION ALL (SELECT id FROM street LIMIT 1)": [(4,), (1,)],
    "SELECT town_id FROM street INTERSECT SELECT id FROM town": [(1,), (2,), (3,)],
    "SELECT id FROM town EXCEPT SELECT town_id FROM street": [(4,)],
    # text beside numbers, dates and decimals
    "SELECT id FROM town WHERE people > 100": [(2,), (3,)],
    "SELECT id FROM town WHERE people BETWEEN 90 AND '150'": [(1,), (3,)],
    "SELECT people + 1 FROM town WHERE id = 2": [(1201.0,)],
    "SELECT id FROM town WHERE founded > '1990-05-17'": [(1,), (4,)],
    "SELECT id FROM town WHERE founded = 19900517": [(3,)],
    "SELECT founded, YEAR(founded) FROM town WHERE id = 3": [(date(1990, 5, 17), 1990)],
    "SELECT AVG(founded) FROM town WHERE id < 4": [(D("19945309.5000"),)],
    "SELECT opened + INTERVAL 1 DAY FROM street WHERE id = 1": [(datetime(2001, 1, 2, 10),)],
    "SELECT SUM(tax), AVG(tax), MAX(tax), tax * 2 > 5 FROM town WHERE id = 2 GROUP BY tax": [
        (D("3.75"), D("3.750000"), D("3.75"), 1)
    ],
    "SELECT SUM(id), AVG(id), COUNT(id), SUM(id) / 3 FROM town": [(D("10"), D("2.5000"), 4, D("3.3333"))],
    "SELECT AVG(height), SUM(height) FROM town": [(258.916667, 776.75)],
    "SELECT rate, rate = 8.1, rate + 0 FROM town WHERE id = 3": [(8.1, 0, 8.100000381469727)],
    # a FLOAT beside an integer that is written out stays one; beside an INT column it is a DOUBLE
    "SELECT IFNULL(rate, 0), IF(1, rate, 0), CASE WHEN 1 THEN rate ELSE 0 END, IFNULL(rate, id) FROM town LIMIT 2, 1": [
        (8.1, 8.1, 8.1, 8.100000381469727)
    ],
    "SELECT rate FROM town WHERE id = 3 UNION SELECT 0": [(8.1,), (0.0,)],
    "SELECT rate FROM town WHERE id = 3 UNION SELECT id FROM street WHERE id = 1": [(8.100000381469727,), (1.0,)],
    "SELECT height = 12.5, height * 3 FROM town WHERE id = 3": [(1, 37.5)],
    "SELECT STD(id), VAR_SAMP(id) FROM town": [(1.118033988749895, 1.6666666666666667)],
    # queries in queries
    "SELECT id FROM town WHERE tax = (SELECT MAX(tax) FROM town)": [(2,)],
    "SELECT id FROM town WHERE id = ANY (SELECT town_id FROM street) AND id >= ALL (SELECT 2)": [(2,), (3,)],
    "SELECT 1 > ALL (SELECT tax FROM town)": [(0,)],
    "SELECT 5 > ALL (SELECT tax FROM town)": [(None,)],
    "SELECT (region, tax) = ('north', 1.25) FROM town WHERE id = 3": [(1,)],
    "SELECT id FROM town WHERE (region, tax) IN (SELECT 'NORTH', 1.25)": [(3,)],
    "SELECT t.n FROM (SELECT town_id, COUNT(*) AS n FROM street GROUP BY town_id) t WHERE t.n > 1": [(2,), (2,)],
    "WITH big AS (SELECT id, name FROM town WHERE tax > 2) SELECT COUNT(*) FROM big JOIN town USING (id)": [(2,)],
    "SELECT name, (SELECT COUNT(*) FROM street s WHERE s.town_id = t.id) n FROM town t ORDER BY n DESC, id LIMIT 2": [
        ("arding", 2),
        ("Ärding", 2),
    ],
    # joins
    "SELECT t.id, s.id FROM town t LEFT JOIN street s ON s.town_id = t.id AND s.title = 'MAIN' WHERE t.id > 2": [
        (4, None),
        (3, None),
    ],
    "SELECT COUNT(*) FROM town t RIGHT JOIN street s ON s.town_id = t.id": [(6,)],
    "SELECT id FROM town JOIN street USING (id) WHERE title = 'main'": [(1,), (2,)],
    # groups
    "SELECT t.name, COUNT(*) FROM town t JOIN street s ON t.id = s.town_id GROUP BY s.town_id": [
        ("arding", 2),
        ("Zell am See", 1),
        ("Ärding", 2),
    ],
    # a name that several tables have is that of the select list
    "SELECT t.id, COUNT(*) FROM town t JOIN street s ON t.id = s.town_id GROUP BY id": [(1, 2), (2, 1), (3, 2)],
    "SELECT s.id, t.name FROM town t JOIN street s ON t.id = s.town_id GROUP BY id, name ORDER BY id LIMIT 1": [
        (1, "arding")
    ],
    "SELECT UPPER(title) id, COUNT(*) FROM town t JOIN street s ON t.id = s.town_id GROUP BY id": [
        ("A_B", 1),
        ("HIGH", 1),
        ("50% OFF", 1),
        ("MAIN", 2),
    ],
    "SELECT region r, COUNT(*) FROM town GROUP BY r, LENGTH(r)": [(None, 1), ("north", 2), ("South", 1)],
    "SELECT id x FROM town ORDER BY x % 2, -x": [(4,), (2,), (3,), (1,)],
    "SELECT UPPER(region) region, MAX(id) FROM town GROUP BY region": [(None, 4), ("NORTH", 3), ("SOUTH", 1)],
    "SELECT region r, SUM(id) FROM town GROUP BY r HAVING r IS NOT NULL AND SUM(id) > 1": [("north", D("5"))],
    "SELECT rate r FROM town HAVING r * 2e0 > 16 ORDER BY r * 2e0 LIMIT 1": [(8.1,)],
    "SELECT id, tax FROM town HAVING tax > 2.5": [(2, D("3.75"))],
    "SELECT region, COUNT(*) FROM town WHERE id < 4 GROUP BY region WITH ROLLUP": [
        ("north", 2),
        ("South", 1),
        (None, 3),
    ],
    "SELECT GROUP_CONCAT(title ORDER BY id DESC SEPARATOR '; ') FROM street WHERE id < 4": [("High; main; Main",)],
    "SELECT GROUP_CONCAT(DISTINCT title) FROM street WHERE id < 4": [("High,Main",)],
    "SELECT MAX(id) FROM town ORDER BY name": [(4,)],
    "SELECT name, RANK() OVER (ORDER BY region) FROM town WHERE id < 4 ORDER BY id": [
        ("arding", 3),
        ("Zell am See", 1),
        ("Ärding", 1),
    ],
    # rows leave in the order for which a window sorted them
    "SELECT name, RANK() OVER (ORDER BY region) FROM town WHERE id < 4": [
        ("Zell am See", 1),
        ("Ärding", 1),
        ("arding", 3),
    ],
    "SELECT name, ROW_NUMBER() OVER (ORDER BY region) FROM town": [
        ("Zell-Weg", 1),
        ("Zell am See", 2),
        ("Ärding", 3),
        ("arding", 4),
    ],
    "SELECT region, RANK() OVER (ORDER BY COUNT(*) DESC) FROM town GROUP BY region": [
        ("north", 1),
        (None, 2),
        ("South", 2),
    ],
    "SELECT id, ROW_NUMBER() OVER (PARTITION BY town_id ORDER BY id DESC) FROM street WHERE id < 4": [
        (2, 1),
        (1, 2),
        (3, 1),
    ],
    # the schema
    "SHOW TABLES": [("broken",), ("named",), ("street",), ("town",)],
    "SHOW FULL TABLES FROM land LIKE 't%'": [("town", "BASE TABLE")],
    "DESC Street": [tuple(row) for row in DESCRIBED["street"]],
    "DESC street Title": [("title", "varchar(20)", "NO", "", "", "")],
    "EXPLAIN land.street 'o%'": [("opened", "datetime", "YES", "", None, "")],
    "SHOW COLUMNS IN street IN land LIKE 'o%'": [("opened", "datetime", "YES", "", None, "")],
    "SHOW COLUMNS FROM street LIKE 'o%'": [("opened", "datetime", "YES", "", None, "")],
    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'": [
        ("street",),
        ("town",),
    ],
    "SHOW CREATE TABLE street": [
        (
            "street",
            "CREATE TABLE `street` (\n  `id` int NOT NULL AUTO_INCREMENT,\n  `town_id` int DEFAULT NULL,\n"
            "  `title` varchar(20) NOT NULL DEFAULT '',\n  `opened` datetime DEFAULT NULL,\n  PRIMARY KEY (`id`),\n"
            "  KEY `town_id` (`town_id`)\n) ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb4"
            " COLLATE=utf8mb4_0900_ai_ci",
        )
    ],
    r"SELECT id FROM street WHERE title LIKE '%\%%'": [(4,)],
    r"SELECT id FROM street WHERE title LIKE 'a\_b'": [(5,)],
    "SELECT name FROM named LIMIT 1": [("Ärding",)],
}


def test_defaults_are_told_as_mysql_tells_them(tmp_path: Path) -> None:
    """Equal to MySQL 9.7.4's answers, `integer` apart."""
    file = tmp_path / "v.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            """CREATE TABLE votes (id integer NOT NULL, state varchar(9) DEFAULT 'N''Y', n int DEFAULT 0,
            created timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, seen timestamp, free int DEFAULT NULL,
            PRIMARY KEY (id))"""
        )
    database = Database(Source("v", lambda: open_file(file), {}, str(file), served=False))
    described, created = (database.run(f"{asked} votes").rows or () for asked in ("DESC", "SHOW CREATE TABLE"))
    assert described[1:] == (
        ("state", "varchar(9)", "YES", "", "N'Y", ""),
        ("n", "int", "YES", "", "0", ""),
        ("created", "timestamp", "NO", "", "CURRENT_TIMESTAMP", "DEFAULT_GENERATED"),
        ("seen", "timestamp", "YES", "", None, ""),
        ("free", "int", "YES", "", None, ""),
    )
    assert len(created) == 1
    text = str(created[0][1])
    assert text.splitlines()[2:7] == [
        "  `state` varchar(9) DEFAULT 'N''Y',",
        "  `n` int DEFAULT '0',",
        "  `created` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,",
        "  `seen` timestamp NULL DEFAULT NULL,",
        "  `free` int DEFAULT NULL,",
    ]


@pytest.mark.parametrize("statement", ROWS)
def test_a_query_has_mysqls_rows(database: Database, statement: str) -> None:
    result = database.run(statement)
    assert result.rows is not None, result.text
    assert repr(list(result.rows)) == repr(ROWS[statement])


_MODE = "this is incompatible with sql_mode=only_full_group_by"
ERRORS = {
    "SELECT nope FROM town": "Unknown column 'nope' in 'field list'",
    "SELECT id FROM town WHERE nope = 1": "Unknown column 'nope' in 'where clause'",
    "SELECT id x FROM town WHERE x = 1": "Unknown column 'x' in 'where clause'",
    "SELECT id FROM town GROUP BY nope": "Unknown column 'nope' in 'group statement'",
    "SELECT region FROM town GROUP BY region HAVING tax > 1": "Unknown column 'tax' in 'having clause'",
    "SELECT id FROM town ORDER BY 4": "Unknown column '4' in 'order clause'",
    "SELECT t.id FROM town t JOIN street s ON t.nope = s.id": "Unknown column 't.nope' in 'on clause'",
    "SELECT id FROM town, street": "Column 'id' in field list is ambiguous",
    # the select list is looked at first, then WHERE, then ON
    "SELECT nope FROM town t JOIN street s ON t.no = s.id WHERE none = 1": "Unknown column 'nope' in 'field list'",
    "SELECT t.id FROM town t JOIN street s ON t.no = s.id WHERE none = 1": "Unknown column 'none' in 'where clause'",
    "SELECT x.* FROM town": "Unknown table 'x'",
    "SELECT 1 FROM town t, street t": "Not unique table/alias: 't'",
    "SELECT * FROM Villages": "Table 'land.villages' doesn't exist\n",
    "DESC Villages": "Table 'land.villages' doesn't exist\n",
    "SELECT * FROM sea.town": "Unknown database 'sea'",
    "SELECT * FROM (SELECT 1)": "Every derived table must have its own alias",
    "SELECT * FROM (SELECT 1 AS a, 2 AS a) t": "Duplicate column name 'a'",
    "SELECT id FROM town WHERE id = MAX(id)": "Invalid use of group function",
    "SELECT MAX(COUNT(*)) FROM town GROUP BY region": "Invalid use of group function",
    "SELECT COUNT(*) n FROM town GROUP BY n": "Can't group on 'n'",
    "SELECT id FROM town WHERE id = (SELECT town_id FROM street)": "Subquery returns more than 1 row",
    "SELECT id FROM town WHERE id = (SELECT 1, 2)": "Operand should contain 1 column(s)",
    "SELECT id FROM town WHERE id IN (SELECT id FROM street LIMIT 1)": (
        "This version of MySQL doesn't yet support 'LIMIT & IN/ALL/ANY/SOME subquery'"
    ),
    "SELECT 1 UNION SELECT 1, 2": "The used SELECT statements have a different number of columns",
    "SELECT nope(1)": "FUNCTION land.nope does not exist",
    "SELECT CONCAT()": "Incorrect parameter count in the call to native function 'CONCAT'",
    "SELECT id FROM town WHERE founded > 'soon'": "Incorrect DATE value: 'soon'",
    "SELECT name, COUNT(*) FROM town": (
        f"In aggregated query without GROUP BY, expression #1 of SELECT list contains nonaggregated column"
        f" 'land.town.Name'; {_MODE}"
    ),
    "SELECT region, t.name FROM town t GROUP BY region": (
        "Expression #2 of SELECT list is not in GROUP BY clause and contains nonaggregated column 'land.t.Name' which"
        f" is not functionally dependent on columns in GROUP BY clause; {_MODE}"
    ),
    "SELECT id FROM town ORDER BY COUNT(*)": (
        "Expression #1 of ORDER BY contains aggregate function and applies to the result of a non-aggregated query"
    ),
    "SELECT DISTINCT name FROM town ORDER BY id": (
        "Expression #1 of ORDER BY clause is not in SELECT list, references column 'land.town.id' which is not in"
        " SELECT list; this is incompatible with DISTINCT"
    ),
    "SELECT COUNT(*) FROM town t JOIN street s ON t.id = s.town_id GROUP BY id": (
        "Column 'id' in group statement is ambiguous"
    ),
    "SELECT t.id, s.id FROM town t JOIN street s ON 1 GROUP BY id": "Column 'id' in group statement is ambiguous",
    "SELECT UPPER(q) q FROM town GROUP BY LENGTH(q)": "Unknown column 'q' in 'field list'",
    "SELECT t.id FROM town t JOIN street s ON 1 ORDER BY id + 1": "Column 'id' in order clause is ambiguous",
    "SELECT t.id, s.id FROM town t JOIN street s ON 1 ORDER BY id": "Column 'id' in order clause is ambiguous",
    "SELECT t.id, s.id FROM town t JOIN street s ON 1 HAVING id > 1": "Column 'id' in having clause is ambiguous",
    "SELECT 1e308 * 10": "DOUBLE value is out of range in '(1e308 * 10)'",
    "SELECT 1e400": "Illegal double '1e400' value found during parsing",
    "SELECT POW(10, 400)": "DOUBLE value is out of range in 'pow(10,400)'",
    "SELECT EXP(id * 1000) FROM town": "DOUBLE value is out of range in 'exp((`land`.`town`.`id` * 1000))'",
    "SELECT CAST(1 AS UNSIGNED) - 2": "BIGINT UNSIGNED value is out of range in '(cast(1 as unsigned) - 2)'",
    "SELECT DATE '2020-02-30'": "Incorrect DATE value: '2020-02-30'",
    "SELECT id FROM town FORCE INDEX (nope)": "Key 'nope' doesn't exist in table 'town'",
    "SELECT COUNT(DISTINCT region) OVER () FROM town": (
        "This version of MySQL doesn't yet support '<window function>(DISTINCT ..)'"
    ),
    "SELECT 'abc' REGEXP '['": "The regular expression contains an unclosed bracket expression.",
    "SELECT * FROM broken": (
        "View 'land.broken' references invalid table(s) or column(s) or function(s) or definer/invoker of view lack"
        " rights to use them"
    ),
    "SELECT SUM (id) FROM town": (
        "FUNCTION land.SUM does not exist. Check the 'Function Name Parsing and Resolution' section in the Reference"
        " Manual"
    ),
}


@pytest.mark.parametrize("statement", ERRORS)
def test_what_mysql_refuses_is_refused_in_its_words(database: Database, statement: str) -> None:
    result = database.run(statement)
    text = ERROR + ERRORS[statement]
    assert (result.rows, result.text) == (None, text if len(text) <= 350 else text[:350] + "...")


SYNTAX = {
    "SELECT id AS rank FROM town": "rank FROM town",
    "SELECT COUNT (*) FROM town": "*) FROM town",
    "SELECT id, * FROM town": "* FROM town",
    "SELECT id FROM town FULL OUTER JOIN street ON 1": "OUTER JOIN street ON 1",
    "SELECT TOP 3 id FROM town": "3 id FROM town",
    "SELECT id FROM town ORDER BY id UNION SELECT 1": "UNION SELECT 1",
    "SELECT id FROM town HAVING id > 1 GROUP BY id": "GROUP BY id",
    "SELECT id FROM town ORDER BY id NULLS LAST": "NULLS LAST",
    "SELECT CAST(id AS INT) FROM town": "INT) FROM town",
    "SELECT id::text FROM town": "::text FROM town",
    "SELECT id FROM town WHERE": "",
    "SELECT id FROM town; SELECT 2": "SELECT 2",
    "SELECT id, FROM town": "FROM town",
    # a text is no name of a table
    'SELECT name FROM "town"': '"town"',
    "SELECT name FROM town, 'street'": "'street'",
    "SELECT name FROM town JOIN 'street' ON 1": "'street' ON 1",
    "SELECT name FROM town AS 'x'": "'x'",
    "SELECT town.'name' FROM town": "'name' FROM town",
    "DESC 'town'": "'town'",
    # nothing where something is wanted
    "SELECT , id FROM town": ", id FROM town",
    "SELECT FROM town": "FROM town",
    "SELECT DISTINCT FROM town": "FROM town",
    "SELECT id AS FROM town": "FROM town",
    "SELECT id FROM town AS": "",
    "SELECT id FROM town GROUP BY": "",
    "SELECT id FROM town WHERE AND id = 1": "AND id = 1",
    "SELECT id FROM town WHERE id = = 1": "= 1",
    "SELECT id FROM town WHERE (id = 1": "",
    "SELECT id FROM town WHERE id IN () LIMIT 1": ") LIMIT 1",
    "SELECT CONCAT(, 'a')": ", 'a')",
    "SELECT (, 1)": ", 1)",
    "SELECT * town": "town",
    "SELECT COUNT(* FROM town": "FROM town",
    "SELECT id FROM town WHERE id BETWEEN 1 2": "2",
    "SELECT id FROM town WHERE id BETWEEN 1 OR 2": "OR 2",
    "SELECT name COUNT(*) FROM town": "COUNT(*) FROM town",
    "SELECT id DESC FROM town": "DESC FROM town",
    "SELECT id FROM town AS select": "select",
    "SELECT id FROM town AS 2": "2",
    "SELECT id FROM town UNION id": "id",
    "SELECT (id name) FROM town": "name) FROM town",
    "SELECT COUNT(SELECT id FROM town)": "SELECT id FROM town)",
    "SELECT id FROM town a b WHERE WHERE": "b WHERE WHERE",
    "SELECT COUNT(*) (id) FROM town": "(id) FROM town",
    "SELECT land.town.id.x FROM town": ".x FROM town",
    "FROM town SELECT id": "FROM town SELECT id",
    "SELECT CASE WHEN 1 THEN 2 FROM town": "FROM town",
    "SELECT (*) FROM town": "*) FROM town",
    "SELECT id FROM town WHERE id NOT (1, 2)": "(1, 2)",
    "SELECT year 2013 FROM town": "2013 FROM town",
    "SELECT id FROM town OFFSET 1": "1",
    "SELECT id FROM town t OFFSET 1": "OFFSET 1",
    "SELECT id FROM town ORDER BY id OFFSET 1": "OFFSET 1",
    "SELECT id FROM town ORDER BY id ASC DESC": "DESC",
    "SELECT id FROM town LIMIT -1": "-1",
    "SELECT id FROM town LIMIT 1+1": "+1",
    "SELECT id FROM town LIMIT 1, NULL": "NULL",
    "SHOW COLUMNS street": "street",
    "SHOW all towns": "all towns",
    "SHOW CREATE": "",
    # functions that are part of the grammar
    "SELECT COUNT() FROM town": ") FROM town",
    "SELECT MAX(id, name) FROM town": ", name) FROM town",
    "SELECT ROW_NUMBER(id) OVER () FROM town": "id) OVER () FROM town",
    "SELECT IF(1, 2)": ")",
    "SELECT YEAR()": ")",
    "SELECT REPLACE('a', 'b') FROM town": ") FROM town",
    "SELECT DATE_ADD('2020-01-01', 1)": "1)",
    "SELECT NOW() + INTERVAL 1 DAYS": "DAYS",
    "SELECT TIMESTAMPDIFF(DAYS, NOW(), NOW())": "DAYS, NOW(), NOW())",
    "SELECT EXTRACT(FOO FROM NOW())": "FOO FROM NOW())",
    "SELECT 'a FROM town": "'a FROM town",
}


@pytest.mark.parametrize("statement", SYNTAX)
def test_what_other_dialects_have_is_a_syntax_error(database: Database, statement: str) -> None:
    text = database.run(statement).text
    assert text.startswith(
        f"{ERROR}You have an error in your SQL syntax; check the manual that corresponds to your MySQL"
    )
    assert text.endswith(f"use near '{SYNTAX[statement]}' at line 1\n")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT RAND()",
        "SELECT VERSION()",
        "EXPLAIN SELECT 1",
        "DESC TABLE town",
        "VALUES ROW(1, 2), ROW(3, 4)",
        "SELECT 1 INTO @x",
        "SELECT CAST(-1 AS UNSIGNED) + 1",
        "SHOW INDEX FROM town",
        "DESC named",
        "SHOW COLUMNS FROM named",
        "SELECT table_name FROM information_schema.tables",
        "SELECT table_rows FROM information_schema.tables WHERE table_schema = DATABASE()",
        "SELECT JSON_EXTRACT('{}', '$')",
        "SELECT 'aaaaaaaaaaaaaaaaaaaaaaaa' REGEXP '(a|a)*b'",
        "WITH RECURSIVE r AS (SELECT 'a' n UNION ALL SELECT CONCAT(n, 1) FROM r) SELECT * FROM r",
    ],
)
def test_what_cannot_be_answered_exactly_says_so(database: Database, statement: str) -> None:
    result = database.run(statement)
    assert result.rows is None
    assert "cannot be answered here exactly as MySQL does" in result.text


def test_the_collation_orders_as_the_default_unicode_table() -> None:
    """MariaDB's uca1400_nopad_ai_ci, too, orders these so."""
    texts = [
        "",
        " a",
        "_",
        "-",
        ",",
        "!",
        "?",
        ".",
        "'",
        '"',
        "(",
        "@",
        "*",
        "&",
        "#",
        "%",
        "+",
        "$",
        "1",
        "a",
        "á b",
        "ab",
        "ß",
        "z",
    ]
    assert sorted(texts, key=key) == texts
    assert key("Crème Brûlée") == key("creme brulee")
    assert key("Øre") == key("ORE")
    assert key("œ") == key("OE")


@pytest.mark.parametrize("statement", ["SHOW CREATE TABLE", "SHOW TABLES LIKE", "SHOW INDEX", "DESC town; SELECT 1"])
def test_a_gold_that_is_no_query_is_read_as_mysql_reads_it(database: Database, statement: str) -> None:
    assert "error in your SQL syntax" in database.run(statement, lenient=True).text
