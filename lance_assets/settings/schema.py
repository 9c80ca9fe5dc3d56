"""The JSON schema of an experiment's file, in a form whose violations are easy to read in `dg check yaml`."""

from typing import Any


def simplify_schema(schema: Any) -> Any:
    """The same schema, written so that an error names what is allowed.

    1. "An integer or null" becomes one list of types with its range, in place of a choice of schemas. So the error
       is about the value and does not say "not valid under any of the given schemas".
    2. A constant becomes a list of one, so the error says "not one of ['lance']".
    3. A section that allows no further fields lists its names, so the error shows them beside a misspelt one.

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
