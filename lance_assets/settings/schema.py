"""The JSON schema of an experiment's file, in the form whose violations read best: `dg check yaml` prints them."""

from typing import Any


def simplify_schema(schema: Any) -> Any:
    """The same schema, said so that an error names what is allowed.

    1. "an integer, or null" is one type list with its range, not a choice of schemas: the error is about the value,
       not "not valid under any of the given schemas".
    2. A constant is a list of one: the error says "not one of ['lance']".
    3. A section without further fields lists its names: a misspelt one is shown beside them.

    >>> simplify_schema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    {'type': ['integer', 'null'], 'minimum': 1}
    """
    if isinstance(schema, list):
        return [simplify_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    simple = {key: simplify_schema(value) for key, value in schema.items()}
    match simple:
        case {"anyOf": [{"type": str(kind), **rest}, {"type": "null"}]} if "enum" not in rest:
            others = {key: value for key, value in simple.items() if key != "anyOf"}
            return {"type": [kind, "null"], **rest, **others}
        case {"const": constant}:
            others = {key: value for key, value in simple.items() if key != "const"}
            return others | {"enum": [constant]}
        case {"additionalProperties": False, "properties": dict(properties)}:
            return simple | {"propertyNames": {"enum": list(properties)}}
    return simple
