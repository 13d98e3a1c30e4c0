"""Which kind of file system a file is on, where the operating system tells (Linux)."""

from pathlib import Path
from typing import Final

NETWORK: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
"""Those of other machines, whose locks and shared memory SQLite cannot rely on."""

IN_MEMORY: Final = frozenset({"ramfs", "tmpfs"})

_MOUNTS: Final = Path("/proc/self/mountinfo")
_MOUNT_POINT: Final = 4
_SEPARATOR: Final = "-"


def kind_of(path: Path) -> str | None:
    """Return the kind of file system that ``path`` is on, as the kernel calls it; None where nobody tells."""
    try:
        return kind_among(_MOUNTS.read_text("utf-8", "surrogateescape"), path.resolve())
    except OSError:
        return None


def kind_among(mounts: str, path: Path) -> str | None:
    """Return the kind of file system that the absolute ``path`` is on.

    Args:
        mounts: As https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html has them; of two mounts at one place
            the later one counts.
        path: Without symbolic links.
    """
    deepest, kind = -1, None
    for line in mounts.splitlines():
        fields = line.split()
        place = Path(_unescaped(fields[_MOUNT_POINT]))
        if path.is_relative_to(place) and len(place.parts) >= deepest:
            deepest, kind = len(place.parts), fields[fields.index(_SEPARATOR) + 1]
    return kind


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
