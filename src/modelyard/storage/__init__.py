"""Rows and bytes: the database and the blobs that everything durable lies in."""

from modelyard.storage.blobs import BlobRef, BlobStore, HashingWriter, LocalBlobs, RemoteBlobs
from modelyard.storage.database import Database
from modelyard.storage.leases import drop_lease, take_lease
from modelyard.storage.store import Store, open_store, write_snapshot

__all__ = [
    "BlobRef",
    "BlobStore",
    "Database",
    "HashingWriter",
    "LocalBlobs",
    "RemoteBlobs",
    "Store",
    "drop_lease",
    "open_store",
    "take_lease",
    "write_snapshot",
]
