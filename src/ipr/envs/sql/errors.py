"""What MySQL 8 says of a statement that it refuses (its `messages_to_clients.txt`), and what this engine cannot do."""

from __future__ import annotations

ERROR = "Error executing query: "
"""The published wrapper's words before those of the server."""
_NEAR = 80
"""Characters of a statement that a syntax error quotes."""


class MySqlError(Exception):
    """A statement is refused, in these words."""


class NotExactError(MySqlError):
    """MySQL would answer, but not in a way that is known here: better no answer than another one."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} cannot be answered here exactly as MySQL does; write the statement without it")


def syntax(statement: str, start: int) -> MySqlError:
    """A syntax error at a place of the statement (its length: at the end)."""
    line = statement.count("\n", 0, start) + 1
    near = statement[start : start + _NEAR]
    return MySqlError(
        "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version"
        f" for the right syntax to use near '{near}' at line {line}\n"
    )


def no_table(database: str, name: str) -> MySqlError:
    return MySqlError(f"Table '{database}.{name.lower()}' doesn't exist\n")


def no_column(name: str, clause: str) -> MySqlError:
    return MySqlError(f"Unknown column '{name}' in '{clause}'")


def ambiguous(name: str, clause: str) -> MySqlError:
    return MySqlError(f"Column '{name}' in {clause} is ambiguous")


def not_grouped(number: int, place: str, column: str, grouped: bool) -> MySqlError:
    """ONLY_FULL_GROUP_BY: errors 1055 and 1140."""
    mode = "this is incompatible with sql_mode=only_full_group_by"
    if not grouped:
        return MySqlError(
            f"In aggregated query without GROUP BY, expression #{number} of {place} contains nonaggregated column"
            f" '{column}'; {mode}"
        )
    return MySqlError(
        f"Expression #{number} of {place} is not in GROUP BY clause and contains nonaggregated column '{column}'"
        f" which is not functionally dependent on columns in GROUP BY clause; {mode}"
    )


def no_function(database: str, name: str) -> MySqlError:
    """A name that ends in a blank is MySQL's own, but with a blank before its parenthesis."""
    said = f"FUNCTION {database}.{name.rstrip()} does not exist"
    if name.endswith(" "):
        said += ". Check the 'Function Name Parsing and Resolution' section in the Reference Manual"
    return MySqlError(said)


def arguments(name: str) -> MySqlError:
    return MySqlError(f"Incorrect parameter count in the call to native function '{name}'")


def operand(columns: int) -> MySqlError:
    return MySqlError(f"Operand should contain {columns} column(s)")


GROUP_MISUSED = "Invalid use of group function"
ONE_ROW = "Subquery returns more than 1 row"
LIMIT_IN = "This version of MySQL doesn't yet support 'LIMIT & IN/ALL/ANY/SOME subquery'"
COLUMNS_DIFFER = "The used SELECT statements have a different number of columns"
WINDOW_DISTINCT = "This version of MySQL doesn't yet support '<window function>(DISTINCT ..)'"
NO_ALIAS = "Every derived table must have its own alias"
LISTS_DIFFER = (
    "In definition of view, derived table or common table expression, SELECT list and column names list have different"
    " column counts"
)
ORDER_AGGREGATED = (
    "Expression #1 of ORDER BY contains aggregate function and applies to the result of a non-aggregated query"
)
