"""information_schema, from what is known of a database.

Decided here: what the server alone knows (how many rows it guesses, when a table was made) is no column here; asking
for it says so. information_schema speaks of all databases of a server, of which one is known: so a statement has to say
which one it means (`WHERE table_schema = DATABASE()`), or name tables that no other one has. Keys are not told as
such: their names are the server's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipr.envs.sql.collation import PLAIN
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import INT, STR, declared

if TYPE_CHECKING:
    from ipr.envs.sql.schema import Schema, Table

Row = tuple[Any, ...]
COLLATION = "utf8mb4_0900_ai_ci"
PRIVILEGES = "select,insert,update,references"
SYSTEM = frozenset(("information_schema", "mysql", "performance_schema", "sys"))
"""Databases that every server has."""
SERVERS = re.compile(
    r"(?:x\$|(?:administrable|applicable|binary|character|check|clone|collation|columns?|component|cond|connection|data"
    r"|default|enabled|engine|error|events|file|firewall|general|global|gtid|help|host|innodb|io|json|key|keyring|latest"
    r"|log|memory|metadata|metrics|mutex|mysql|ndb|objects|optimizer|password|performance|persisted|prepared|processlist"
    r"|procs|proxies|ps|referential|replication|resource|role|routine|rwlock|schema|schemata|servers?|session|setup|slave"
    r"|slow|socket|st|statements?|status|sys|tables?|tablespaces|temporary|threads|time|tls|tp|unused|users?|variables"
    r"|version|view|waits?)_).*|accounts|collations|columns|component|db|engines|events?|files|func|hosts?|keywords"
    r"|libraries|metrics|parameters|partitions|plugins?|proc|processlist|profiling|routines|schemata|servers|session"
    r"|statistics|tables|tablespaces|threads|triggers|users?|version|views"
)
"""Names of tables that a server may have in `SYSTEM`, and some more."""
_TABLES = """
    TABLE_CATALOG TABLE_SCHEMA TABLE_NAME TABLE_TYPE ENGINE VERSION ROW_FORMAT TABLE_ROWS? AVG_ROW_LENGTH? DATA_LENGTH?
    MAX_DATA_LENGTH? INDEX_LENGTH? DATA_FREE? AUTO_INCREMENT? CREATE_TIME? UPDATE_TIME? CHECK_TIME? TABLE_COLLATION
    CHECKSUM? CREATE_OPTIONS? TABLE_COMMENT
"""
_COLUMNS = """
    TABLE_CATALOG TABLE_SCHEMA TABLE_NAME COLUMN_NAME ORDINAL_POSITION COLUMN_DEFAULT IS_NULLABLE DATA_TYPE
    CHARACTER_MAXIMUM_LENGTH CHARACTER_OCTET_LENGTH NUMERIC_PRECISION NUMERIC_SCALE DATETIME_PRECISION
    CHARACTER_SET_NAME COLLATION_NAME COLUMN_TYPE COLUMN_KEY EXTRA PRIVILEGES COLUMN_COMMENT GENERATION_EXPRESSION
    SRS_ID
"""
_SCHEMATA = "CATALOG_NAME SCHEMA_NAME DEFAULT_CHARACTER_SET_NAME DEFAULT_COLLATION_NAME SQL_PATH DEFAULT_ENCRYPTION"
"""The tables' columns; "?" behind one that only a server can fill."""
_OTHERS = """
    administrable_role_authorizations applicable_roles character_sets check_constraints collations
    collation_character_set_applicability column_privileges column_statistics columns_extensions enabled_roles
    engines events files key_column_usage keywords optimizer_trace parameters partitions plugins processlist
    profiling referential_constraints resource_groups role_column_grants role_routine_grants role_table_grants
    routines schemata_extensions schema_privileges statistics st_geometry_columns st_spatial_reference_systems
    st_units_of_measure tables_extensions tablespaces tablespaces_extensions table_constraints
    table_constraints_extensions table_privileges triggers user_attributes user_privileges views view_routine_usage
    view_table_usage
"""
SIZES = {"tinytext": 255, "text": 65535, "mediumtext": 16777215, "longtext": 4294967295}
_DIGITS = {
    "tinyint": 3,
    "smallint": 5,
    "mediumint": 7,
    "int": 10,
    "integer": 10,
    "bigint": 19,
    "float": 12,
    "double": 22,
}


