"""Events as they were recorded once, in the files of a folder: one for each event type and revision.

``order.placed.1.json`` holds the fields that the class had at revision 1 of ``order.placed``, and sample events: their
data, and what they were read as by the class of ``read_at_revision``. ``reads_as`` is left out where it is the data.
Nothing in a file but ``reads_as`` and ``fields`` is ever written again: data that was recorded once stays recorded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from avx_events.core.codec import reason_of

# Of what a topic may have, all but what a file system may refuse or take for a folder.
_SAFE: Final = " !#$&'()+,;=@[]^`{}~"


class RecordedSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event.

    Attributes:
        data: As it was written.
        reads_as: What the class read from it, by field; unset where that is ``data``.
    """

    data: Any
    reads_as: Any = msgspec.UNSET

    @property
    def reading(self) -> Any:
        """What the class read from it."""
        return self.data if self.reads_as is msgspec.UNSET else self.reads_as


class Recording(msgspec.Struct, frozen=True):
    """The content of one file.

    Attributes:
        event_type: The type's name when they were recorded.
        revision: The revision of the data.
        fields: What the class had then: types by name.
        read_at_revision: The revision of the class that read the samples.
        samples: At least one.
    """

    event_type: str
    revision: int
    fields: dict[str, str]
    read_at_revision: int
    samples: list[RecordedSample]

    @property
    def name(self) -> str:
        """The name of its file."""
        return file_name(self.event_type, self.revision)


class UnreadableFile(msgspec.Struct, frozen=True):
    """A file that is no recording.

    Attributes:
        name: Its name.
        problem: Why.
    """

    name: str
    problem: str


_read: Final = msgspec.json.Decoder(Recording).decode


def file_name(event_type: str, revision: int) -> str:
    """Return the name of the file of a type and revision."""
    return f"{_quoted(event_type)}.{revision}.json"


def recordings_in(folder: Path) -> tuple[dict[str, Recording], list[UnreadableFile]]:
    """Return the recordings of ``folder`` by file name, in order, and the files that are none."""
    found: dict[str, Recording] = {}
    others: list[UnreadableFile] = []
    for path in sorted(folder.glob("*.json")):
        try:
            recording = _read(path.read_bytes())
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            others.append(UnreadableFile(path.name, reason_of(exc)))
            continue
        if path.name == recording.name and recording.samples:
            found[path.name] = recording
        else:
            problem = f"it would be {recording.name}" if recording.samples else "it has no samples"
            others.append(UnreadableFile(path.name, problem))
    return found, others


def write(recording: Recording, folder: Path) -> None:
    """Put ``recording`` into its file, a sample to a line."""
    samples = ",\n".join(f"    {_line(sample)}" for sample in recording.samples)
    text = (
        "{\n"
        f'  "event_type": {_line(recording.event_type)},\n'
        f'  "revision": {recording.revision},\n'
        f'  "fields": {_fields(recording.fields)},\n'
        f'  "read_at_revision": {recording.read_at_revision},\n'
        f'  "samples": [\n{samples}\n  ]\n'
        "}\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / recording.name).write_text(text, "utf-8", newline="\n")


def _fields(fields: Mapping[str, str]) -> str:
    if not fields:
        return "{}"
    lines = ",\n".join(f"    {_line(name)}: {_line(text)}" for name, text in fields.items())
    return f"{{\n{lines}\n  }}"


def _line(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _quoted(event_type: str) -> str:
    return "".join(held if held.isalnum() else quote(held, safe=_SAFE) for held in event_type)
