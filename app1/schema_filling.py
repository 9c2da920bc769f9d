"""A JSON value of the form that a client's JSON Schema asks for, with a caption in it.

Texts get the caption and numbers named for it the confidence. A schema that asks for more than a
captioner can answer is refused: an invented value would be worse than none.
"""

from __future__ import annotations

from typing import Any

_DEPTH = 8
_CONFIDENCES = ("confidence", "score", "probability", "certainty")
# Keywords that restrict nothing, or that are looked at below.
_UNDERSTOOD = frozenset(
    (
        *("type", "properties", "required", "items", "const", "anyOf", "oneOf", "$ref", "$defs"),
        *("definitions", "title", "description", "default", "examples", "additionalProperties"),
        *("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "$schema", "$id"),
    )
)


class SchemaError(ValueError):
    """A schema cannot be filled; the message says why."""


def fill(schema: Any, caption: str, confidence: float) -> Any:
    """A value of the schema; `{"caption": caption}` for a schema that asks for nothing.

    Args:
        confidence: in [0, 1].

    Raises:
        SchemaError: it asks for something that a captioner cannot answer.
    """
    if schema in ({}, True):
        return {"caption": caption}
    return _Filling(schema, caption, confidence).value(schema, "", 0)


class _Filling:
    def __init__(self, root: Any, caption: str, confidence: float) -> None:
        self._root, self._caption, self._confidence = root, caption, confidence

    def value(self, schema: Any, name: str, depth: int) -> Any:
        where = f"{name!r}" if name else "the answer"
        if not isinstance(schema, dict) or depth > _DEPTH:
            raise SchemaError(f"{where} has no schema that can be followed")
        if "$ref" in schema:
            return self.value(self._referred(schema["$ref"]), name, depth + 1)
        if unknown := sorted(set(schema) - _UNDERSTOOD):
            raise SchemaError(f"{where} has a condition that is not understood ({unknown[0]})")
        if "const" in schema:
            return schema["const"]
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self._first(schema[choice], name, depth)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            return self._first([{**schema, "type": own} for own in kind], name, depth)
        return self._typed(kind, schema, name, depth)

    def _typed(self, kind: Any, schema: dict[str, Any], name: str, depth: int) -> Any:
        if kind == "null":
            return None
        if kind == "string":
            return self._text(schema, name)
        if kind == "number" and any(word in name.lower() for word in _CONFIDENCES):
            return self._number(schema, name)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind == "object":
            return self._object(schema, depth)
        raise SchemaError(f"a captioner has no {kind} for {name!r}")

    def _text(self, schema: dict[str, Any], name: str) -> str:
        most, least = schema.get("maxLength"), schema.get("minLength", 0)
        text = self._caption
        if isinstance(most, int) and len(text) > most:
            text = text[: most + 1].rsplit(" ", 1)[0].rstrip(" ,.")[:most]
        if not text or len(text) < least:
            raise SchemaError(f"a caption has another length than {name!r} allows")
        return text

    def _number(self, schema: dict[str, Any], name: str) -> float:
        least, most = schema.get("minimum", 0), schema.get("maximum", 1)
        if not least <= self._confidence <= most:
            raise SchemaError(f"the confidence, from 0 to 1, is not in the range of {name!r}")
        return self._confidence

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        try:
            items = [self.value(schema.get("items", {"type": "string"}), name, depth + 1)]
        except SchemaError:
            items = []
        if len(items) < schema.get("minItems", 0):
            raise SchemaError(f"{name!r} wants more entries than a captioner has")
        return items[: schema.get("maxItems", 1)]

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        found = {}
        for name, own in properties.items():
            try:
                found[name] = self.value(own, name, depth + 1)
            except SchemaError:
                if name in required:
                    raise
        if missing := [name for name in required if name not in found]:
            raise SchemaError(f"{missing[0]!r} is required and not described")
        if not found:
            raise SchemaError("it has no place for a caption")
        return found

    def _first(self, schemas: Any, name: str, depth: int) -> Any:
        for schema in schemas if isinstance(schemas, list) else []:
            if schema == {"type": "null"}:
                continue
            try:
                return self.value(schema, name, depth + 1)
            except SchemaError:
                continue
        if {"type": "null"} in schemas:
            return None
        raise SchemaError(f"none of the forms of {name!r} can be filled")

    def _referred(self, reference: Any) -> Any:
        place = self._root
        for key in str(reference).removeprefix("#/").split("/"):
            if not isinstance(place, dict) or key not in place:
                raise SchemaError(f"there is no {reference!r} in the schema")
            place = place[key]
        return place
