"""Questions about the syntax trees of Python: which names a statement binds, and what an expression is for."""

import ast
from collections.abc import Iterator

_LOGGING = frozenset({"log", "debug", "info", "warn", "warning", "exception"})
_LOGGERS = frozenset({"log", "logger", "LOGGER", "logging", "warnings"})


def walk_statements(body: list[ast.stmt]) -> Iterator[ast.stmt | ast.ExceptHandler | ast.match_case]:
    """The statements of a scope, also those inside others, without those of functions and classes."""
    # The stack gives back the last one first, so everything goes onto it in reverse to come out in the order of the
    # source.
    stack: list[ast.stmt | ast.ExceptHandler | ast.match_case] = [*reversed(body)]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for name in ("cases", "finalbody", "orelse", "handlers", "body"):
                stack += getattr(node, name, [])[::-1]


def list_bound_here(node: ast.stmt | ast.ExceptHandler | ast.match_case) -> list[str]:
    """The names that a statement binds itself, without imports and without the statements inside it."""
    targets: list[ast.AST] = []
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.ExceptHandler():
            return [node.name] if node.name else []
        case ast.Assign() | ast.Delete():
            targets = list(node.targets)
        case ast.AugAssign() | ast.AnnAssign() | ast.For() | ast.AsyncFor():
            targets = [node.target]
        case ast.With() | ast.AsyncWith():
            targets = [item.optional_vars for item in node.items if item.optional_vars]
        case ast.match_case():
            targets = [node.pattern]
    names: list[str] = []
    while targets:
        each = targets.pop()
        if isinstance(each, ast.Name):
            names.append(each.id)
        elif isinstance(each, ast.MatchAs | ast.MatchStar | ast.MatchMapping):
            names += [name for name in (getattr(each, "name", None), getattr(each, "rest", None)) if name]
            targets += ast.iter_child_nodes(each)
        elif isinstance(each, ast.Tuple | ast.List | ast.Starred | ast.pattern):
            targets += ast.iter_child_nodes(each)
    return names


def list_bound(node: ast.stmt) -> list[str]:
    """The names that a statement binds with all statements inside it, without imports."""
    return list(dict.fromkeys(name for each in walk_statements([node]) for name in list_bound_here(each)))


def list_changed(node: ast.stmt) -> list[str]:
    """The names whose objects a statement changes: `REGISTRY["name"] = value`."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    names = []
    for target in targets:
        base = target
        while isinstance(base, ast.Subscript | ast.Attribute):
            base = base.value
        if base is not target and isinstance(base, ast.Name):
            names.append(base.id)
    return names


def is_test_of(test: ast.expr, name: str) -> bool:
    """Whether a condition is about `TYPE_CHECKING`, or compares `__name__`."""
    first = test.left if isinstance(test, ast.Compare) else test
    return name in (getattr(first, "id", None), getattr(first, "attr", None))


def walk_annotation(node: ast.expr) -> Iterator[ast.expr]:
    """The dotted names in an annotation, also of one that is a string."""
    stack: list[ast.AST] = [node]
    while stack:
        each = stack.pop()
        if isinstance(each, ast.Name | ast.Attribute):
            yield each
        # The texts in a Literal are values, not names of types.
        elif isinstance(each, ast.Subscript) and isinstance(each.value, ast.Name) and each.value.id == "Literal":
            continue
        elif isinstance(each, ast.Subscript) and isinstance(each.value, ast.Name) and each.value.id == "Annotated":
            # After the type, Annotated holds whatever a library wants to know.
            stack.append(each.slice.elts[0] if isinstance(each.slice, ast.Tuple) else each.slice)
        elif isinstance(each, ast.Constant):
            if isinstance(each.value, str):
                stack.append(ast.parse(each.value, mode="eval").body)
        else:
            stack.extend(ast.iter_child_nodes(each))


def list_arguments(node: ast.arguments) -> list[ast.arg]:
    """The arguments of a function, with those that take the rest."""
    rest = [each for each in (node.vararg, node.kwarg) if each is not None]
    return [*node.posonlyargs, *node.args, *node.kwonlyargs, *rest]


def list_parameters(node: ast.arguments) -> list[str]:
    """The names that a function's arguments bind."""
    return [each.arg for each in list_arguments(node)]


def is_logging(node: ast.expr) -> bool:
    """Whether a call only reports something: `log(...)`, `this_round.log(...)`, `context.log.info(...)`."""
    if isinstance(node, ast.Name):
        return node.id == "log"
    if not isinstance(node, ast.Attribute):
        return False
    if node.attr in ("log", "_log"):
        return True
    base = node.value
    name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", None)
    return node.attr in _LOGGING and name in _LOGGERS


def is_words(node: ast.expr) -> bool:
    """Whether an expression is a text, as an error's words are."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return is_words(node.left) or is_words(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
