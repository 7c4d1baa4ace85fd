"""Exit 1 and say why unless an environment is as its lock file says: run by its own Python.

    python -I scripts/check_environment.py LOCK [MODULE ...]

Every package must be there in its pinned version with every file that was installed, from its first
byte to its last, and the modules must import.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module, metadata


def main() -> None:
    """Check what the command line names."""
    lock, *modules = sys.argv[1:]
    with open(lock, encoding="utf-8") as file:
        pins = [line.split() for line in file if line.strip() and not line.startswith("#")]
    for pin, *_ in pins:
        name, _, version = pin.partition("==")
        check_package(name.partition("[")[0], version)
    for module in modules:
        import_module(module)


def check_package(name: str, version: str) -> None:
    """Exit unless a package is there whole."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        sys.exit(f"{name} is missing")
    if found.version.partition("+")[0] != version:  # torch 2.13.0+cpu is torch 2.13.0
        sys.exit(f"{name} is {found.version}, not {version}")
    if found.files is None:
        sys.exit(f"{name} does not say what it holds")
    for file in found.files:
        if file.suffix != ".pyc" and not is_whole(file):  # those are made and removed at will
            sys.exit(f"{name}: {file} is not whole")


def is_whole(file: metadata.PackagePath) -> bool:
    """Whether an installed file is there, as long as it was."""
    try:
        size = os.stat(file.locate()).st_size
    except OSError:
        return False
    return file.size in (size, None)


if __name__ == "__main__":
    main()
