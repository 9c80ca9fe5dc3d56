"""A hash of what an asset's code does: of every definition that is reached from given ones, and of nothing else.

What is reached is found by rapid type analysis (Bacon and Sweeney, OOPSLA 1996), to a fixed point: every definition
that a name leads to; of every class that is named in an expression its body and its special methods; and of these
classes, and of those that an annotation names, every method whose name follows a dot anywhere in what is reached.

Whatever is named as text, through `getattr` with a computed name, or chosen by a registry that is not followed, is not
seen; such definitions are given as roots.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from lance_assets.rounds.identity.facts import Facts, list_annotated, read_facts
from lance_assets.rounds.identity.source import EFFECT, Definition, Module, SourceTree

DEPTH = 3
"""A definition's hash has those of what it names in it, so many steps deep, so that names cannot be swapped unseen."""
_CONSTRUCTING = frozenset({"__init__", "__post_init__", "__new__", "__repr__", "__str__"})
"""Special methods that do nothing for an object that others made."""
_LENGTH = 16


def _digest(parts: Collection[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class CodeHash:
    """What was reached from some roots."""

    digest: str
    """Of everything reached, 16 hex digits; which module a definition lies in is no part of it."""
    definitions: dict[str, str]
    """The hash of each definition alone by its full name, 8 hex digits, sorted."""


@dataclass(eq=False)
class CodeHasher:
    """Hashes what is reached from roots; what was read once is kept."""

    tree: SourceTree
    """The source that is followed."""
    not_followed: Collection[str] = ()
    """Modules, packages and definitions (`module:name`) whose names count and whose content does not."""
    value_classes: Collection[str] = ()
    """Classes (`module:name`) whose fields, as those of their subclasses, come as values that are hashed elsewhere."""
    _facts: dict[Definition, Facts] = field(default_factory=dict)
    _hashes: dict[tuple[Definition | Module, int], str] = field(default_factory=dict)
    _is_outside: dict[Definition | Module, bool] = field(default_factory=dict)
    _is_value: dict[Definition, bool] = field(default_factory=dict)

    def hash_code(self, roots: Sequence[str], *, without: Collection[str] = ()) -> CodeHash:
        """Hash what is reached from some definitions.

        Args:
            roots: full names: `module:name`, `module:Class.method`, or `module` for what runs with `python -m`.
            without: full names of definitions that are named and never used, so that nothing is reached from them.

        Raises:
            MissingSourceError: the source of a module that is reached is not a file here.
            ValueError: there is no such definition.
        """
        starts = [self.tree.find(root) for root in roots]
        unused = {self.tree.find(name) for name in without}
        reached = [each for each in _Reach(self, unused).run(starts) if not self.is_value_class(each)]
        # Roots keep their order, since each has a part of its own; the rest is sorted, so that moving code changes
        # nothing.
        ordered = [self._hash(start, DEPTH) for start in starts]
        digest = _digest([*ordered, *sorted(self._hash(each, DEPTH) for each in reached)])
        alone = {each.full_name: self._hash(each, 0)[: _LENGTH // 2] for each in reached}
        return CodeHash(digest[:_LENGTH], dict(sorted(alone.items())))

    def read(self, definition: Definition) -> Facts:
        """What a definition says."""
        if definition not in self._facts:
            self._facts[definition] = read_facts(definition, self.tree)
        return self._facts[definition]

    def is_outside(self, definition: Definition | Module) -> bool:
        """Whether a definition's content does not count."""
        if definition not in self._is_outside:
            name = definition.full_name if isinstance(definition, Definition) else definition.name
            self._is_outside[definition] = any(
                name == each or name.startswith((f"{each}.", f"{each}:")) for each in self.not_followed
            )
        return self._is_outside[definition]

    def is_value_class(self, definition: Definition) -> bool:
        """Whether the fields of a class come as values."""
        if definition.kind != "class":
            return False
        if definition not in self._is_value:
            self._is_value[definition] = definition.full_name in self.value_classes
            bases = self.read(definition).bases
            self._is_value[definition] |= any(self.is_value_class(base) for base in bases)
        return self._is_value[definition]

    def _hash(self, definition: Definition | Module, depth: int) -> str:
        key = (definition, depth)
        if key not in self._hashes:
            if isinstance(definition, Module) or self.is_outside(definition) or self.is_value_class(definition):
                # Only the last part of the name counts, so that moving what is not followed changes nothing.
                name = definition.last_name if isinstance(definition, Definition) else definition.name
                self._hashes[key] = _digest([name.rpartition(".")[2]])
            else:
                facts = self.read(definition)
                below = [self._hash(each, depth - 1) for each in facts.targets] if depth else []
                self._hashes[key] = _digest([facts.form, *below])
        return self._hashes[key]


class _Reach:
    """The fixed point of what is reached."""

    def __init__(self, hasher: CodeHasher, unused: set[Definition]) -> None:
        self.hasher = hasher
        self.unused = unused
        self.reached: dict[Definition, None] = {}
        self.known: set[Definition] = set()
        """Classes whose methods count when they are named."""
        self.attributes: set[str] = set()
        self.waiting: dict[str, list[Definition]] = {}
        """Methods of known classes whose names nothing has named yet."""
        self.seen_modules: set[Module] = set()
        self.todo: list[Definition | Module] = []

    def run(self, starts: Sequence[Definition]) -> list[Definition]:
        self.todo += starts
        while self.todo:
            self._reach(self.todo.pop())
        return list(self.reached)

    def _reach(self, target: Definition | Module) -> None:
        if isinstance(target, Module):
            self._reach_module(target)
            return
        if target in self.reached or target in self.unused or self.hasher.is_outside(target):
            return
        self.reached[target] = None
        # These statements run when the module is imported, whatever is used of it.
        if EFFECT in target.module.definitions:
            self.todo.append(target.module.definitions[EFFECT])
        if target.kind == "class":
            self._know(target)
            self.todo += [each for name, each in target.members.items() if _is_special(name)]
            if self.hasher.is_value_class(target):
                return
        facts = self.hasher.read(target)
        self.todo += facts.targets
        # The type of what is before a dot is not known, so the name may mean a method of any known class.
        for name in facts.attributes - self.attributes:
            self.attributes.add(name)
            self.todo += self.waiting.pop(name, [])
        for each in facts.annotated:
            self._know(each)

    def _know(self, target: Definition) -> None:
        """Let the methods of a class count that are named anywhere."""
        if target in self.known or self.hasher.is_outside(target):
            return
        self.known.add(target)
        if target.kind != "class":
            for each in list_annotated(target, self.hasher.tree) if target.kind == "constant" else []:
                self._know(each)
            return
        facts = self.hasher.read(target)
        # A method that is named may be inherited, and a field's class is known by its annotation alone.
        for each in (*facts.bases, *facts.annotated):
            self._know(each)
        comes_as_values = self.hasher.is_value_class(target)
        for name, member in target.members.items():
            if _is_special(name):
                self.todo += [] if name in _CONSTRUCTING else [member]
            elif member.kind == "method" or not comes_as_values:
                self._wait(name, member)

    def _reach_module(self, module: Module) -> None:
        """A module that is handed on as an object: its definitions count when they are named."""
        if module in self.seen_modules or self.hasher.is_outside(module):
            return
        self.seen_modules.add(module)
        for name, definition in module.definitions.items():
            if not name.startswith("<"):
                self._wait(name, definition)

    def _wait(self, name: str, definition: Definition) -> None:
        if name in self.attributes:
            self.todo.append(definition)
        else:
            self.waiting.setdefault(name, []).append(definition)


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
