"""Whether today's classes read what was recorded by those of yesterday: events in the files of a folder.

What is wrong is decided file by file, by ``_look_at``, which also says what the file should hold; nothing is written
but by ``record_events``.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import msgspec

from avx_events.core.codec import decode_data
from avx_events.core.errors import DecodeError, InvalidArgumentError, NotAnEventError
from avx_events.core.event import ANSWERED_BY_ONE, Event, EventSchema, class_for, recorded_types, schema_of
from avx_events.testing.event_samples import NoSampleError, data_of, in_json, samples_of
from avx_events.testing.event_shapes import Changes, changes_between, fields_of
from avx_events.testing.recorded_events import (
    RecordedSample,
    Recording,
    UnreadableFile,
    file_name,
    recordings_in,
    write,
)

if TYPE_CHECKING:
    import pytest

RECORD_OPTION: Final = "--avx-record-events"

_MOST_PROBLEMS: Final = 3
_UPCASTER: Final = """@{name}.upcast(from_revision={revision})
def from_revision_{revision}(data):
    data[{new!r}] = data.pop({old!r})
    return data"""

_Examples: TypeAlias = Mapping[type, Sequence[object]]


class Finding(msgspec.Struct, frozen=True):
    """What is to be done about one event type at one revision.

    Attributes:
        title: The type as it is recorded, the revision, and the class that reads it.
        problems: What is wrong, a sentence each.
        remedy: What to do.
        is_break: Whether what is recorded is not read as before; else it is only not recorded yet.
    """

    title: str
    problems: tuple[str, ...]
    remedy: str
    is_break: bool = True


class EventsReport(msgspec.Struct, frozen=True):
    """What came of a check; ``str()`` is for people.

    Attributes:
        folder: Where the recorded events are.
        samples: How many were read.
        findings: What is to be done, in the order of event types; nothing where all is well.
        written: The names of the files that ``record_events`` wrote.
    """

    folder: str
    samples: int
    findings: tuple[Finding, ...]
    written: tuple[str, ...] = ()

    @property
    def breaks(self) -> tuple[Finding, ...]:
        """The findings about what is recorded and not read as before."""
        return tuple(finding for finding in self.findings if finding.is_break)

    @property
    def unrecorded(self) -> tuple[Finding, ...]:
        """The findings about what is not recorded yet."""
        return tuple(finding for finding in self.findings if not finding.is_break)

    def __str__(self) -> str:
        """Return all of it, what breaks first."""
        sections = [
            f"wrote {', '.join(self.written)}" if self.written else "",
            _section("not read as recorded", self.breaks),
            _section("not recorded yet", self.unrecorded),
            f"record with: pytest {RECORD_OPTION}, and commit the files" if self.unrecorded else "",
        ]
        heading = f"{self.samples} recorded events in {self.folder}"
        return "\n\n".join([heading, *filter(None, sections)]) if any(sections) else f"{heading}, all read as recorded"


def check_events(folder: str | Path, *packages: str, examples: Iterable[object] = ()) -> EventsReport:
    """Read the events recorded in ``folder`` with today's classes, and return what is not as it was.

    ::

        report = check_events("tests/recorded_events", "shop")
        assert not report.findings, report

    Found are: a type that no class has any more, a revision without an upcaster or newer than its class, data that
    does not fit or reads differently (a field lost, another value), and the event classes that nothing is recorded of
    at their revision. What a class of a later revision makes of older data is not compared before it is recorded.

    Args:
        folder: Where ``record_events`` wrote them; one that is not there holds none.
        packages: Packages or modules, by name, all of whose event classes are to be recorded. They are imported, with
            all that is below them but ``__main__``. A class counts where its module has it by its name: those made
            inside of functions do not.
        examples: Events whose classes are to be recorded, too. Where no usual values can be made up for a class, or
            its own checks refuse them, an example gives them.

    Raises:
        InvalidArgumentError: Neither packages nor examples are given, a package is not there, or the folder is a file.
        NotAnEventError: An example is no event.
        EncodeError: An example cannot be stored.
        ImportError: A module of a package cannot be imported.
        OSError: A file cannot be read.
    """
    place, wanted = _folder(folder), _wanted(packages, examples)
    recordings, others = recordings_in(place)
    looks = _looks(recordings, wanted)
    findings = [*map(_about_file, others), *(look.finding for look in looks if look.finding is not None)]
    samples = sum(len(recording.samples) for recording in recordings.values())
    return EventsReport(str(folder), samples, tuple(findings))


def record_events(folder: str | Path, *packages: str, examples: Iterable[object] = ()) -> EventsReport:
    """Record what ``check_events`` finds to be not recorded yet, and return what is to be done after that.

    Written are samples of each new class or revision, of what a class has got since, and what older revisions are read
    as today: read the difference before you commit it. What breaks is not written over, and is in the report: to have
    it forgotten, delete its file.

    Args:
        folder: Where; made if it is not there.
        packages: As for ``check_events``.
        examples: As for ``check_events``; each is recorded.

    Raises:
        InvalidArgumentError: As for ``check_events``.
        NotAnEventError: An example is no event.
        EncodeError: An example cannot be stored.
        ImportError: A module of a package cannot be imported.
        OSError: A file cannot be read or written.
    """
    place, listed = _folder(folder), [*examples]
    looks = _looks(recordings_in(place)[0], _wanted(packages, listed))
    written = [look.renewed for look in looks if look.renewed is not None]
    for recording in written:
        write(recording, place)
    report = check_events(folder, *packages, examples=listed)
    return msgspec.structs.replace(report, written=tuple(recording.name for recording in written))


def evolution_test(
    folder: str | Path, *packages: str, examples: Iterable[object] = ()
) -> "Callable[[pytest.FixtureRequest], None]":
    """Return a test for pytest that fails of each finding of ``check_events``.

    ::

        test_events = evolution_test("recorded_events", "shop")

    With ``pytest --avx-record-events`` it records first, and fails only of what breaks or cannot be recorded.

    Args:
        folder: As for ``check_events``; relative to the folder of the test file.
        packages: As for ``check_events``.
        examples: As for ``check_events``.
    """
    listed = [*examples]

    def test_recorded_events(request: "pytest.FixtureRequest") -> None:
        import pytest  # noqa: PLC0415 - it is there where this runs, and nothing else here needs it

        is_recording: object = request.config.getoption(RECORD_OPTION, default=False)
        examine = record_events if is_recording else check_events
        report = examine(request.path.parent / folder, *packages, examples=listed)
        if report.findings:
            pytest.fail(str(report), pytrace=False)

    return test_recorded_events


# Which classes


def _folder(folder: object) -> Path:
    if not isinstance(folder, str | Path) or not str(folder) or Path(folder).is_file():
        raise InvalidArgumentError("folder", folder, expected="the path of a folder")
    return Path(folder)


def _wanted(packages: tuple[str, ...], examples: Iterable[object]) -> dict[type, list[object]]:
    """Return the classes that are to be recorded, with their examples."""
    found: dict[type, list[object]] = {}
    for package in packages:
        found |= {event_class: [] for event_class in _classes_of(package)}
    for example in examples:
        if isinstance(example, (type, *ANSWERED_BY_ONE)):
            raise NotAnEventError(example)
        found.setdefault(schema_of(example).message_class, []).append(example)
    if not found and not packages:
        raise InvalidArgumentError("packages", packages, expected="at least one, or give examples")
    return dict(sorted(found.items(), key=lambda item: schema_of(item[0]).event_type))


def _classes_of(package: object) -> Iterator[type]:
    if not isinstance(package, str) or not package:
        raise InvalidArgumentError("packages", package, expected="the names of packages, as 'shop'")
    _import_below(_imported(package))
    for event_type in recorded_types(Event):
        event_class = class_for(event_type)
        if event_class is not None and _is_in(package, event_class):
            yield event_class


def _is_in(package: str, event_class: type) -> bool:
    if not f"{event_class.__module__}.".startswith(f"{package}."):
        return False
    # A class that was made in a function, or has been deleted, lives until the garbage collector comes.
    held: object = sys.modules.get(event_class.__module__)
    for name in event_class.__qualname__.split("."):
        held = getattr(held, name, None)
    return held is event_class


def _imported(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ModuleNotFoundError as exc:
        if exc.name is not None and f"{package}.".startswith(f"{exc.name}."):
            raise InvalidArgumentError("packages", package, expected="a package that can be imported") from exc
        raise


def _import_below(module: ModuleType) -> None:
    for below in iter_modules(getattr(module, "__path__", ()), f"{module.__name__}."):
        if not below.name.endswith(".__main__"):
            _import_below(import_module(below.name))


# What is wrong, and what a file should hold


class _Look(msgspec.Struct, frozen=True):
    """What came of a look at one type and revision: what is to be done, and what its file should hold instead."""

    finding: Finding | None = None
    renewed: Recording | None = None


def _looks(recordings: Mapping[str, Recording], wanted: _Examples) -> list[_Look]:
    schemas = {event_class: schema_of(event_class) for event_class in wanted}
    names = {event_class: file_name(schema.event_type, schema.revision) for event_class, schema in schemas.items()}
    looks = {
        names[event_class]: _look_at_new(schema, wanted[event_class])
        for event_class, schema in schemas.items()
        if names[event_class] not in recordings
    }
    newcomers = [look.renewed for look in looks.values() if look.renewed is not None]
    looks |= {name: _look_at(recording, wanted, newcomers) for name, recording in recordings.items()}
    return [look for _, look in sorted(looks.items())]


def _look_at_new(schema: EventSchema, examples: Sequence[object]) -> _Look:
    title, event_class = _title(schema.event_type, schema.revision, schema), schema.message_class
    try:
        fields = fields_of(event_class)
        samples = [sample.data for sample in samples_of(event_class, examples)]
    except (NoSampleError, NameError, TypeError) as exc:
        remedy = f"give an example: examples=[{event_class.__name__}(...)]"
        return _Look(Finding(title, (f"it is new, and cannot be recorded: {exc}",), remedy, is_break=False))
    read = [_sample(data, _reading_of(schema, schema.event_type, schema.revision, data)) for data in samples]
    recording = Recording(schema.event_type, schema.revision, fields, schema.revision, read)
    return _Look(Finding(title, ("it is new",), "record it", is_break=False), recording)


def _look_at(recording: Recording, wanted: _Examples, newcomers: Iterable[Recording]) -> _Look:
    event_class = class_for(recording.event_type)
    if event_class is None:
        title = f"{recording.event_type}, revision {recording.revision}"
        return _Look(Finding(title, ("no class has this type any more",), _remedy_if_gone(recording, newcomers)))
    schema = schema_of(event_class)
    title = _title(recording.event_type, recording.revision, schema)
    lacking = _lacking(recording, schema)
    if lacking is not None:
        return _Look(Finding(title, *lacking))
    is_own = recording.revision == schema.revision
    fields = _fields_or(recording.fields, event_class) if is_own else recording.fields
    changes = changes_between(recording.fields, fields)
    readings, problems = _read_again(recording, schema)
    if problems:
        said = (*changes.lines(), *problems)
        return _Look(Finding(title, said, _remedy(schema, recording.revision, changes)))
    samples = [_sample(sample.data, reading) for sample, reading in zip(recording.samples, readings, strict=True)]
    if is_own:
        samples += _further_samples(schema, samples, changes, wanted.get(event_class, ()))
    renewed = Recording(recording.event_type, recording.revision, fields, schema.revision, samples)
    if renewed == recording:
        return _Look()
    return _Look(Finding(title, _what_is_new(recording, renewed, changes), "record it", is_break=False), renewed)


def _fields_or(recorded: dict[str, str], event_class: type) -> dict[str, str]:
    try:
        return fields_of(event_class)
    except (NameError, TypeError):  # an annotation does not resolve; nothing can be read either, and that is said
        return recorded


def _lacking(recording: Recording, schema: EventSchema) -> tuple[tuple[str, ...], str] | None:
    """Return why nothing of a recording can be read, and what to do; None where that is not so."""
    name, revision, newest = schema.message_class.__name__, recording.revision, schema.revision
    if max(revision, recording.read_at_revision) > newest:
        problem = f"{name} is at revision {newest}, and was at {max(revision, recording.read_at_revision)}"
        return (problem,), "set revision= to what it was, or to more; events of that revision may be stored"
    missing = [step for step in range(revision, newest) if step not in schema.upcasters]
    if not missing:
        return None
    problem = f"{name} is at revision {newest}, and has no upcaster from revision {_listed(map(str, missing))}"
    return (problem,), f"write @{name}.upcast(from_revision={missing[0]}), from what it was to what it is"


def _read_again(recording: Recording, schema: EventSchema) -> tuple[list[Any], list[str]]:
    """Return what the samples are read as today, and what is wrong with that."""
    readings: list[Any] = []
    problems: Counter[str] = Counter()
    for sample in recording.samples:
        try:
            reading = _reading_of(schema, recording.event_type, recording.revision, sample.data)
        except DecodeError as exc:
            problems[exc.problem.removeprefix(f"recorded as {recording.event_type!r}: ")] += 1
            continue
        readings.append(reading)
        if recording.read_at_revision == schema.revision and (lost := _lost(sample.reading, reading, "")):
            problems[lost] += 1
    count = len(recording.samples)
    said = [f"{many} of {count} samples: {problem}" for problem, many in problems.most_common(_MOST_PROBLEMS)]
    more = len(problems) - len(said)
    return readings, [*said, f"and {more} problems more"] if more else said


def _lost(recorded: object, today: object, path: str) -> str | None:
    """Return what ``today`` has not of ``recorded``; what it has beside that is new, and no loss."""
    if isinstance(recorded, dict) and isinstance(today, dict):
        return _lost_fields(cast("dict[str, object]", recorded), cast("dict[str, object]", today), path)
    if isinstance(recorded, list) and isinstance(today, list):
        were, are = cast("list[object]", recorded), cast("list[object]", today)
        if len(were) == len(are):
            pairs = zip(were, are, strict=True)
            return next((lost for was, now in pairs if (lost := _lost(was, now, f"{path}[]"))), None)
    if recorded == today and isinstance(recorded, bool) is isinstance(today, bool):
        return None
    was, now = _json(recorded), _json(today)  # pyright: ignore[reportUnknownArgumentType]
    return f"{path or 'the whole'} was {was}, and is {now}"


def _lost_fields(recorded: Mapping[str, object], today: Mapping[str, object], path: str) -> str | None:
    for name, value in recorded.items():
        where = f"{path}.{name}" if path else name
        if name not in today:
            return f"{where} was {_json(value)}, and is lost"
        if lost := _lost(value, today[name], where):
            return lost
    return None


def _further_samples(
    schema: EventSchema, samples: Sequence[RecordedSample], changes: Changes, examples: Sequence[object]
) -> list[RecordedSample]:
    """Return samples of what the class has got since it was recorded, and of examples that are new."""
    if not changes and not examples:
        return []
    known = [sample.data for sample in samples]
    try:
        made = samples_of(schema.message_class, examples)
    except NoSampleError:
        return []
    wanted = {None, *changes.names}
    chosen = [sample.data for sample in made if sample.field in wanted and sample.data not in known]
    return [_sample(data, _reading_of(schema, schema.event_type, schema.revision, data)) for data in chosen]


def _what_is_new(recording: Recording, renewed: Recording, changes: Changes) -> tuple[str, ...]:
    if recording.read_at_revision != renewed.read_at_revision:
        return (f"what revision {renewed.read_at_revision} of the class reads from it is not recorded",)
    return tuple(changes.lines()) or ("it has examples that are new",)


def _reading_of(schema: EventSchema, event_type: str, revision: int, data: object) -> Any:
    event = decode_data(event_type, msgspec.json.encode(data), revision=revision)
    if not isinstance(event, msgspec.Struct):
        return data_of(event)
    # Field by field: as a whole, it may be told to leave out what has its default.
    fields = msgspec.structs.fields(schema.message_class)
    return {
        field.encode_name: in_json(value)
        for field in fields
        if (value := getattr(event, field.name)) is not msgspec.UNSET
    }


def _sample(data: Any, reading: Any) -> RecordedSample:
    return RecordedSample(data) if reading == data else RecordedSample(data, reading)


# What to do


def _remedy(schema: EventSchema, revision: int, changes: Changes) -> str:
    name = schema.message_class.__name__
    if revision < schema.revision:
        return f"mend the upcasters of {name} from revision {revision} on: what they return must fit the class"
    if changes.renamed is not None and not changes.retyped:
        old, new = changes.renamed
        code = _UPCASTER.format(name=name, revision=revision, old=old, new=new)
        return f"raise {name} to revision={revision + 1} and, if {old!r} is called {new!r} now, write:\n\n{code}"
    undone = [
        f"bring {_names(changes.removed)} back" if changes.removed else "",
        f"give {_names(changes.demanded)} a default" if changes.demanded else "",
        f"let {_names(changes.retyped)} be what it was, too" if changes.retyped else "",
    ]
    return (
        f"{' and '.join(filter(None, undone)) or f'let {name} read what it wrote'}; or raise it to "
        f"revision={revision + 1}, and say in @{name}.upcast(from_revision={revision}) what older data becomes"
    )


def _remedy_if_gone(recording: Recording, newcomers: Iterable[Recording]) -> str:
    alike = [newcomer.event_type for newcomer in newcomers if newcomer.fields == recording.fields]
    guess = f" ({' or '.join(alike)} is new, and has the same fields)" if alike else ""
    return (
        f"import the module of its class; or say formerly=({recording.event_type!r},) on the class that has taken its "
        f"place{guess}; or, where no store and no broker has such events or unknown='keep' is meant to read them, "
        f"delete {recording.name}"
    )


def _about_file(file: UnreadableFile) -> Finding:
    return Finding(file.name, (f"this file holds no recorded events: {file.problem}",), "restore it, or delete it")


# Text


def _title(event_type: str, revision: int, schema: EventSchema) -> str:
    place = f"{schema.message_class.__module__}.{schema.message_class.__qualname__}"
    renamed = "" if event_type == schema.event_type else f", now {schema.event_type}"
    return f"{event_type}, revision {revision}{renamed} ({place})"


def _section(heading: str, findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    return "\n\n".join([f"{heading} ({len(findings)}):", *map(_paragraph, findings)])


def _paragraph(finding: Finding) -> str:
    lines = [finding.title, *(f"  {problem}" for problem in finding.problems)]
    first, *more = finding.remedy.splitlines()
    return "\n".join([*lines, f"  -> {first}", *(f"     {line}".rstrip() for line in more)])


def _names(names: Iterable[str]) -> str:
    return _listed(map(repr, names))


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()[:80]
