"""What the files of a folder declare: to add to it is to add a file, and nobody else need be told."""

import importlib
import pkgutil
from typing import Protocol, TypeVar


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def declared(package: str, kind: type[T]) -> dict[str, T]:
    """All objects of a kind that the modules of a package have at their top level, by their own names."""
    folder = importlib.import_module(package)
    modules = [importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)]
    return {value.name: value for module in modules for value in vars(module).values() if isinstance(value, kind)}
