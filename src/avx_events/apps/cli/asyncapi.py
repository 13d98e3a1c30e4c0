"""AsyncAPI 3.0 documents of an application, and what changes between two of them break.

Source:
    https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

import msgspec

from avx_events.apps.cli.registry import EventInfo, HandlerInfo
from avx_events.core.event import class_for

Json: TypeAlias = Mapping[str, Any]

_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")
_SCHEMAS: Final = "#/components/schemas/"
_REFERENCE: Final = _SCHEMAS + "{name}"
_DEEPEST: Final = 20


def document_for(
    events: Iterable[EventInfo], handlers: Iterable[HandlerInfo], *, title: str, version: str
) -> dict[str, Any]:
    """Return the document: a channel for each event type, which is its topic where no other is given.

    Args:
        events: What the application may send.
        handlers: What it receives.
        title: Of the document.
        version: Of the document.
    """
    known = list(events)
    payloads, schemas = _schemas(known)
    channels: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for event in known:
        name = _name(event.event_type)
        channels[name] = {"address": event.event_type, "messages": {name: {"$ref": f"#/components/messages/{name}"}}}
        messages[name] = {
            "name": event.event_type,
            "title": event.event_class.partition(":")[2],
            "contentType": "application/json",
            "payload": payloads[event.event_type],
            "description": "The data of a CloudEvents 1.0 event.",
        }
        operations[f"send.{name}"] = _operation("send", name)
        for handler in handlers:
            if handler.gets(event.event_type):
                operations[f"receive.{name}.{_name(handler.name)}"] = _operation("receive", name)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def breaking_changes(before: Json, after: Json) -> list[str]:
    """Return what those who read or write by ``before`` cannot do by ``after``, one sentence each."""
    found: list[str] = []
    old, new = _messages(before), _messages(after)
    for name, message in old.items():
        if name not in new:
            found.append(f"{name}: there is no such message any more")
            continue
        found += _changes(name, _part(message, "payload"), _part(new[name], "payload"), (before, after), _DEEPEST)
    operations = _part(after, "operations")
    found += [f"{name}: nobody does so any more" for name in _part(before, "operations") if name not in operations]
    return found


def _operation(action: str, channel: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{channel}"}],
    }


def _schemas(events: Iterable[EventInfo]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return for each event type the schema of its data, and the schemas that they refer to."""
    classes = {event.event_type: class_for(event.event_type) for event in events}
    try:  # together, so that of two classes with one name each has its own
        found, components = msgspec.json.schema_components(classes.values(), ref_template=_REFERENCE, schema_hook=_any)
        return dict(zip(classes, found, strict=True)), components
    except (TypeError, RuntimeError, NameError):  # one has a type that no schema has a word for
        payloads: dict[str, Any] = {}
        apart: dict[str, Any] = {}
        for event_type, event_class in classes.items():
            payloads[event_type], more = _schema_of(event_class)
            apart |= more
        return payloads, {_name(name): schema for name, schema in apart.items()}


def _schema_of(event_class: type | None) -> tuple[dict[str, Any], dict[str, Any]]:
    described: Any = getattr(event_class, "model_json_schema", None)  # a pydantic model describes itself
    try:
        if described is not None:
            schema: dict[str, Any] = described(ref_template=_SCHEMAS + "{model}")
            return schema, schema.pop("$defs", {})
        (found,), more = msgspec.json.schema_components((event_class,), ref_template=_REFERENCE, schema_hook=_any)
    except (TypeError, RuntimeError, NameError):
        return {"type": "object"}, {}
    return found, more


def _any(_: type) -> dict[str, Any]:
    return {}


def _name(text: str) -> str:
    return _NO_NAME.sub("_", text)


def _messages(document: Json) -> Json:
    return _part(document, "components", "messages")


def _part(document: object, *names: str) -> Json:
    """Return the object at the end of a path of names; an empty one where there is none, whatever is there."""
    found: Any = document
    for name in names:
        found = cast("Json", found).get(name) if isinstance(found, dict) else None
    return cast("Json", found) if isinstance(found, dict) else {}


def _listed(schema: Json, name: str) -> list[object]:
    found: object = schema.get(name)
    return cast("list[object]", found) if isinstance(found, list) else []


def _changes(where: str, old: Json, new: Json, documents: tuple[Json, Json], depth: int) -> Iterator[str]:
    old, new = _resolved(old, documents[0]), _resolved(new, documents[1])
    if depth == 0 or old == new == {}:
        return
    if old.get("type") != new.get("type"):
        yield f"{where}: {_type(old)} has become {_type(new)}"
        return
    gone = [value for value in _listed(old, "enum") if value not in _listed(new, "enum")]
    if gone:
        yield f"{where}: {', '.join(map(repr, gone))} cannot be any more"
    before, after = _part(old, "properties"), _part(new, "properties")
    for name in before:
        if name not in after:
            yield f"{where}.{name}: the field is gone"
        else:
            yield from _changes(f"{where}.{name}", _part(before, name), _part(after, name), documents, depth - 1)
    for required in _listed(new, "required"):
        if required not in _listed(old, "required"):
            yield f"{where}.{required}: the field must be there now"
    if isinstance(old.get("items"), dict) and isinstance(new.get("items"), dict):
        yield from _changes(f"{where}[]", old["items"], new["items"], documents, depth - 1)


def _resolved(schema: Json, document: Json) -> Json:
    reference = str(schema.get("$ref", ""))
    if not reference.startswith(_SCHEMAS):
        return schema
    return _part(document, "components", "schemas", reference.removeprefix(_SCHEMAS))


def _type(schema: Json) -> str:
    return str(schema.get("type", "anyOf" if "anyOf" in schema else "anything"))
