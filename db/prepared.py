"""Statements of the hot path, turned into SQL once and not at every call.

From a Core statement to the driver SQLAlchemy takes 20 to 70 microseconds, several times what SQLite takes for the
statement itself; an image takes five. Here the same statements are compiled once for each dialect, and their values
converted as their columns' types say. Transactions, pool and errors stay SQLAlchemy's. Rows come as the driver gives
them: a state is its word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ClauseElement, Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler

Values = Mapping[str, Any]


@dataclass(frozen=True)
class _Sql:
    """text: as the driver takes it. order: of its values, where they go by position. fixed: values of the statement's
    own. convert: for those values that the driver does not take as they are.
    """

    text: str
    order: Sequence[str] | None
    fixed: dict[str, Any]
    convert: dict[str, Callable[[Any], Any]]

    def bound(self, values: Values) -> Any:
        given = {**self.fixed, **values}
        for name, convert in self.convert.items():
            given[name] = convert(given[name])
        return given if self.order is None else tuple([given[name] for name in self.order])


class Prepared:
    """One statement for each number of things it is about; safe for many threads."""

    def __init__(self, build: Callable[[Connection, int], ClauseElement]) -> None:
        """build: the statement for so many things; its bound values have names, and no `expanding` ones."""
        self._build = build
        self._made: dict[tuple[str, int], _Sql] = {}

    def rows(self, connection: Connection, values: Values, size: int = 1) -> list[tuple[Any, ...]]:
        """What it gives. size: how many things `values` are about. Raises as SQLAlchemy does."""
        sql = self._sql(connection, size)
        return cast("list[tuple[Any, ...]]", connection.exec_driver_sql(sql.text, sql.bound(values)).all())

    def change(self, connection: Connection, values: Sequence[Values]) -> int:
        """Run it for each of several sets of values; how many rows they touched together."""
        sql = self._sql(connection, 1)
        return connection.exec_driver_sql(sql.text, [sql.bound(one) for one in values]).rowcount

    def _sql(self, connection: Connection, size: int) -> _Sql:
        key = connection.dialect.name, size
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = _compiled(self._build(connection, size), connection.dialect)
        return made


def _compiled(statement: ClauseElement, dialect: Dialect) -> _Sql:
    compiled = statement.compile(dialect=dialect)
    if not isinstance(compiled, SQLCompiler) or compiled.insert_prefetch or compiled.update_prefetch:
        raise TypeError("a prepared statement names every value it needs; defaults of columns are not applied")
    convert: dict[str, Callable[[Any], Any]] = {}
    for name, parameter in compiled.binds.items():
        processor = parameter.type.dialect_impl(dialect).bind_processor(dialect)
        if processor is not None:
            convert[name] = processor
    fixed = {name: parameter.value for name, parameter in compiled.binds.items() if not parameter.required}
    return _Sql(str(compiled), compiled.positiontup, fixed, convert)


def numbered(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """``name0``, ``name1``, … for the values of a list."""
    return {f"{name}{number}": value for number, value in enumerate(values)}
