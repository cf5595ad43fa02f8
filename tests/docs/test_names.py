"""The API reference: every public name of its modules has a docstring, and its parameters are the function's own."""

from __future__ import annotations

import ast
import builtins
import concurrent.futures
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("amdrv", "compiler", "hcq", "mock")
MODULES = [name for page in sorted((ROOT / "docs" / "api").glob("*.md"))
           for name in re.findall(r"^\.\. automodule:: (\S+)$", page.read_text(encoding="utf-8"), re.M)]


def ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in OURS


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties, inherited ones too, of classes that are ours."""
    for name in dir(cls):
        owner = next((c for c in cls.__mro__ if name in c.__dict__), None)
        if name.startswith("_") or owner is None or not ours(owner):
            continue
        raw = inspect.getattr_static(cls, name)
        if isinstance(raw, (staticmethod, classmethod, property, functools.cached_property)) or inspect.isfunction(raw):
            yield f"{cls.__name__}.{name}", getattr(cls, name) if not isinstance(raw, property) else raw


def public(module: str) -> Iterator[tuple[str, Any]]:
    """(name, thing): the module's classes and functions and what is public in them."""
    loaded = importlib.import_module(module)
    for name in loaded.__all__:
        thing = getattr(loaded, name)
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and ours(thing):
            yield name, thing
            if inspect.isclass(thing):
                yield from methods(thing)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module: str) -> None:
    if module.startswith("compiler.onnx"):
        pytest.importorskip("onnx")
    assert importlib.import_module(module).__doc__
    silent = [name for name, thing in public(module)
              if not inspect.getdoc(thing) or (inspect.isclass(thing) and made_by_python(thing))]
    assert not silent, f"{module}: no docstring: {', '.join(silent)}"


def made_by_python(cls: type) -> bool:
    """Whether the docstring is a dataclass's or a named tuple's signature, or only inherited."""
    own = cls.__dict__.get("__doc__")
    return not own or own.startswith(f"{cls.__name__}(")


@pytest.mark.parametrize("module", MODULES)
def test_parameters_that_are_described_exist(module: str) -> None:
    if module.startswith("compiler.onnx"):
        pytest.importorskip("onnx")
    wrong = []
    for name, thing in public(module):
        described = re.findall(r":param (\w+):", inspect.getdoc(thing) or "")
        if described and callable(thing):
            there = inspect.signature(thing).parameters
            wrong += [f"{name}: {one}" for one in described if one not in there]
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_errors_that_are_described_exist(module: str) -> None:
    """``:raises X:`` names an exception: Python's, or one that the thing's own module knows."""
    if module.startswith("compiler.onnx"):
        pytest.importorskip("onnx")
    wrong = []
    for name, thing in public(module):
        for names in re.findall(r":raises ([\w., ]+):", inspect.getdoc(thing) or ""):
            each = [one.split(".")[-1] for one in re.split(r", | or ", names)]
            wrong += [f"{name}: {one}" for one in each if not exception(one, thing)]
    assert not wrong


def exception(name: str, thing: Any) -> bool:
    target = thing.fget if isinstance(thing, property) else thing
    home = importlib.import_module(inspect.unwrap(target).__module__)
    package = home.__name__.partition(".")[0]
    places = [builtins, concurrent.futures, home]
    for room in (f"{package}.errors", package, "amdrv.errors", "mock.isa.dispatch", *family(home.__name__)):
        try:
            places.append(importlib.import_module(room))
        except ImportError:
            continue
    found = next((getattr(place, name) for place in places if hasattr(place, name)), None)
    return inspect.isclass(found) and issubclass(found, BaseException)


def family(module: str) -> list[str]:
    """The packages above a module, and what it imports."""
    parts = module.split(".")
    above = [".".join(parts[:n]) for n in range(2, len(parts))]
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return above + [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
