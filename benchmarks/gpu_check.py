"""Everything about a GPU in one short visit: is it right, is it safe, how fast is it.

    python benchmarks/gpu_check.py                      # on the machine with the GPU
    python benchmarks/gpu_check.py --prepare FOLDER     # before, anywhere: what the visit needs
    python benchmarks/gpu_check.py --carried FOLDER     # there, without network or mace-torch

Stages run in the order of their worth, each in a process of its own with a time limit, so that a
crash or a hang costs one stage only. What a stage found is written as it is found. Without a GPU
the same stages run on the CPU with smaller systems, so that the script is known to work.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from check import carried, parent, summary
from check.stages import STAGES, run_stage


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, help="JSON file to write (default: in $OUT, or here)"
    )
    parser.add_argument("--carried", type=Path, metavar="FOLDER", help="what --prepare wrote")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write it and stop")
    parser.add_argument("--wheels", action="store_true", help="with --prepare: packages, too")
    parser.add_argument("--device", help="torch device (default: cuda where there is one)")
    parser.add_argument("--stages", nargs="*", choices=[stage.name for stage in STAGES])
    parser.add_argument("--minutes", type=float, default=7.0, help="for all stages (default: 7)")
    parser.add_argument("--child", nargs=2, metavar=("STAGE", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parsed_arguments()
    device = arguments.device or parent.default_device()
    if arguments.child:
        run_stage(arguments.child[0], arguments.carried, device, Path(arguments.child[1]))
        return
    if arguments.prepare:
        # The visit is to a GPU, whatever this machine has.
        carried.prepare(arguments.prepare, small=False)
        if arguments.wheels:
            carried.download_wheels(arguments.prepare / "wheels")
        print(carried.instructions(arguments.prepare))
        return
    output = arguments.output or Path(os.environ.get("OUT", ".")) / "gpu_check.json"
    chosen = [s for s in STAGES if not arguments.stages or s.name in arguments.stages]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.carried or Path(temporary)
        if arguments.carried is None:
            carried.prepare(folder, small=device == "cpu")
        document = parent.run(chosen, folder.resolve(), device, 60.0 * arguments.minutes, output)
    print(summary.text(document))
    print(f"wrote {output}")
    sys.exit(0 if summary.is_good(document) else 1)


if __name__ == "__main__":
    main()
