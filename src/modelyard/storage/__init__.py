"""Rows and bytes: the database and the blobs that everything durable lies in."""

from modelyard.storage.blobs import BlobStore, LocalBlobs, RemoteBlobs
from modelyard.storage.database import Database, is_sound, undo_if_it_fails
from modelyard.storage.documents import Documents, LocalDocuments, RemoteDocuments
from modelyard.storage.hashing import BlobRef, HashingWriter
from modelyard.storage.leases import drop_lease, take_lease, write_lease
from modelyard.storage.store import Store, open_store, write_snapshot

__all__ = [
    "BlobRef",
    "BlobStore",
    "Database",
    "Documents",
    "HashingWriter",
    "LocalBlobs",
    "LocalDocuments",
    "RemoteBlobs",
    "RemoteDocuments",
    "Store",
    "drop_lease",
    "is_sound",
    "open_store",
    "take_lease",
    "undo_if_it_fails",
    "write_lease",
    "write_snapshot",
]
