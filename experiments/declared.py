"""Finds the objects that the files of a folder declare, so that adding one takes a new file and nothing else."""

import importlib
import pkgutil
from typing import Protocol, TypeVar


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def declared(package: str, kind: type[T]) -> dict[str, T]:
    """All objects of type `kind` at the top level of the modules of a package, by their `name`."""
    folder = importlib.import_module(package)
    modules = [importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)]
    return {value.name: value for module in modules for value in vars(module).values() if isinstance(value, kind)}
