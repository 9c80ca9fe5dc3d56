"""Jinja templates that write a prompt or a completion from the columns of a row, in a sandbox.

A column is named as it is, `{{ instruction }}`, or as `{{ row['a name with blanks'] }}`. A value that is missing or NaN
is written as nothing, and blanks at both ends of the result are removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from resources.readers.mistakes import RowError


def _write_value(value: Any) -> Any:
    # NaN is the one value that differs from itself.
    return "" if value is None or value != value else value


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_write_value, autoescape=False)


@dataclass(frozen=True)
class ColumnTemplate:
    """A template and what it reads."""

    text: str
    """As the experiment has it."""
    columns: frozenset[str]
    """The columns that it names."""
    template: Template
    """Ready to be filled."""

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for one row.

        Raises:
            RowError: a column is missing, or the template fails on the values.
        """
        try:
            return self.template.render(values, row=values).strip()
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RowError(
                f"the template {self.text!r} cannot be filled ({error}), the row has {sorted(values)}; "
                "correct the template or the row"
            ) from error


def is_template(text: str) -> bool:
    """Whether a text is a template and no column's name."""
    return "{{" in text or "{%" in text


def write_column(name: str) -> str:
    """How a template names a column.

    >>> write_column("input"), write_column("full text")
    ('{{ input }}', "{{ row['full text'] }}")
    """
    return f"{{{{ {name} }}}}" if name.isidentifier() else f"{{{{ row[{name!r}] }}}}"


@cache
def compile_template(text: str) -> ColumnTemplate:
    """Read a template.

    Raises:
        ValueError: it is no Jinja, or names no column.
    """
    try:
        tree = _ENVIRONMENT.parse(text)
        template = _ENVIRONMENT.from_string(text)
    except TemplateError as error:
        raise ValueError(f"{text!r} is no template ({error}); write columns as {{{{ name }}}}") from error
    named = meta.find_undeclared_variables(tree)
    if "row" in named:
        of_row = {
            item.arg.value
            for item in tree.find_all(nodes.Getitem)
            if isinstance(item.node, nodes.Name) and item.node.name == "row" and isinstance(item.arg, nodes.Const)
        }
        named = (named - {"row"}) | of_row
    if not named:
        raise ValueError(
            f"{text!r} names no column; write one as {{{{ name }}}}, or set prompt_field or completion_field to it"
        )
    return ColumnTemplate(text, frozenset(named), template)


def check_template(text: str) -> str:
    """The template as it is.

    Raises:
        ValueError: see `compile_template`.
    """
    compile_template(text)
    return text
