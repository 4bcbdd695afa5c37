"""Many ids or texts as one parameter of a statement, on PostgreSQL and on SQLite.

A statement, and the work to make it, then does not grow with them.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from sqlalchemy import Boolean, Dialect, FunctionElement, SQLColumnExpression, String, bindparam, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import UserDefinedType

_IDS_A_QUERY = 5000
"""PostgreSQL's protocol takes 65,535 parameters a statement, SQLite 32,766."""

T = TypeVar("T")


class Several(UserDefinedType[Iterable[Any]]):
    """Many ids, texts or truth values as one text, which PostgreSQL casts to an array, and SQLite's `json_each` takes.

    The driver takes longer to look at each element of a list than the database to find its row.
    """

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Iterable[Any] | None], str]:
        return _array if dialect.name == "postgresql" else lambda values: json.dumps(list(values or ()))


def _array(values: Iterable[Any] | None) -> str:
    return f"{{{','.join([_element(value) for value in values or ()])}}}"


def _element(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "NULL" if value is None else str(value)


class one_of(FunctionElement[bool]):  # noqa: N801  it is used as a function
    """`column IN (values)`, or a parameter's name instead of values, for a statement that is made once."""

    type = Boolean()
    inherit_cache = True

    def __init__(self, column: SQLColumnExpression[Any], values: Iterable[int] | Iterable[str] | str) -> None:
        named = bindparam(values, type_=Several()) if isinstance(values, str) else literal(list(values), Several())
        super().__init__(column, named)

    def self_group(self, against: OperatorType | None = None) -> Self:  # noqa: ARG002  as it is declared
        """As it stands: SQLAlchemy would write `= 1` behind it for SQLite, which then uses no index."""
        return self


@compiles(one_of, "postgresql")
def _one_of_array(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, values = element.clauses
    array = "TEXT[]" if isinstance(column.type, String) else "BIGINT[]"
    return f"{compiler.process(column, **options)} = ANY (CAST({compiler.process(values, **options)} AS {array}))"


@compiles(one_of, "sqlite")
def _one_of_json(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  names and placeholders that SQLAlchemy made


def slices(ids: Iterable[T], size: int = _IDS_A_QUERY) -> Iterator[list[T]]:
    """Ids in parts, that fit into one statement if no size is given."""
    every = list(ids)
    return (every[start : start + size] for start in range(0, len(every), size))
