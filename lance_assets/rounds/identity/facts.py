"""What one definition says, in a form that only a change of what it does can change.

Left out are comments, formatting, docstrings, annotations, the words of errors, of logging and of field descriptions,
and how an import spells what it brings. The form is written here and not by `ast.dump`, whose output differs between
versions of Python. Names that lead to another definition of the project are numbered, and listed beside the form.
"""

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lance_assets.rounds.identity.source import (
    Definition,
    Imported,
    Module,
    Outside,
    SourceTree,
    Target,
    read_imports,
)
from lance_assets.rounds.identity.syntax import (
    is_logging,
    is_words,
    list_arguments,
    list_bound_here,
    list_parameters,
    walk_annotation,
    walk_statements,
)

_DESCRIBING = frozenset({"description", "title", "examples"})
"""Arguments of pydantic's `Field` that change no value."""
_IGNORED_FIELDS = frozenset(
    {"ctx", "kind", "type_comment", "type_ignores", "type_params", "annotation", "returns", "simple", "str"}
)
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}
"""The fields of each kind of node that are written."""
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Scope = dict[str, Imported | None]
"""Names that a function binds; an import is kept, for it leads somewhere."""


@dataclass
class Facts:
    """What was read of a definition."""

    form: str = ""
    """Everything that it does, as text."""
    targets: list[Definition | Module] = field(default_factory=list)
    """What its names lead to, in order of their numbers in the form."""
    attributes: set[str] = field(default_factory=set)
    """Every name after a dot, whatever is written before it."""
    annotated: list[Definition] = field(default_factory=list)
    """Classes, and names for types, of its annotations."""
    bases: list[Definition] = field(default_factory=list)
    """Of a class, those of the project."""


def read_facts(definition: Definition, tree: SourceTree) -> Facts:
    """Read a definition."""
    reader = _Reader(definition.module, tree)
    reader.parts.append(f"{definition.kind} {definition.name if definition.owner else definition.last_name}")
    for node in definition.nodes:
        if isinstance(node, ast.ClassDef):
            reader.read_class(node)
        else:
            reader.write(node)
    reader.facts.form = " ".join(reader.parts)
    return reader.facts


def list_annotated(definition: Definition, tree: SourceTree) -> list[Definition]:
    """What the value of a name for a type (`Ask = Callable[[str], Sample]`) names."""
    reader = _Reader(definition.module, tree)
    for node in definition.nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            reader.annotate(node.value)
    return reader.facts.annotated


