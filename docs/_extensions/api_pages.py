"""API pages by room: `.. room:: optimizers` documents every public name that lives there.

A public name is one of `lrevopt` or of `lrevopt.plot`; its room is the subpackage in which it is
defined. So a new public name is on its page without an edit. Docstrings are Markdown, signatures
stand as in the source: `Float[Array, " state"]`, not what jaxtyping makes of it.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from public_names import home_of_data, public_names, room_of
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import lrevopt


class Room(SphinxDirective):
    """`.. room:: tasks`: a table of what the room offers, and all of it in full."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Classes first, then functions, then constants."""
        room = self.arguments[0]
        self.env.note_dependency(inspect.getfile(lrevopt))
        members = {n: v for n, v in public_names().items() if room_of(n, v) == room}
        if not members:
            raise self.error(f"The room {room!r} has no public names.")
        lines = [*_overview(members), "", ".. py:currentmodule:: lrevopt", ""]
        for name, value in sorted(members.items(), key=lambda item: _rank(item[1])):
            lines += [*_entry(name, value), ""]
        container = nodes.section()
        container.document = self.state.document
        self.state.nested_parse(StringList(lines, source=f"room {room}"), 0, container)
        return container.children


def _rank(value: Any) -> int:
    return 0 if inspect.isclass(value) else 1 if callable(value) else 2


def _overview(members: dict[str, Any]) -> Iterator[str]:
    """Names with the first sentence of what each is."""
    yield from (".. list-table::", "   :class: overview", "   :widths: auto", "")
    for name, value in sorted(members.items(), key=lambda item: _rank(item[1])):
        first = " ".join(_documentation(name, value).split("\n\n")[0].split())
        sentence = re.split(r"(?<=[.;)])\s+(?=[A-Z`])(?=(?:[^`]*`[^`]*`)*[^`]*$)", first)[0]
        yield f"   * - :py:obj:`~lrevopt.{name}`"
        yield f"     - {_inline(sentence)}"


def _entry(name: str, value: Any) -> list[str]:
    if inspect.isclass(value):
        return [f".. autoclass:: lrevopt.{name}", "   :members:"]
    if callable(value):
        return [f".. autofunction:: lrevopt.{name}"]
    text = to_restructured(_documentation(name, value).splitlines())
    keys = [f"``{key}``" for key in value] if isinstance(value, dict) else []
    listed = ["", "Names: " + ", ".join(keys) + "."] if keys else []
    return [
        f".. py:data:: {name}",
        "",
        *textwrap.indent("\n".join(text + listed), "   ").split("\n"),
    ]


def _documentation(name: str, value: Any) -> str:
    if inspect.isclass(value) or callable(value):
        return inspect.getdoc(value) or ""
    short = name.split(".")[-1]
    documented = ModuleAnalyzer.for_module(home_of_data(short)).find_attr_docs()
    return "\n".join(documented.get(("", short), [])).strip()


ITEM = re.compile(r"(-|\d+\.) ")
SECTION = re.compile(r"[A-Z]\w+:$")


# Docstrings -----------------------------------------------------------------------------------


def own_names(kind: str, name: str, value: Any) -> frozenset[str]:
    """Names that mean something of its own where this docstring stands: fields and arguments."""
    if kind in ("attribute", "method", "property"):
        value = public_names().get(".".join(name.split(".")[1:-1]))
    if inspect.isclass(value):
        return frozenset([*getattr(value, "__dataclass_fields__", ()), *vars(value)])
    try:
        return frozenset(inspect.signature(value).parameters)
    except (TypeError, ValueError):
        return frozenset()


def to_restructured(lines: list[str], own: frozenset[str] = frozenset()) -> list[str]:
    """Markdown as docstrings use it, in reStructuredText.

    Indented blocks that no list owns are code, single backticks are code or a link to a public
    name that is not among the `own`, and the characters that mean something to reStructuredText
    only are escaped.
    """
    result: list[str] = []
    prose: list[str] = []

    def flush() -> None:
        # Together, since code in backticks may go over a line's end.
        result.extend(_inline("\n".join(prose), own).split("\n") if prose else [])
        prose.clear()

    in_block = in_list = False
    for before, line in zip(["", *lines], lines, strict=False):
        indented = line.startswith("    ")
        if indented and not before.strip() and not in_list and not in_block:
            in_block = True
            flush()
            result += ["::", ""]
        elif line.strip() and not indented:
            in_block = False
            # A list, or a section of a docstring such as "Args:", owns what is indented below it.
            in_list = bool(ITEM.match(line) or SECTION.match(line))
            in_list = in_list or (line.startswith("  ") and bool(before.strip()))
        if ITEM.match(line) and before.strip() and not re.match(r"\s{2,}", before):
            prose += [""] * (not ITEM.match(before))
        if in_block:
            result.append(line)
        else:
            prose.append(line)
    flush()
    return result


