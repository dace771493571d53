"""The databases that recorded statements are about, as SQLite files with their `schema.json`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.envs.test_sql_mysql import land

FIELDS = ("field", "type", "null", "key", "default", "extra")
Table = tuple[Sequence[tuple[Any, ...]], Sequence[tuple[Any, ...]]]

SCHOOL: dict[str, Table] = {
    "Student": (
        [
            ("StuID", "int", "NO", "PRI", None, ""),
            ("LName", "varchar(12)", "YES", "", None, ""),
            ("Fname", "varchar(12)", "YES", "", None, ""),
            ("Age", "int", "YES", "", None, ""),
            ("Sex", "varchar(1)", "YES", "", None, ""),
            ("Major", "int", "YES", "", None, ""),
            ("city_code", "varchar(3)", "YES", "", None, ""),
            ("Height", "text", "YES", "", None, ""),
            ("Joined", "date", "YES", "", None, ""),
        ],
        [
            (1001, "Smith", "Linda", 18, "F", 600, "BAL", "168", "2021-09-01"),
            (1002, "Kim", "Tracy", 19, "F", 600, "HKG", "181 cm", "2020-09-01"),
            (1003, "Jones", "Shiela", 21, "F", 600, "WAS", "99", "2019-09-15"),
            (1004, "Kumar", "Dinesh", 20, "M", 600, "CHI", None, "2020-02-29"),
            (1005, "Gompers", "Paul", 26, "M", 600, "YYZ", "175", None),
            (1006, "Schultz", "Andy", 18, "M", 520, "BAL", "n/a", "2021-09-01"),
            (1007, "Apap", "Lisa", 18, "F", 520, "PIT", "160.5", "2021-10-31"),
            (1008, "Nélson", "Jandy", 20, "F", 550, "BAL", "170", "2020-12-31"),
            (1009, "smith", "Eric", None, "M", None, None, "", "2018-01-01"),
        ],
    ),
    "course": (
        [
            ("Course_ID", "int", "NO", "PRI", None, ""),
            ("Title", "varchar(20)", "NO", "UNI", None, ""),
            ("Credits", "decimal(4,2)", "YES", "", None, ""),
            ("Fee", "double", "YES", "", "0", ""),
            ("Starting_Date", "text", "YES", "", None, ""),
            ("Starts", "time", "YES", "", None, ""),
            ("Active", "tinyint(1)", "NO", "", "1", ""),
            ("Level", "enum('basic','advanced')", "YES", "", None, ""),
        ],
        [
            (1, "Database", 3.5, 100.0, "5 May", "09:00:00", 1, "basic"),
            (2, "Art History", 4, 250.75, "12 June", "10:30:00", 1, "advanced"),
            (3, "Algebra II", 2.25, None, "7 May", None, 0, "basic"),
            (4, "Music 101", None, 99.9, None, "18:45:30", 1, None),
            (5, "Zen", 0, 1e20, "1 July", "23:59:59", 0, "advanced"),
        ],
    ),
    "Enrolled_in": (
        [
            ("StuID", "int", "YES", "MUL", None, ""),
            ("Course_ID", "int", "YES", "MUL", None, ""),
            ("Grade", "float", "YES", "", None, ""),
            ("Changed", "datetime", "YES", "", None, ""),
        ],
        [
            (1001, 1, 3.7, "2021-10-02 08:15:00"),
            (1001, 2, 4.0, "2021-10-03 09:00:00"),
            (1002, 2, 3.3, "2020-11-11 11:11:11"),
            (1003, 1, 2.7, "2019-12-24 18:00:00"),
            (1004, 3, None, None),
            (1006, 1, 3.7, "2021-10-02 08:15:00"),
            (1007, 4, 1.0, "2021-12-31 23:59:59"),
            (1007, 2, 0.1, "2022-01-01 00:00:00"),
            (None, 5, 2.0, "2022-01-01 00:00:00"),
        ],
    ),
}

CHOIR: dict[str, Table] = {
    "Hall": (
        [("Hall_ID", "int", "NO", "PRI", None, ""), ("Name", "varchar(20)", "YES", "", None, "")],
        [(3, "Opera"), (1, "Town Hall"), (4, "Barn"), (2, "Opera")],
    ),
    "Singer": (
        [
            ("Singer_ID", "int", "NO", "PRI", None, ""),
            ("Name", "varchar(20)", "YES", "", None, ""),
            ("Voice", "varchar(10)", "YES", "", None, ""),
            ("Age", "int", "YES", "", None, ""),
        ],
        [(n, f"Singer {n * 7 % 10}", ("alto", "bass", "tenor")[n * 5 % 3], 20 + n * n % 7) for n in range(1, 19)],
    ),
    "Concert": (
        [
            ("Concert_ID", "int", "NO", "PRI", None, ""),
            ("Title", "varchar(20)", "YES", "", None, ""),
            ("Hall_ID", "int", "YES", "MUL", None, ""),
            ("Year", "int", "YES", "", None, ""),
        ],
        [
            (1, "Spring", 3, 2014),
            (2, "Summer", 1, 2015),
            (3, "Autumn", 3, 2014),
            (4, "Winter", 2, 2014),
            (5, "Easter", None, 2015),
            (6, "Advent", 1, 2016),
        ],
    ),
    "Sings": (
        [
            ("Concert_ID", "int", "NO", "PRI", None, ""),
            ("Singer_ID", "int", "NO", "PRI", None, ""),
            ("Fee", "int", "YES", "", None, ""),
        ],
        [(1 + n % 5, 1 + n * 5 % 17, n % 4 * 10) for n in range(28)],
    ),
    "Knows": (
        [("Singer_ID", "int", "NO", "PRI", None, ""), ("Other_ID", "int", "NO", "PRI", None, "")],
        [(1 + n % 7, 1 + (n * 3 + 2) % 18) for n in range(20)],
    ),
}
CHOIR_KEYS = {
    "Concert": [("Hall_ID", "Hall", "Hall_ID")],
    "Sings": [("Singer_ID", "Singer", "Singer_ID"), ("Concert_ID", "Concert", "Concert_ID")],
    "Knows": [("Other_ID", "Singer", "Singer_ID"), ("Singer_ID", "Singer", "Singer_ID")],
}
"""Foreign keys of tables: column, other table, its column. Of those on second columns DESC says nothing."""

DEPOT: dict[str, Table] = {
    "item": (
        [
            ("id", "int", "NO", "PRI", None, ""),
            ("size", "enum('small','medium','large','x-large')", "YES", "", None, ""),
            ("state", "enum('printed','Out','back in')", "NO", "", "Out", ""),
            ("tags", "set('red','blue','green')", "YES", "", None, ""),
            ("stock", "int unsigned", "YES", "", None, ""),
            ("code", "bigint unsigned", "YES", "", None, ""),
            ("small", "tinyint unsigned", "YES", "", None, ""),
            ("made", "year", "YES", "", None, ""),
            ("price", "decimal(6,2) unsigned", "YES", "", None, ""),
        ],
        [
            (1, "large", "Out", "red", 5, 7, 200, 1999, 10.5),
            (2, "small", "printed", "red,green", 0, 0, 0, 2005, 3),
            (3, "medium", "back in", "blue", 12, 9_000_000_000, 17, 2024, 7.25),
            (4, "x-large", "Out", "", 7, 3, 255, 1901, None),
            (5, "small", "Out", None, None, None, None, None, 0),
            (6, None, "printed", "blue,green", 3, 12, 9, 2005, 99.99),
            (7, "large", "back in", "red,blue,green", 5, 1, 1, 2155, 1),
        ],
    ),
    "size_of": (
        [
            ("size", "enum('x-large','large','medium','small')", "NO", "PRI", None, ""),
            ("label", "varchar(10)", "YES", "", None, ""),
            ("since", "year", "YES", "", None, ""),
        ],
        [("small", "S", 2000), ("large", "L", 1999), ("medium", "M", 2005), ("x-large", "XL", None)],
    ),
}

_STORED = {"double": "REAL", "float": "REAL", "enum": "TEXT", "set": "TEXT"}


def written(
    file: Path, tables: dict[str, Table], foreign: Mapping[str, Sequence[tuple[str, str, str]]] | None = None
) -> Path:
    """The tables as a SQLite file, with its `schema.json`."""
    with sqlite3.connect(file) as connection:
        for name, (columns, rows) in tables.items():
            declared = ", ".join(f"{c[0]} {_STORED.get(c[1].split('(')[0], c[1].split('(')[0])}" for c in columns)
            keys = ", ".join(c[0] for c in columns if c[3] == "PRI")
            parts = [declared, *([f"PRIMARY KEY ({keys})"] if keys else [])]
            parts += [f"FOREIGN KEY ({c}) REFERENCES {t} ({k})" for c, t, k in (foreign or {}).get(name, ())]
            connection.execute(f"CREATE TABLE {name} ({', '.join(parts)})")
            connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)
    connection.close()
    described = {t: [dict(zip(FIELDS, c, strict=True)) for c in columns] for t, (columns, _) in tables.items()}
    file.with_name("schema.json").write_text(json.dumps(described))
    return file


MAKERS: dict[str, Callable[[Path], Path]] = {
    "land": land,
    "school": lambda file: written(file, SCHOOL),
    "depot": lambda file: written(file, DEPOT),
    "choir": lambda file: written(file, CHOIR, CHOIR_KEYS),
}
"""By name: makes the file."""
