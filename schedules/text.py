"""`parse` turns text into a schedule; it is the inverse of `repr`.

The syntax is Python's, but nothing is evaluated as Python: only names of schedules, numbers, strings, lists, keywords,
`+`, `*` and a minus sign are allowed.

    sum    = product {"+" product}
    product = factor {"*" factor}
    factor = "-" factor | number | string | "True" | "False" | list | "(" sum ")" | name ["(" {[keyword "="] sum} ")"]
"""

import ast
import difflib
import operator
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from schedules.core import Schedule, add, as_schedule, combined, multiply
from schedules.formula import FORMULAS, SHORTHANDS, Formula, usage
from schedules.sentences import shortened

__all__ = ["parse"]

LONGEST, DEEPEST = 1_000_000, 51  # characters, and levels of nesting

TOKEN = re.compile(
    r"""(?: \s | \#[^\n]* )*+
    (?: (?P<number> (?: [0-9][0-9_]*+ (?: \.[0-9_]* )? | \.[0-9][0-9_]*+ ) (?: [eE][+-]?[0-9]+ )? )
      | (?P<keyword> NAME (?= (?: \s | \#[^\n]*+ )*+ = ) )
      | (?P<name> NAME )
      | (?P<string> '(?: [^'\\\n] | \\. )*+' | "(?: [^"\\\n] | \\. )*+" )
      | (?P<end> \Z )
      | (?P<sign> . ) )""".replace("NAME", r"[^\W\d] (?: \w | [^\x00-\x7f\s] )*+"),  # with combining marks
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    kind: str
    text: str
    at: int  # the index of its first character in the whole text


def parse(text: str | float) -> Schedule:
    """The schedule that `text` describes, such as `parse("0.5 * warmup(cosine(3e-4, 0, 9000), 1000)")`.

    It knows the names of `schedules`, of `optim` once that is imported, and of your own schedules once they are
    defined. `parse(repr(lr)) == lr` for every schedule without plain callables and with Python numbers, not arrays.

    **Arguments:** `text`: a string, or a number (as a configuration file may contain it), which becomes a `constant`.

    **Raises:** `ValueError` that points at the mistake in the text.
    """
    if isinstance(text, int | float | np.number) and not isinstance(text, bool):
        try:
            return as_schedule(text)
        except ValueError as error:
            raise ValueError(f"parse: {error}") from None
    if not isinstance(text, str):
        raise ValueError(f"parse: `text` must be a string or a number, got {shortened(repr(text), 100)}")
    if len(text) > LONGEST:
        raise ValueError(f"parse: `text` must have at most {LONGEST} characters, got {len(text)}")
    return _Reader(text).schedule()


OPERATIONS: Sequence[tuple[str, Callable[[Any, Any], Any], Formula[..., Schedule]]] = (
    ("+", operator.add, add),
    ("*", operator.mul, multiply),
)


class _Reader:
    """Reads a text from left to right, and reports every mistake with its place."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = _tokens(text)
        self.token = next(self.tokens)  # the next one to read

    def schedule(self) -> Schedule:
        begin = self.token
        value = self.expression(0)
        if self.token.kind != "end":
            raise self.unexpected(self.token)
        return self.made(begin, as_schedule, value)

    def expression(self, depth: int, level: int = 0) -> Any:
        if level == len(OPERATIONS):
            return self.factor(depth)
        sign, combine, formula = OPERATIONS[level]
        begin = self.token
        terms = [self.expression(depth, level + 1)]
        while self.token.text == sign:
            self.require_operand(begin, terms[-1])
            self.advance()
            begin_of_other = self.token
            other = self.expression(depth, level + 1)
            self.require_operand(begin_of_other, other)
            # Leading numbers are added up at once; from the first schedule on, all terms become one sum.
            if isinstance(terms[0], Schedule) or isinstance(other, Schedule) or len(terms) > 1:
                terms.append(other)
            else:
                terms = [self.made(begin, _finite, combine, terms[0], other)]
        return terms[0] if len(terms) == 1 else self.made(begin, combined, formula, *terms)

    def factor(self, depth: int) -> Any:
        token = self.advance()
        match token.kind, token.text:
            case "number", text:
                return self.made(token, float if set(text) & set(".eE") else int, text)
            case "string", text:
                return self.made(token, _literal, text)
            case "name", ("True" | "False") as text:
                return text == "True"
            case "name", _:
                return self.call(token, depth)
            case "sign", "-":
                begin = self.token
                value = self.factor(self.deeper(token, depth))
                self.require_operand(begin, value)
                return self.made(token, operator.neg, value)
            case "sign", "(":
                entries, is_list = self.entries(")", self.deeper(token, depth))
                return entries if is_list else entries[0]
            case "sign", "[" if self.token.text != "[":  # since no argument is a list of lists
                return self.entries("]", depth)[0]
        raise self.unexpected(token)

    def entries(self, end: str, depth: int) -> tuple[list[Any], bool]:
        """The entries up to the bracket `end`, and whether they are a list rather than a value in parentheses."""
        entries: list[Any] = []
        while self.token.text != end:
            entries.append(self.expression(depth))
            if self.token.text != end:
                self.expect(",")
            elif len(entries) == 1:
                return entries, self.advance().text == "]"
        self.advance()
        return entries, True

    def call(self, token: Token, depth: int) -> Any:
        formula = self.formula(token)
        if self.token.text != "(":
            if not isinstance(formula, Formula):
                raise self.mistake(token, f"{token.text} must be called with its arguments, {usage(formula)}")
            return formula
        self.advance()
        inside = self.deeper(token, depth)
        positional: list[Any] = []
        named: dict[str, Any] = {}
        while self.token.text != ")":
            if self.token.kind == "keyword":
                keyword = self.advance()
                if keyword.text in named:
                    raise self.mistake(keyword, f"the argument {_short(keyword.text)} is given twice")
                self.advance()
                named[keyword.text] = self.expression(inside)
            elif named:
                raise self.mistake(self.token, "an argument without a name comes after one with a name")
            else:
                positional.append(self.expression(inside))
            if self.token.text != ")":
                self.expect(",")
        self.advance()
        return self.made(token, _called, formula, positional, named)

    def formula(self, token: Token) -> Callable[..., Any]:
        known: dict[str, Callable[..., Any]] = {**SHORTHANDS, **FORMULAS}
        if token.text in known:
            return known[token.text]
        close = difflib.get_close_matches(token.text[:50], known, n=1)
        raise self.mistake(
            token, f"unknown name {_short(token.text)}" + (f" (did you mean {close[0]!r}?)" if close else "")
        )

    def deeper(self, token: Token, depth: int) -> int:
        if depth == DEEPEST:
            raise self.mistake(token, f"nested more than {DEEPEST} levels deep")
        return depth + 1

    def advance(self) -> Token:
        token = self.token
        if token.kind != "end":
            self.token = next(self.tokens)
        return token

    def expect(self, sign: str) -> None:
        token = self.advance()
        if token.text != sign:
            raise self.unexpected(token)

    def require_operand(self, token: Token, value: Any) -> None:
        if isinstance(value, bool | str | list | Formula):
            raise self.mistake(token, "only schedules and numbers can be added, multiplied or negated")

    def made(self, token: Token, make: Callable[..., Any], *args: Any) -> Any:
        try:
            return make(*args)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self.mistake(token, shortened(str(error), 400)) from None

    def unexpected(self, token: Token) -> ValueError:
        if token.kind == "end":
            return self.mistake(token, "the text ends before the schedule is complete")
        allowed = "only names of schedules, numbers, lists, keywords, + and * are allowed"
        return self.mistake(token, f"unexpected {_short(token.text)}: {allowed}")

    def mistake(self, token: Token, what: str) -> ValueError:
        """The error: `what` is wrong, and the text around `token` with a mark below it."""
        first = max(token.at - 30, 0)
        excerpt = "".join(c if c.isprintable() else " " for c in self.text[first : first + 60])
        mark = " " * (token.at - first) + "^"
        return ValueError(f"parse: {what}, at character {token.at + 1}\n  {excerpt}\n  {mark}")


def _tokens(text: str) -> Iterator[Token]:
    at, kind = 0, ""
    while kind != "end":
        match = TOKEN.match(text, at)
        assert match
        assert match.lastgroup
        at, kind = match.end(), match.lastgroup
        found = match[kind]
        # Python normalizes identifiers in the same way.
        name = unicodedata.normalize("NFKC", found) if kind in ("name", "keyword") else found
        yield Token(kind, name, match.start(kind))


def _called(formula: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
    return formula(*positional, **named)


def _finite(operation: Callable[[Any, Any], Any], left: float, right: float) -> float:
    value = operation(left, right)
    float(value)  # raises OverflowError beyond the largest float: Python's whole numbers have no limit
    return value


def _literal(text: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # unknown escapes only warn
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError, Warning):
            raise ValueError(f"not a string: {_short(text)}") from None


def _short(text: str) -> str:
    return repr(shortened(text, 50))
