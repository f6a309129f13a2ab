"""Small models of every family with random weights, and their reference values.

`tests/checkpoints/make.py` makes both.
"""

import lzma
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"

_FILES = {
    "mace": "mace.model.xz",
    "mace_old": "mace_old.model.xz",
    "cace": "cace.pth",
    "nequip": "nequip.ckpt",
    "allegro": "allegro.ckpt",
    "chgnet": "chgnet",
}
SYNTHETIC = list(_FILES)
#: What exports need beside the files.
EXPORT_OPTIONS = {
    "mace": {"head": "wb97m"},
    "mace_old": {},
    "cace": {"atomic_energies": {1: -13.1, 6: -1029.2, 7: -1485.3, 8: -2042.7}},
    "nequip": {"norm_factor": 90.4756, "self_interaction": "removed"},
    "allegro": {"norm_factor": 90.4756, "self_interaction": "removed"},
    "chgnet": {"self_interaction": "removed"},
}


def checkpoint(name: str, folder: Path) -> Path:
    """The file or directory of a model; MACE's is unpacked into a folder."""
    source = FOLDER / _FILES[name]
    if source.suffix != ".xz":
        return source
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = folder / source.stem
    if not unpacked.exists():
        part = unpacked.with_suffix(".part")
        part.write_bytes(lzma.decompress(source.read_bytes()))
        part.replace(unpacked)
    return unpacked