def table(schema: Schema, name: str, ours: bool) -> Table:
    """A table of information_schema. `ours`: the statement asks about this database only."""
    made: dict[str, tuple[str, Callable[[Schema], list[Row]]]] = {
        "tables": (_TABLES, _tables),
        "columns": (_COLUMNS, _columns),
        "schemata": (_SCHEMATA, _schemata),
    }
    if name not in made:
        if name in _OTHERS.split() or name.startswith("innodb_"):
            raise NotExactError(f"information_schema.{name}")
        raise MySqlError(f"Unknown table '{name.upper()}' in information_schema")
    if not ours:
        raise NotExactError(f"information_schema.{name} without a condition such as table_schema = DATABASE()")
    columns, rows = made[name]
    found = virtual(name.upper(), columns.replace("?", "").split(), rows(schema), "information_schema")
    for column, told in zip(found.columns, columns.split(), strict=True):
        if told.endswith("?"):
            column.look, column.looked = _not_known(f"information_schema.{name}.{column.name}"), None
    return found


def virtual(name: str, names: list[str], rows: list[Row], database: str) -> Table:
    """A table of given rows, which come in this order."""
    from ipr.envs.sql.schema import Column, Table

    columns = []
    for k, column in enumerate(names):
        numbers = any(isinstance(row[k], int) for row in rows)
        made = Column(column, f"column{k + 1}", INT if numbers else STR)
        letters = frozenset().union(*(row[k] for row in rows if isinstance(row[k], str)))
        made.looked = ("{}", made.kind, letters if letters <= PLAIN else None)
        columns.append(made)
    listed = rows or [(None,) * len(names)]
    values = ", ".join(f"({', '.join(map(_value, row))})" for row in listed)
    sql = f"(VALUES {values})" if rows else f"(SELECT * FROM (VALUES {values}) LIMIT 0)"
    return Table(name, sql, database, columns, rowid=False)


def _not_known(what: str) -> Callable[[], Any]:
    def look() -> Any:
        raise NotExactError(what)

    return look


def _value(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _tables(schema: Schema) -> list[Row]:
    rows = []
    for lower, name in sorted(schema.names.items()):
        view = lower in schema.views or lower in schema.broken
        stored, collated = (("VIEW", None, None, None), None) if view else _STORED
        counted = (None,) * 10
        rows.append(("def", schema.name, name, *stored, *counted, collated, None, None, "VIEW" if view else ""))
    return rows


_STORED = ("BASE TABLE", "InnoDB", 10, "Dynamic"), COLLATION


def _columns(schema: Schema) -> list[Row]:
    """In the order of their names, in which the server reads them."""
    rows = []
    for lower, name in sorted(schema.names.items()):
        if lower in schema.broken:
            raise NotExactError("information_schema.columns beside a view that cannot be read")
        found = list(enumerate(schema.printed(lower), 1))
        for place, (column, kind, null, key, default, extra) in sorted(found, key=lambda f: str(f[1][0]).lower()):
            said = (
                place,
                default,
                null,
                *_measured(str(kind).lower()),
                str(kind),
                key,
                extra,
                PRIVILEGES,
                "",
                "",
                None,
            )
            rows.append(("def", schema.name, name, column, *said))
    return rows


def _measured(kind: str) -> tuple[Any, ...]:
    """DATA_TYPE, lengths in characters and bytes, digits, decimals, those of a time, character set and collation."""
    word, _, rest = kind.partition("(")
    word = word.split(" ")[0]
    size, scale = (*[int(n) for n in re.findall(r"\d+", rest.partition(")")[0])], None, None)[:2]
    if declared(kind).name == "str":
        if word in ("enum", "set"):
            parts = [len(p) for p in re.findall(r"'((?:[^']|'')*)'", rest)]
            size = max(parts) if word == "enum" else sum(parts) + len(parts) - 1
        length = SIZES.get(word, size or 1)
        octets = length if word in SIZES else length * 4
        return word, length, octets, None, None, None, "utf8mb4", COLLATION
    fixed = word in ("decimal", "numeric", "float", "double", "real")
    digits = (size if fixed and size is not None else None) or _DIGITS.get(word, 10 if word == "decimal" else None)
    decimals = scale if fixed and (scale is not None or word != "decimal") else 0 if digits is not None else None
    seconds = (size or 0) if word in ("datetime", "timestamp", "time") else None
    return word, None, None, digits, decimals, seconds, None, None


def _schemata(schema: Schema) -> list[Row]:
    return [("def", schema.name, "utf8mb4", COLLATION, None, "NO")]