class _Reader:
    def __init__(self, module: Module, tree: SourceTree) -> None:
        self.module = module
        self.tree = tree
        self.parts: list[str] = []
        self.facts = Facts()
        self.scopes: list[Scope] = []
        self.numbers: dict[int, int] = {}

    def read_class(self, node: ast.ClassDef) -> None:
        """A class without its methods, which are definitions of their own."""
        for base in node.bases:
            target, _ = self._lead(base)
            if isinstance(target, Definition):
                self.facts.bases.append(target)
        self._write_all([*node.decorator_list, *node.bases, *node.keywords])
        for each in node.body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                # A method is read by itself, when it is named; what it returns says which classes come out of this one.
                self._annotate_all(each.returns for _ in [0] if each.returns)
            else:
                self.write(each)

    def annotate(self, node: ast.expr | None) -> None:
        """Note what an annotation names."""
        if node is None:
            return
        for each in walk_annotation(node):
            target, _ = self._lead(each)
            if isinstance(target, Definition):
                self.facts.annotated.append(target)

    def write(self, node: ast.AST) -> None:
        """Add a node to the form."""
        kind = type(node)
        if kind in _WRITERS:
            _WRITERS[kind](self, node)
        else:
            self._write_fields(node)

    def _write_fields(self, node: ast.AST) -> None:
        kind, parts = type(node), self.parts
        if kind not in _FIELDS:
            _FIELDS[kind] = tuple(name for name in kind._fields if name not in _IGNORED_FIELDS)
        parts.append(f"({kind.__name__}")
        for name in _FIELDS[kind]:
            value = getattr(node, name, None)
            if value is None or value == []:
                continue
            parts.append(name)
            if isinstance(value, ast.AST):
                self.write(value)
            elif isinstance(value, list):
                self._write_all(value)
            else:
                parts.append(repr(value))
        parts.append(")")

    def _write_all(self, nodes: Iterable[object]) -> None:
        self.parts.append("[")
        for node in nodes:
            if isinstance(node, ast.AST):
                self.write(node)
            else:
                self.parts.append(repr(node))
        self.parts.append("]")

    def _annotate_all(self, nodes: Iterable[ast.expr]) -> None:
        for node in nodes:
            self.annotate(node)

    def _lead(self, node: ast.expr) -> tuple[Target | None, list[str]]:
        """What a dotted name leads to, and the names after it that were not needed for that."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None, []
        target = self._look_up(node.id)
        # `package.module.name` leads through modules; after a definition the names are attributes.
        while names and isinstance(target, Module):
            found = self.tree.resolve(target, names[-1])
            if found is None:
                break
            target = found
            names.pop()
        if isinstance(target, Outside):
            return Outside(".".join([target.name, *reversed(names)])), []
        return target, names[::-1]

    def _look_up(self, name: str) -> Target | None:
        for scope in reversed(self.scopes):
            if name in scope:
                imported = scope[name]
                return None if imported is None else self.tree.follow(imported)
        return self.tree.resolve(self.module, name)

    def _write_name(self, node: ast.Name | ast.Attribute) -> None:
        target, rest = self._lead(node)
        if target is None:
            if isinstance(node, ast.Name):
                self.parts.append(node.id)
                return
            self.write(node.value)
            rest = [node.attr]
        elif isinstance(target, Outside):
            self.parts.append(f"<{target.name}>")
        else:
            self._refer(target)
        for name in rest:
            self.parts.append(f".{name}")
            self.facts.attributes.add(name)

    def _refer(self, target: Definition | Module) -> None:
        # A number in place of the name, so that the form is the same however an import spells it.
        if id(target) not in self.numbers:
            self.numbers[id(target)] = len(self.facts.targets)
            self.facts.targets.append(target)
        self.parts.append(f"@{self.numbers[id(target)]}")

    def _write_constant(self, node: ast.Constant) -> None:
        self.parts.append(repr(node.value))
        if isinstance(node.value, str) and "." in node.value and self.tree.owns(node.value):
            # a program, or a class, that another process is given by name
            module_name, _, name = node.value.partition(":")
            if all(part.isidentifier() for part in module_name.split(".")):
                module = self.tree.find_module(module_name)
                target = self.tree.resolve(module, name or "<program>") if module is not None else None
                if target is not None and not isinstance(target, Outside):
                    self._refer(target)

    def _write_expression(self, node: ast.Expr) -> None:
        value = node.value
        if isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and is_logging(value.func)):
            return
        self.write(value)

    def _write_assignment(self, node: ast.AnnAssign) -> None:
        self.annotate(node.annotation)
        if node.value is not None:
            self.write(ast.Assign([node.target], node.value))
        elif not self.scopes:
            # In a class a bare annotation declares a field; in a function it does nothing.
            self.parts.append("field")
            self.write(node.target)

    def _write_call(self, node: ast.Call) -> None:
        name = getattr(node.func, "id", None)
        # cast does nothing when it runs: its type is an annotation.
        if name == "cast" and len(node.args) == 2:
            self.annotate(node.args[0])
            self.write(node.args[1])
            return
        # The attribute is named by a text, as by a dot.
        if name in ("getattr", "hasattr", "setattr") and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            self.facts.attributes.add(str(node.args[1].value))
        if name == "Field":
            keywords = [keyword for keyword in node.keywords if keyword.arg not in _DESCRIBING]
            node = ast.Call(node.func, node.args, keywords)
        self._write_fields(node)

    def _write_raise(self, node: ast.Raise) -> None:
        """An error's class and what it carries, without its words."""
        error = node.exc
        if isinstance(error, ast.Call):
            carried = [each for each in error.args if not is_words(each)]
            node = ast.Raise(ast.Call(error.func, carried, error.keywords), None)
        self._write_fields(ast.Raise(node.exc, None))

    def _write_assertion(self, node: ast.Assert) -> None:
        self._write_fields(ast.Assert(node.test, None))

    def _write_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.parts.append(f"({type(node).__name__} {node.name}")
        self._write_all(node.decorator_list)
        self._write_arguments(node.args)
        self.annotate(node.returns)
        self.scopes.append(self._find_scope(node))
        self._write_all(node.body)
        self.scopes.pop()
        self.parts.append(")")

    def _write_lambda(self, node: ast.Lambda) -> None:
        self.parts.append("(lambda")
        self._write_arguments(node.args)
        self.scopes.append(dict.fromkeys(list_parameters(node.args)))
        self.write(node.body)
        self.scopes.pop()
        self.parts.append(")")

    def _write_arguments(self, node: ast.arguments) -> None:
        for each in list_arguments(node):
            self.annotate(each.annotation)
        self._write_fields(node)

    def _write_comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        bound = [name.id for each in node.generators for name in ast.walk(each.target) if isinstance(name, ast.Name)]
        # The names of a comprehension hide those of the module within it.
        self.scopes.append(dict.fromkeys(bound))
        self._write_fields(node)
        self.scopes.pop()

    def _write_nested_class(self, node: ast.ClassDef) -> None:
        self._write_fields(node)

    def _write_import(self, node: ast.Import | ast.ImportFrom) -> None:
        """An import in a function binds names only; one in a statement of a module can also fail there."""
        for _, imported in read_imports(node, self.module):
            if not self.scopes and imported.name != "*":
                target = self.tree.follow(imported)
                if isinstance(target, Definition | Module):
                    self._refer(target)

    def _write_walrus(self, node: ast.NamedExpr) -> None:
        if self.scopes:
            self.scopes[-1].setdefault(node.target.id, None)
        self._write_fields(node)

    def _find_scope(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Scope:
        scope: Scope = dict.fromkeys(list_parameters(node.args))
        outer: list[str] = []
        for each in walk_statements(node.body):
            if isinstance(each, ast.Import | ast.ImportFrom):
                scope |= dict(read_imports(each, self.module))
            elif isinstance(each, ast.Global | ast.Nonlocal):
                # These names are bound outside of the function, whatever it assigns to them.
                outer += each.names
            else:
                for name in list_bound_here(each):
                    scope.setdefault(name, None)
        return {name: imported for name, imported in scope.items() if name not in outer}


def _skip(reader: _Reader, node: ast.AST) -> None:
    del reader, node


_WRITERS: dict[type[ast.AST], Callable[[_Reader, Any], None]] = {
    ast.Name: _Reader._write_name,
    ast.Attribute: _Reader._write_name,
    ast.Constant: _Reader._write_constant,
    ast.Expr: _Reader._write_expression,
    ast.AnnAssign: _Reader._write_assignment,
    ast.Call: _Reader._write_call,
    ast.Raise: _Reader._write_raise,
    ast.Assert: _Reader._write_assertion,
    ast.FunctionDef: _Reader._write_function,
    ast.AsyncFunctionDef: _Reader._write_function,
    ast.Lambda: _Reader._write_lambda,
    ast.ClassDef: _Reader._write_nested_class,
    ast.NamedExpr: _Reader._write_walrus,
    ast.Import: _Reader._write_import,
    ast.ImportFrom: _Reader._write_import,
    ast.Pass: _skip,
    **dict.fromkeys(_COMPREHENSIONS, _Reader._write_comprehension),
}