def _inline(line: str, own: frozenset[str] = frozenset()) -> str:
    parts = re.split(r"(``[^`]+``|`[^`]+`)", line)
    return "".join(_code(part, own) if part.startswith("`") else _plain(part) for part in parts)


def _code(part: str, own: frozenset[str]) -> str:
    text = " ".join(part.strip("`").split())
    target = text.removeprefix("lo.").split("(")[0]
    if target == text.removeprefix("lo.") and target in public_names().keys() - own:
        return f":py:obj:`{text} <lrevopt.{target}>`"
    # A literal needs something that is no letter behind it: an escaped space is nothing.
    return f"``{text}``\\ "


def _plain(text: str) -> str:
    text = re.sub(r"([|\\])", r"\\\1", text)
    text = re.sub(r"\*(?!\w[^*]*\w\*|\w\*)(?<!\w\*)", r"\\*", text) if "*" in text else text
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", text)


def process_docstring(
    app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Autodoc's event: Markdown in, reStructuredText out, and the fields of records."""
    text = to_restructured(lines, own_names(kind, name, value))
    if kind == "class" and not _constructed(value) and (fields := _fields(value)):
        text += ["", ".. code-block:: python", "   :class: fields", ""]
        text += [f"   {field}" for field in fields]
    lines[:] = [*text, ""]


# Signatures -----------------------------------------------------------------------------------


def process_signature(
    app: Any, kind: str, name: str, value: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Autodoc's event: the signature as it is written in the source."""
    if kind == "class":
        if not _constructed(value):
            return "", ""
        if not _has_constructor(value):
            return _generated_signature(value), ""
        value = vars(value)["__init__"]
    definition = _definition(value)
    if definition is None:
        return None
    arguments = definition.args
    if kind in ("class", "method"):
        ordinary = arguments.posonlyargs or arguments.args
        del ordinary[:1]
    for default in _long_defaults(arguments):
        default.__class__, default.__dict__ = ast.Constant, {"value": ..., "kind": None}
    returned = ast.unparse(definition.returns) if definition.returns and kind != "class" else ""
    return f"({ast.unparse(arguments)})", returned


def _long_defaults(arguments: ast.arguments) -> list[ast.expr]:
    defaults = [*arguments.defaults, *arguments.kw_defaults]
    return [d for d in defaults if d is not None and len(ast.unparse(d)) > 40]


def _definition(value: Any) -> ast.FunctionDef | None:
    try:
        node = ast.parse(_source(inspect.unwrap(value))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return node if isinstance(node, ast.FunctionDef) else None


def _generated_signature(cls: type) -> str:
    fields = [f for f in dataclasses.fields(cls) if f.init]
    missing = dataclasses.MISSING
    return (
        "("
        + ", ".join(f.name if f.default is missing else f"{f.name}={f.default!r}" for f in fields)
        + ")"
    )


def _constructed(cls: type) -> bool:
    """Whether users build it: it has a constructor of its own, or is an optimizer or a task."""
    kinds = tuple(getattr(lrevopt, name) for name in dir(lrevopt) if name.startswith("Abstract"))
    return _has_constructor(cls) or issubclass(cls, kinds)


def _has_constructor(cls: type) -> bool:
    """Whether the source of the class defines `__init__`: dataclasses get one as well."""
    return any(getattr(node, "name", "") == "__init__" for node in _class_body(cls))


def _class_body(cls: type) -> list[ast.stmt]:
    return ast.parse(_source(cls)).body[0].body  # type: ignore[attr-defined]


def _source(value: Any) -> str:
    """Source with shapes as they read, `"state"`: jaxtyping's leading blank is for linters."""
    return re.sub(r'(, ")\s+(?=[\w*#])', r"\1", textwrap.dedent(inspect.getsource(value)))


def _fields(cls: type) -> list[str]:
    """Fields of a record as its source has them, unless they have docstrings of their own."""
    source, body = _source(cls), _class_body(cls)
    pairs = list(zip(body, [*body[1:], None], strict=True))
    fields = [(a, b) for a, b in pairs if isinstance(a, ast.AnnAssign)]
    if any(isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant) for _, b in fields):
        return []
    return [f"{a.target.id}: {ast.get_source_segment(source, a.annotation)}" for a, _ in fields]


def warn_missing(app: Any, domain: Any, node: Any) -> bool | None:
    """Sphinx's event: names of types in signatures need not be documented, all others must."""
    return True if node.get("reftype") == "class" else None


def setup(app: Any) -> dict[str, bool]:
    """Register the directive and both events."""
    app.add_directive("room", Room)
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("warn-missing-reference", warn_missing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
