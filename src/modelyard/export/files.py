"""Files of one export, put in place together."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from modelyard._core.files import fsync_file, replacing, write_bytes


def put_in_place(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files that belong together, by suffix, beside `path`.

    All are on the disk before the first takes its name. A lone file replaces an older one at
    once. Of several, the one named `path`, which leads to the others, is taken away first and put
    back last: a crash in between leaves none, never one beside another's. Writers of several files
    into one folder go one after another (not on Windows).
    """
    if len(files) == 1:
        write_bytes(path, next(iter(files.values())))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(_alone_in(path.parent))
        temporaries = {
            suffix: stack.enter_context(replacing(path.with_suffix(suffix)))
            for suffix in sorted(files, key=lambda suffix: suffix == path.suffix, reverse=True)
        }
        for suffix, data in files.items():
            temporaries[suffix].write_bytes(data)
        for temporary in temporaries.values():
            fsync_file(temporary)  # a full disk shows here, while the older files are whole
        path.unlink(missing_ok=True)
    # The stack is left in the reverse order it was entered: the leading file is renamed last.


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other thread or process that asks likewise is writing into the folder."""
    if os.name == "nt":
        yield
        return
    import fcntl  # noqa: PLC0415 - not on Windows

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
