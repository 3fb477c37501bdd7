"""Which file systems a folder may not lie on, and who holds a lock."""

from pathlib import Path

import psutil

# Their locks are advisory between machines at best, and SQLite's write-ahead log needs memory that
# all processes share.
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afpfs", "webdav", "davfs"}
    | {"ceph", "lustre", "gpfs", "beegfs", "glusterfs", "ocfs2", "afs", "pvfs2"}
    | {"fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.glusterfs", "fuse.davfs2"}
    | {"fuse.goofys", "fuse.mount-s3", "fuse.blobfuse", "fuse.blobfuse2", "fuse.juicefs"}
)
_LOCKS = Path("/proc/locks")
# The byte of the shared-memory file that SQLite's one writer holds (its file format, section 4.6).
_WRITE_LOCK_BYTE = "120"


def network_file_system(folder: Path) -> str | None:
    """The kind of network file system a folder is on, or None for a local one."""
    kind = _kind_of(folder.absolute())
    return kind if kind in NETWORK else None


def processes_that_write(database: Path) -> list[int]:
    """Process numbers of those who hold a SQLite database's write lock, as far as can be told.

    Linux alone tells. A process of another container shows as 0 and is left out.
    """
    shared = database.with_name(f"{database.name}-shm")
    try:
        inode = shared.stat().st_ino
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return []
    found = set()
    for line in lines:
        # "1: POSIX  ADVISORY  WRITE 4711 fe:00:123456 120 120"; waiting ones have "->" before.
        words = line.replace("->", " ").split()
        is_held = len(words) == 8 and "->" not in line and words[3] == "WRITE"  # noqa: PLR2004
        if is_held and words[5].endswith(f":{inode}") and words[6] == _WRITE_LOCK_BYTE:
            found.add(int(words[4]))
    return sorted(found - {0})


def _kind_of(folder: Path) -> str:
    """File system of the mount that holds `folder`; "" if unknown."""
    best, kind = "", ""
    for mount in psutil.disk_partitions(all=True):
        point = Path(mount.mountpoint)
        if folder.is_relative_to(point) and len(mount.mountpoint) >= len(best):
            best, kind = mount.mountpoint, mount.fstype
    return kind
