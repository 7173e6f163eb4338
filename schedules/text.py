"""Text becomes a schedule: `parse` is the inverse of `repr`.

The syntax is Python's, but nothing is evaluated: the syntax tree is walked, and only the names of schedules,
numbers, lists, keywords, `+` and `*` are understood.
"""

import ast
import difflib
import operator
import warnings
from collections.abc import Container
from typing import Any

from schedules.core import FORMULAS, Formula, Schedule, as_schedule

LONGEST, DEEPEST = 1_000_000, 50


def parse(text: str) -> Schedule:
    """The schedule that `text` describes: the repr of one, or what a person types.

    `parse("0.5 * warmup(cosine(3e-4, 0, 9000), 1000)")`. The names are those of `schedules` (and of `optim`,
    once that is imported) and of your own schedules from where they are defined. `parse(repr(lr)) == lr` for
    every schedule that holds no plain callable.

    **Raises:** `ValueError` that points at the place, for anything else.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        found = f"{len(text)} characters" if isinstance(text, str) else repr(text)
        raise ValueError(f"parse: `text` must be a text of at most {LONGEST} characters, got {found}")
    text = text.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of what it will refuse one day, such as `1if`
            tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        column = _column(text, error.lineno or 1, (error.offset or 0) - 1) if error.offset else len(text) + 1
        raise _mistake(text, column, "not the expression of a schedule") from None
    except (RecursionError, MemoryError, ValueError, Warning):
        raise ValueError(f"parse: `text` must be nested at most {DEEPEST} deep and hold no null bytes") from None
    return _Reader(text).schedule(tree.body)


class _Reader:
    """Walks a syntax tree; every mistake is reported with the place in the text where it was made."""

    def __init__(self, text: str):
        self.text = text

    def schedule(self, node: ast.expr) -> Schedule:
        return self._made(node, as_schedule, self.value(node, 0))

    def value(self, node: ast.expr, depth: int) -> Any:
        if depth > DEEPEST:
            raise self._mistake(node, f"nested more than {DEEPEST} deep")
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as constant):
                return constant
            case ast.Name(id=name):
                return self._formula(node, name)
            case ast.List(elts=entries) | ast.Tuple(elts=entries):
                return [self.value(entry, depth + 1) for entry in entries]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._made(node, operator.neg, self._operand(operand, depth))
            case ast.BinOp(left=left, op=ast.Add() | ast.Mult() as symbol, right=right):
                combine = operator.add if isinstance(symbol, ast.Add) else operator.mul
                return self._made(node, combine, self._operand(left, depth), self._operand(right, depth))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                formula = self._formula(node, name)
                positional = [self.value(arg, depth + 1) for arg in args]
                named: dict[str, Any] = {}
                for keyword in keywords:
                    name = self._keyword(keyword, named)
                    named[name] = self.value(keyword.value, depth + 1)
                return self._made(node, formula, *positional, **named)
        raise self._mistake(node, "only names of schedules, numbers, lists, keywords, + and * are understood")

    def _operand(self, node: ast.expr, depth: int) -> Any:
        value = self.value(node, depth + 1)
        if isinstance(value, bool | str | list | Formula):
            raise self._mistake(node, "only schedules and numbers can be added, multiplied or negated")
        return value

    def _formula(self, node: ast.expr, name: str) -> Formula[Any]:
        if name in FORMULAS:
            return FORMULAS[name]
        close = difflib.get_close_matches(name[:50], FORMULAS, n=1)
        raise self._mistake(node, f"unknown name {name[:50]!r}" + (f": did you mean {close[0]!r}?" if close else ""))

    def _keyword(self, keyword: ast.keyword, earlier: Container[str]) -> str:
        if keyword.arg is None:
            raise self._mistake(keyword.value, "arguments must be written out, got **")
        if keyword.arg in earlier:
            raise self._mistake(keyword.value, f"the argument {keyword.arg!r} is given twice")
        return keyword.arg

    def _made(self, node: ast.expr, make: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return make(*args, **kwargs)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._mistake(node, str(error)) from None

    def _mistake(self, node: ast.expr, what: str) -> ValueError:
        # The tree counts columns in bytes.
        line = self.text.splitlines()[node.lineno - 1].encode()
        return _mistake(self.text, _column(self.text, node.lineno, len(line[: node.col_offset].decode())), what)


def _column(text: str, line: int, column: int) -> int:
    """The number of a character, from 1, of which Python says the line, from 1, and the column, from 0."""
    return sum(map(len, text.splitlines(keepends=True)[: line - 1])) + column + 1


def _mistake(text: str, column: int, what: str) -> ValueError:
    """`what` is wrong, and the stretch of `text` around `column` with a mark under it."""
    first = max(column - 31, 0)
    excerpt = "".join(c if c.isprintable() else " " for c in text[first : first + 60])
    return ValueError(f"parse: {what}, at character {column}\n  {excerpt}\n  {' ' * (column - 1 - first)}^")
