"""The artifact: one file with a model, the contract between the export and the run-time side."""

from openmm_les.artifact.file import (
    FORMAT_VERSION,
    SUFFIX,
    Artifact,
    build_module,
    cache_directory,
    file_hash,
    find,
    inspect,
    load,
    save,
    store_in_cache,
)

__all__ = [
    "FORMAT_VERSION",
    "SUFFIX",
    "Artifact",
    "build_module",
    "cache_directory",
    "file_hash",
    "find",
    "inspect",
    "load",
    "save",
    "store_in_cache",
]
