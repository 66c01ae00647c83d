"""Fields of classes, and members of enums, with the texts that stand below them in the source: Python keeps none."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass

_JSON = {
    "int": "integer",
    "float": "number",
    "str": "string",
    "list[str]": "list of strings",
    "dict[str, int]": "object",
}


@dataclass(frozen=True, slots=True)
class Described:
    """A field; `annotation` is its type as it is written, empty for a member of an enum."""

    annotation: str
    text: str

    @property
    def _required(self) -> str:
        return self.annotation.removesuffix(" | None")

    @property
    def is_list(self) -> bool:
        """Whether there are several of its contents."""
        return self._required.startswith("list[")

    @property
    def contents(self) -> str | None:
        """The class of the object, or of those in the list; None of a plain value."""
        name = self._required.removeprefix("list[").removesuffix("]")
        return name if re.fullmatch(r"[A-Z]\w+", name) else None

    @property
    def json_type(self) -> str:
        """The type in JSON's words."""
        objects = "list of objects" if self.is_list else "object"
        kind = _JSON[self._required] if self.contents is None else objects
        return kind if self._required == self.annotation else f"{kind} or null"


def describe_fields(source: str) -> Mapping[str, Mapping[str, Described]]:
    """The fields of each class; the text of one without is empty."""
    return {node.name: _fields_of(node) for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def _fields_of(node: ast.ClassDef) -> dict[str, Described]:
    fields = {}
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                annotation = ast.unparse(statement.annotation)
            case ast.Assign(targets=[ast.Name(id=name)]):
                annotation = ""
            case _:
                continue
        match following:
            case ast.Expr(value=ast.Constant(value=str(text))):
                fields[name] = Described(annotation, " ".join(text.split()))
            case _:
                fields[name] = Described(annotation, "")
    return fields
