"""How Sphinx builds the site: `make docs` (warnings are errors; a link or a name that leads nowhere is one)."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from dotted import exists  # noqa: E402

project = "amdrv"
author = "the authors of amdrv"
copyright = "the authors of amdrv, MIT licence"
html_title = "amdrv"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["pictures/*.py"]
suppress_warnings: list[str] = []

# Markdown: the same pages are read on GitHub, so nothing here that only Sphinx understands but the index's toctrees.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

# The reference comes from docstrings. Names are listed as the modules' own `__all__` has them.
# Methods of mixins are a class's own for a reader; those of Python's and others' classes are not.
STRANGERS = ("object, BaseException, Exception, int, str, tuple, dict, Counter, Mapping, MutableMapping, Enum, "
             "IntEnum, IntFlag, Protocol, Generic, Structure, Union, Thread, BackendRep, Backend, Module, "
             "Optimizer, Schedule")
autodoc_default_options = {"members": True, "imported-members": True, "inherited-members": STRANGERS}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False          # a method that says nothing new is described once, where it comes from
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("DTypeLike", "npt.DTypeLike", "ArrayLike",
                                                "npt.ArrayLike", "Dims", "Ints")}
autoclass_content = "both"
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
add_module_names = False

# A role in a docstring that names nothing is an error; types of annotations are linked where a page describes them.
nitpicky = True
EVERYWHERE = {"Tensor": "compiler.tensor.Tensor", "DType": "compiler.dtypes.DType", "UOp": "compiler.uop.UOp"}

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#a0342b", "color-brand-content": "#a0342b"},
    "dark_css_variables": {"color-brand-primary": "#ff9a8a", "color-brand-content": "#ff9a8a"},
}


def _missing(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """A name without an entry is plain text, if it is a type in a signature or a thing that is really there."""
    if node.get("refdomain") != "py":
        return None
    target, module, owner = node["reftarget"], node.get("py:module"), node.get("py:class")
    if "refwarn" not in node:                   # only roles that somebody wrote have that attribute
        return contnode
    tried = [target, *(f"{prefix}.{target}" for prefix in (module, f"{module}.{owner}") if prefix)]
    return contnode if any(exists(name) for name in tried) else None


def _owners(app: Any, tree: Any) -> None:
    """A type in a signature is that of its own page's module, or one that has a single meaning everywhere."""
    for node in tree.findall(addnodes.pending_xref):
        if "refwarn" not in node and node.get("refdomain") == "py":
            node.attributes.pop("refspecific", None)        # no guessing by the last word alone
            node["reftarget"] = EVERYWHERE.get(node["reftarget"], node["reftarget"])


def _examples(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A block that a docstring indents by four is set as it stands, and coloured if it is Python."""
    lines[:] = _fields(lines)
    made: list[str] = []
    number, last = 0, ""
    while number < len(lines):
        line = lines[number]
        begins = line.startswith("    ") and number and not lines[number - 1].strip()
        if begins and not last.startswith((" ", ":", "- ", "* ", "..")) and not last.rstrip().endswith("::"):
            end = next((n for n in range(number, len(lines)) if lines[n].strip() and not lines[n].startswith("    ")),
                       len(lines))
            block = lines[number:end]
            made += [f".. code-block:: {_language(block)}", "", *block, ""]
            number, last = end, ""
            continue
        made.append(line)
        last = line if line.strip() else last
        number += 1
    lines[:] = made


def _signature(app: Any, what: str, name: str, obj: Any, options: Any, arguments: str | None, result: str | None
               ) -> tuple[str | None, str | None]:
    """Aliases of types by their names alone."""
    def plain(text: str | None) -> str | None:
        return text and re.sub(r"(?:[\w.]*\.)?TypeAliasForwardRef\('([\w.]+)'\)", r"\1", text)
    return plain(arguments), plain(result)


def _fields(lines: list[str]) -> list[str]:
    """A sentence of the form ``:raises Error: why`` at the end of a paragraph is a field of its own."""
    made: list[str] = []
    inside = False
    for line in lines:
        inside = inside and bool(line.strip())
        before, found, after = line.partition(" :raises ")
        if found and not line.startswith((" ", ":")):
            made += [before, ""]
            pieces = after.split(" :raises ")
            made += [f":raises {piece}" for piece in pieces]
            inside = True
        else:
            made.append("    " + line if inside and not line.startswith(":raises ") else line)
    return made


def _language(block: list[str]) -> str:
    try:
        ast.parse(textwrap.dedent("\n".join(block)))
    except SyntaxError:
        return "text"
    return "python"


def setup(app: Any) -> dict[str, bool]:
    app.connect("missing-reference", _missing)
    app.connect("doctree-read", _owners)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
