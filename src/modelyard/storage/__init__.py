"""Rows and bytes: the database and the blobs that everything durable lies in."""

from modelyard.storage.blobs import BlobRef, BlobStore, HashingWriter, LocalBlobs, RemoteBlobs
from modelyard.storage.database import Database
from modelyard.storage.store import Store, open_store

__all__ = [
    "BlobRef",
    "BlobStore",
    "Database",
    "HashingWriter",
    "LocalBlobs",
    "RemoteBlobs",
    "Store",
    "open_store",
]
