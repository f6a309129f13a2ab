"""Small pictures for docs/gallery.md, from short runs of the examples.

    python docs/images/gallery.py [NAME ...]

Runs the examples that draw something, with the arguments below, and keeps each picture beside this
script with few pixels and colours. Needs the extra `examples`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
WIDTH, COLOURS = 720, 160
#: Picture of the gallery: example, arguments, picture that it writes.
RUNS = {
    "md.png": ("01_md_of_a_peptide.py", ("--steps", "2000"), "picture.png"),
    "dimer.png": ("05_charges_and_dipoles_with_ase.py", (), "dimer.png"),
    "embedding-charges.png": (
        "08_peptide_in_water_electrostatic.py",
        ("--padding", "0.8", "--steps", "200", "--frames", "10"),
        "embeddings.png",
    ),
}


def make(name: str) -> None:
    example, arguments, picture = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(EXAMPLES / example), *arguments, "--output", folder]
        subprocess.run(command, check=True)
        drawn = Image.open(Path(folder) / picture).convert("RGB")
        small = drawn.resize((WIDTH, WIDTH * drawn.height // drawn.width), Image.Resampling.LANCZOS)
        small.quantize(COLOURS).save(HERE / name, optimize=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or RUNS:
        make(name)
