"""Small models of every family with random weights, and their reference values.

In `tests/checkpoints` a model is NAME with any suffix, or a directory; NAME.npz has its reference
values, NAME.json what its export needs beside the file. NAME begins with that of the family.
`tests/checkpoints/make.py` writes them.
"""

import json
import lzma
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"

SYNTHETIC = sorted(path.stem for path in FOLDER.glob("*.npz"))


def family_of(name: str) -> str:
    """The family of a model: its name up to the first underscore."""
    return name.partition("_")[0]


def export_options(name: str) -> dict[str, object]:
    """What an export needs beside the file."""
    file = FOLDER / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


#: Of all of them.
EXPORT_OPTIONS = {name: export_options(name) for name in SYNTHETIC}


def stored(folder: Path, name: str) -> Path | None:
    """The file or directory of a model in a folder where its reference values may lie too."""
    others = (".npz", ".json")
    found = [p for p in folder.glob(f"{name}*") if p.suffix not in others]
    return next((p for p in found if p.name == name or p.name.startswith(f"{name}.")), None)


def checkpoint(name: str, folder: Path) -> Path:
    """The file or directory of a model; a packed one is unpacked into a folder."""
    source = stored(FOLDER, name)
    assert source is not None, f"no checkpoint of {name} in {FOLDER}"
    if source.suffix != ".xz":
        return source
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = folder / source.stem
    if not unpacked.exists():
        part = unpacked.with_suffix(".part")
        part.write_bytes(lzma.decompress(source.read_bytes()))
        part.replace(unpacked)
    return unpacked
