"""How error messages show values and names."""

from collections.abc import Iterable


def shown(value: object) -> str:
    try:
        return shortened(repr(value), 200)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "an integer of thousands of digits"


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
