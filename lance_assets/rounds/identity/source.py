"""The definitions in a project's source files, found without importing any of them.

A definition is what one name of a module is bound to: a function, a class, a method, or a constant. A name is followed
to its definition through every form of import. Names of other projects stay names.
"""

import ast
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lance_assets.rounds.identity.syntax import is_test_of, list_bound, list_changed, walk_statements

Kind = Literal["function", "class", "constant", "method", "field", "effect", "program"]
"""An effect is a statement of a module that binds no name; a program is what runs under `__name__ == "__main__"`."""

EFFECT = "<effect>"
PROGRAM = "<program>"


class MissingSourceError(FileNotFoundError):
    """The source of a module that has to be read is not a file here."""


@dataclass(eq=False)
class Definition:
    """What one name of a module, or of a class in it, is bound to."""

    module: "Module"
    """Where it is defined."""
    name: str
    """In the module: `build_pairs`, or `Round.read` for a method."""
    kind: Kind
    """What it is."""
    nodes: list[ast.stmt] = field(default_factory=list)
    """Every statement that binds the name, in order."""
    owner: "Definition | None" = None
    """The class of a method or field."""
    members: "dict[str, Definition]" = field(default_factory=dict)
    """Of a class: its methods and fields by their names."""

    @property
    def full_name(self) -> str:
        """The name with its module: `lance_assets.rounds.round:Round.read`."""
        return f"{self.module.name}:{self.name}"

    @property
    def last_name(self) -> str:
        """The name in its class or module."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Imported:
    """What an import binds: a module, or a name of one."""

    module: str
    name: str | None


@dataclass(frozen=True)
class Outside:
    """A name of another project, or of Python's library."""

    name: str


@dataclass(eq=False)
class Module:
    """One source file."""

    name: str
    """As it is imported."""
    path: Path
    """The file."""
    is_package: bool
    """Whether the file is an `__init__.py`."""
    definitions: dict[str, Definition] = field(default_factory=dict)
    """By name."""
    imports: dict[str, Imported] = field(default_factory=dict)
    """What each imported name is bound to."""
    stars: list[str] = field(default_factory=list)
    """Modules from which every name is imported."""


Target = Definition | Module | Outside
"""What a name leads to."""


