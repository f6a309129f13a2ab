"""``python -m openmm_les``: the command line, without the script that an installation makes."""

from openmm_les.cli import main

if __name__ == "__main__":
    main()
