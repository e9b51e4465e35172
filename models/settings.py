"""Sizes of networks as a command line gives them: `NAME=VALUE` in the terms of a config's fields."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from gencodec.errors import UsageError, unknown_name

KINDS = {int: "a whole number", float: "a number"}


def parsed(config: type, settings: Sequence[str], owner: str) -> dict[str, Any]:
    """Values of a config dataclass's fields, as its types want them, of `NAME=VALUE` settings.

    Values are written as in Python: `width=64`, `errors=400,0.5`, `reach=(-4,-1),(-3,2)`. A tuple of one is that one.
    `owner` is whose sizes they are, for messages. Raises `UsageError`.
    """
    hints, defaults = get_type_hints(config), {f.name: f.default for f in fields(config)}
    found = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in defaults:
            raise unknown_name(f"size of {owner}", name, sorted(defaults))
        try:
            found[name] = typed(ast.literal_eval(text), hints[name])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            kind = KINDS.get(hints[name], "a list of numbers")
            default = written(defaults[name])
            raise UsageError(f"{setting!r} is not NAME=VALUE: {name} is {kind}, by default {default}") from error
    return found


def typed(value: Any, hint: Any, *, signed: bool = False) -> Any:
    """The value as a number or tuple of the type `hint`. Raises `ValueError`.

    Numbers are `signed` in tuples of tuples only, which hold offsets; sizes are not.
    """
    if get_origin(hint) is tuple:
        items = value if isinstance(value, tuple) else (value,)
        each = get_args(hint)
        each = each[:1] * len(items) if each[-1] is Ellipsis else each
        nested = any(get_origin(item) is tuple for item in each)
        return tuple(typed(v, h, signed=signed or nested) for v, h in zip(items, each, strict=True))
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or not math.isfinite(value) or (value < 0 and not signed):
        raise ValueError(f"{value!r} is no {hint}")
    return value


def written(value: Any) -> str:
    """A value as it is given on a command line."""
    parts = [repr(part).replace(" ", "") for part in (value if isinstance(value, tuple) else (value,))]
    return ",".join(parts)