def read_imports(node: ast.Import | ast.ImportFrom, module: Module) -> Iterator[tuple[str, Imported]]:
    """Each name that an import statement binds, and what it is bound to."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            # `import a.b` binds the name `a`; only with `as` is the name bound to the inner module.
            yield (alias.asname, Imported(alias.name, None)) if alias.asname else (top, Imported(top, None))
        return
    base = node.module or ""
    if node.level:
        parts = module.name.split(".")
        # One dot means the package of the module, and an `__init__.py` is its own package.
        above = parts[: len(parts) - node.level + module.is_package]
        base = ".".join([*above, *([node.module] if node.module else [])])
    for alias in node.names:
        yield alias.asname or alias.name, Imported(base, alias.name)


@dataclass(eq=False)
class SourceTree:
    """The source of some top-level packages; each file is read once."""

    folders: Mapping[str, Path]
    """Where each top-level package lies: its folder, or its file where it is a single module."""
    _modules: dict[str, Module | None] = field(default_factory=dict)

    def find_module(self, name: str) -> Module | None:
        """The module of a name; None where the project has none such.

        Raises:
            MissingSourceError: the module is there in compiled form alone.
        """
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def owns(self, name: str) -> bool:
        """Whether a dotted name belongs to one of the packages."""
        return name.partition(".")[0] in self.folders

    def load(self, name: str) -> Module:
        """The module of a name.

        Raises:
            MissingSourceError: its source is not a file here.
        """
        if (module := self.find_module(name)) is None:
            raise MissingSourceError(f"the source of {name} is not there (looked in {self._place(name)})")
        return module

    def find(self, full_name: str) -> Definition:
        """The definition of `module:name`, `module:Class.method`, or `module` for what runs with `python -m`.

        Raises:
            MissingSourceError: the module's source is not a file here.
            ValueError: the module has no such name.
        """
        module_name, _, name = full_name.partition(":")
        module = self.load(module_name)
        first, *rest = (name or PROGRAM).split(".")
        found = module.definitions[PROGRAM] if not name and PROGRAM in module.definitions else None
        target = found or self.resolve(module, first)
        for part in rest:
            members = target.members if isinstance(target, Definition) else {}
            target = members[part] if part in members else None
        if not isinstance(target, Definition):
            raise ValueError(f"{module.path} defines no {name or 'program'}, which {full_name!r} names")
        return target

    def resolve(self, module: Module, name: str) -> Target | None:
        """What a global name of a module leads to; None for a name that it does not bind, such as a builtin."""
        return self._resolve(module, name, set())

    def follow(self, imported: Imported) -> Target | None:
        """What an imported name leads to."""
        return self._follow(imported, set())

    def _resolve(self, module: Module, name: str, seen: set[tuple[str, str]]) -> Target | None:
        # Modules that import names from each other would be followed for ever.
        if (module.name, name) in seen:
            return None
        seen.add((module.name, name))
        if name in module.definitions:
            return module.definitions[name]
        if name in module.imports:
            return self._follow(module.imports[name], seen)
        for star in module.stars:
            if (source := self.find_module(star)) is not None and (found := self._resolve(source, name, seen)):
                return found
        # `from package import module` names a file that no statement of the package binds.
        return self.find_module(f"{module.name}.{name}") if module.is_package else None

    def _follow(self, imported: Imported, seen: set[tuple[str, str]]) -> Target | None:
        if not self.owns(imported.module):
            return Outside(imported.module if imported.name is None else f"{imported.module}.{imported.name}")
        module = self.load(imported.module)
        return module if imported.name is None else self._resolve(module, imported.name, seen)

    def _place(self, name: str) -> Path:
        top, *rest = name.split(".")
        return self.folders[top].joinpath(*rest)

    def _read(self, name: str) -> Module | None:
        place = self._place(name)
        package = place / "__init__.py"
        files = [place] if place.suffix == ".py" else [package, place.with_name(f"{place.name}.py")]
        for path in files:
            if path.is_file():
                return _read_module(Module(name, path, path == package))
        # A folder without an `__init__.py` is a package too (PEP 420).
        if place.is_dir():
            return Module(name, package, True)
        if compiled := sorted(place.parent.glob(f"{place.name}.*")) if place.parent.is_dir() else []:
            raise MissingSourceError(
                f"the source of {name} is not there, only {compiled[0]}: install it with its source"
            )
        return None


def _read_module(module: Module) -> Module:
    for node in ast.parse(module.path.read_bytes(), filename=str(module.path)).body:
        _add_statement(module, node)
    return module


def _add_statement(module: Module, node: ast.stmt) -> None:
    if isinstance(node, ast.If) and is_test_of(node.test, "TYPE_CHECKING"):
        # What is imported for annotations alone still says which class a value has.
        for each in node.body:
            _add_statement(module, each)
        return
    if isinstance(node, ast.If) and is_test_of(node.test, "__name__"):
        _bind(module, PROGRAM, "program", node)
        return
    for inner in walk_statements([node]):
        if isinstance(inner, ast.ImportFrom) and inner.names[0].name == "*":
            module.stars += [imported.module for _, imported in read_imports(inner, module)]
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            module.imports |= dict(read_imports(inner, module))
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Pass):
        return
    # This is a docstring, of the module or of a constant.
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    kinds: dict[type, Kind] = {
        ast.FunctionDef: "function",
        ast.AsyncFunctionDef: "function",
        ast.ClassDef: "class",
    }
    kind = kinds[type(node)] if type(node) in kinds else "constant"
    # `REGISTRY["a"] = f` changes what REGISTRY is, so it belongs to its definition.
    names = list_bound(node) or [name for name in list_changed(node) if name in module.definitions]
    for name in names:
        _bind(module, name, kind, node)
    if not names:
        _bind(module, EFFECT, "effect", node)


def _bind(module: Module, name: str, kind: Kind, node: ast.stmt) -> None:
    if name not in module.definitions:
        module.definitions[name] = Definition(module, name, kind)
    definition = module.definitions[name]
    # A name may be bound several times, as in both branches of an `if`: all of them count.
    definition.nodes.append(node)
    if isinstance(node, ast.ClassDef):
        _add_members(definition, node)


def _add_members(owner: Definition, node: ast.ClassDef) -> None:
    for each in node.body:
        is_method = isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_method or isinstance(each, ast.Assign | ast.AnnAssign):
            for name in list_bound(each):
                if name not in owner.members:
                    kind: Kind = "method" if is_method else "field"
                    owner.members[name] = Definition(owner.module, f"{owner.name}.{name}", kind, owner=owner)
                owner.members[name].nodes.append(each)


def find_packages(names: Collection[str]) -> dict[str, Path]:
    """Where top-level packages lie; none of them is imported for that.

    Raises:
        MissingSourceError: a package is not there, or not as files in a folder.
    """
    folders = {}
    for name in sorted(names):
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # made while the program runs, as what is typed into an interpreter
            spec = None
        places = [Path(place) for place in spec.submodule_search_locations or []] if spec else []
        if spec and not places and spec.origin:
            places = [Path(spec.origin)]
        found = [place for place in places if place.exists()]
        if not found:
            where = f"only at {', '.join(map(str, places))}" if places else "nowhere"
            raise MissingSourceError(
                f"the source of package {name} is not in a folder ({where}), so what its code does cannot be hashed; "
                "install it as files, not as a zip"
            )
        folders[name] = found[0]
    return folders
