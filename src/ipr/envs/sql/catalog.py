"""information_schema, SHOW and SHOW CREATE TABLE, from what is known of a database.

Decided here: what the server alone knows (how many rows it guesses, when a table was made) is no column here; asking
for it says so. information_schema speaks of all databases of a server, of which one is known: so a statement has to say
which one it means (`WHERE table_schema = DATABASE()`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipr.envs.sql.collation import PLAIN
from ipr.envs.sql.errors import NotExactError
from ipr.envs.sql.kinds import INT, STR, declared

if TYPE_CHECKING:
    from ipr.envs.sql.schema import Schema, Table

Row = tuple[Any, ...]
COLLATION = "utf8mb4_0900_ai_ci"
PRIVILEGES = "select,insert,update,references"
_TABLES = ("TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "TABLE_TYPE", "ENGINE", "TABLE_COLLATION", "TABLE_COMMENT")
_COLUMNS = (
    *("TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "COLUMN_NAME", "ORDINAL_POSITION", "COLUMN_DEFAULT"),
    *("IS_NULLABLE", "DATA_TYPE", "CHARACTER_MAXIMUM_LENGTH", "NUMERIC_PRECISION", "NUMERIC_SCALE"),
    *("CHARACTER_SET_NAME", "COLLATION_NAME", "COLUMN_TYPE", "COLUMN_KEY", "EXTRA", "PRIVILEGES", "COLUMN_COMMENT"),
)
_UNKNOWN = {
    "tables": (
        *("VERSION", "ROW_FORMAT", "TABLE_ROWS", "AVG_ROW_LENGTH", "DATA_LENGTH", "MAX_DATA_LENGTH", "INDEX_LENGTH"),
        *("DATA_FREE", "AUTO_INCREMENT", "CREATE_TIME", "UPDATE_TIME", "CHECK_TIME", "CHECKSUM", "CREATE_OPTIONS"),
    ),
    "columns": ("CHARACTER_OCTET_LENGTH", "DATETIME_PRECISION", "GENERATION_EXPRESSION", "SRS_ID"),
    "schemata": ("SQL_PATH", "DEFAULT_ENCRYPTION"),
}
"""Columns of information_schema that only a server can fill."""
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
    """A table of information_schema."""
    made: dict[str, tuple[tuple[str, ...], Callable[[Schema], list[Row]]]] = {
        "tables": (_TABLES, _tables),
        "columns": (_COLUMNS, _columns),
        "schemata": (
            ("CATALOG_NAME", "SCHEMA_NAME", "DEFAULT_CHARACTER_SET_NAME", "DEFAULT_COLLATION_NAME"),
            _schemata,
        ),
    }
    if name not in made:
        raise NotExactError(f"information_schema.{name}")
    if not ours:
        raise NotExactError(f"information_schema.{name} without a condition such as table_schema = DATABASE()")
    names, rows = made[name]
    return _virtual(name, names, rows(schema))


def _virtual(name: str, names: tuple[str, ...], rows: list[Row]) -> Table:
    from ipr.envs.sql.schema import Column, Table

    columns = []
    for k, column in enumerate(names):
        numbers = any(isinstance(row[k], int) for row in rows)
        made = Column(column, f"column{k + 1}", INT if numbers else STR)
        letters = frozenset().union(*(row[k] for row in rows if isinstance(row[k], str)))
        made.looked = ("{}", made.kind, letters if letters <= PLAIN else None)
        columns.append(made)
    values = (
        ", ".join(f"({', '.join(map(_value, row))})" for row in rows) or f"({', '.join(['NULL'] * len(names))}) LIMIT 0"
    )
    sql = f"(VALUES {values})" if rows else f"(SELECT * FROM (VALUES {values}))"
    for column in _UNKNOWN[name]:
        columns.append(Column(column, "column1", STR, look=_not_known(f"information_schema.{name}.{column}")))
    return Table(name.upper(), sql, "information_schema", columns, rowid=False)


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
    for lower, name in schema.names.items():
        view = lower in schema.views or lower in schema.broken
        rest = ("VIEW", None, None, "VIEW") if view else ("BASE TABLE", "InnoDB", COLLATION, "")
        rows.append(("def", schema.name, name, *rest))
    return rows


def _columns(schema: Schema) -> list[Row]:
    rows = []
    for lower, name in schema.names.items():
        if lower in schema.broken:
            raise NotExactError("information_schema.columns beside a view that cannot be read")
        for place, (column, kind, null, key_, default, extra) in enumerate(schema.describe(lower), 1):
            word, size, scale = _parts(str(kind))
            text = declared(str(kind)).name == "str"
            length = SIZES.get(word, size) if text else None
            digits = None if text or word not in (*_DIGITS, "decimal") else size or _DIGITS.get(word, 10)
            if word in ("int", "integer", "bigint", "tinyint", "smallint", "mediumint"):
                digits, scale = _DIGITS[word], 0
            words = ("utf8mb4", COLLATION) if text else (None, None)
            said = (default, null, word, length, digits, scale if digits is not None else None, *words, str(kind))
            rows.append(("def", schema.name, name, column, place, *said, key_, extra, PRIVILEGES, ""))
    return rows


def _parts(kind: str) -> tuple[str, int | None, int | None]:
    word, _, rest = kind.partition("(")
    sizes = [int(n) for n in rest.split(")")[0].split(",") if n.strip().isdigit()]
    return word.strip().lower(), *(*sizes, None, None)[:2]  # type: ignore[return-value]


def _schemata(schema: Schema) -> list[Row]:
    return [("def", schema.name, "utf8mb4", COLLATION)]
