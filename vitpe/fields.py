"""Frozen dataclasses whose fields have bounds, to JSON and back, with a message for whatever does not fit."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from vitpe.errors import UsageError, VitpeError
from vitpe.text import brief

T = TypeVar("T")


def require(condition: bool, message: str, hint: str) -> None:
    """UsageError unless the condition holds."""
    if not condition:
        raise UsageError(message, hint)


@dataclass(frozen=True)
class Bounds:
    """Of a number, both included but for those named so: `above` low, `below` high. NaN lies within none."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether it is neither too small nor too large."""
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        if self.low == self.high:
            return f"it must be {self.low:,}"
        return (
            f"it must be {'above' if self.above else 'at least'} {self.low:,} "
            f"and {'below' if self.below else 'at most'} {self.high:,}"
        )


@cache
def _bounds(cls: type) -> dict[str, Bounds]:
    """Of the fields whose annotation says them."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        name: bounds
        for name, hint in hints.items()
        for bounds in getattr(hint, "__metadata__", ())
        if isinstance(bounds, Bounds)
    }


def check_bounds(config: Any) -> None:
    """UsageError naming the first field, one of its numbers or itself, that lies outside its bounds."""
    for name, bounds in _bounds(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(number in bounds for number in numbers):
            raise UsageError(f"{name} is {brief(to_text(value))}", str(bounds))


@dataclass(frozen=True)
class ChangedField:
    """A value that two configurations do not share; key is dotted, as in "train.batch_size"."""

    key: str
    old: Any
    new: Any


def changed_fields(old: Any, new: Any, prefix: str = "") -> list[ChangedField]:
    """Every leaf in which two dataclasses of one type differ."""
    found: list[ChangedField] = []
    for f in dataclasses.fields(old):
        a, b = getattr(old, f.name), getattr(new, f.name)
        if dataclasses.is_dataclass(a):
            found += changed_fields(a, b, f"{prefix}{f.name}.")
        elif a != b:
            found.append(ChangedField(prefix + f.name, a, b))
    return found


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values; tuples become lists."""
    return {
        f.name: to_json(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for f in dataclasses.fields(config)
        for value in [getattr(config, f.name)]
    }


def to_text(value: Any) -> str:
    """A value as config.json and --set have it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def from_json(cls: type[T], values: Any, source: Path | str, prefix: str = "") -> T:
    """The dataclass that `to_json` wrote; `prefix` stands before its keys, as in "model.".

    VitpeError naming the key, after `source` if there is one, for anything that does not fit.
    """
    name = prefix.removesuffix(".") or cls.__name__
    require(isinstance(values, dict), after(source, f"{name} is not a JSON object"), "the file is damaged")
    hints = typing.get_type_hints(cls)
    unknown = sorted(prefix + key for key in set(values) - set(hints))
    message = after(source, f"unknown key {brief(', '.join(map(repr, unknown)))}")
    require(not unknown, message, "a newer vitpe may have written it")
    fields = {name: _convert(hints[name], value, source, prefix + name) for name, value in values.items()}
    try:
        return cls(**fields)
    except TypeError as error:  # a field without a default is missing
        raise VitpeError(after(source, str(error)), "the file is damaged") from error
    except UsageError as error:
        raise UsageError(after(source, error.message), error.hint) from error


def after(source: Path | str, message: str) -> str:
    """The message with where it comes from, if that is said."""
    return f"{source}: {message}" if str(source) else message


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _convert(kind: Any, value: Any, source: Path | str, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_json(typing.cast(type[Any], kind), value, source, f"{key}.")

    def expect(condition: bool, expected: str) -> None:
        require(condition, after(source, f"{key} is {brief(to_text(value))}"), f"expected {expected}")

    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        any_length = args[-1] is Ellipsis
        if any_length and args[0] is str and isinstance(value, str):  # one, as earlier versions wrote it
            value = [value]
        whole = isinstance(value, list) and (any_length or len(value) == len(args))
        expect(whole and not any(isinstance(item, list | dict) for item in value), _list_of(args))
        kinds = [args[0]] * len(value) if any_length else args
        return tuple(_convert(k, v, source, key) for k, v in zip(kinds, value, strict=True))
    if origin is Literal:
        expect(isinstance(value, str) and value in args, f"one of {', '.join(map(str, args))}")
        return value
    if origin is dict:
        expect(isinstance(value, dict), "a JSON object")
        return {name: _convert(args[1], item, source, f"{key}.{name}") for name, item in value.items()}
    if args:  # X | None
        return None if value is None else _convert(args[0], value, source, key)
    if kind is float and type(value) is int:
        expect(abs(value) < 2**1000, "a number")
        return float(value)
    expect(type(value) is kind, _KINDS[kind])
    return value


def _list_of(kinds: tuple[Any, ...]) -> str:
    number = "" if kinds[-1] is Ellipsis else f" of {len(kinds)}"
    return f"a list{number}, each {_KINDS[kinds[0]]}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
