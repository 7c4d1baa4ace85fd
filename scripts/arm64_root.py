"""Make a root folder with an aarch64 Python and TVM in it, to be run by qemu-user as if on a board.

    python scripts/arm64_root.py ROOT
    qemu-aarch64 -L ROOT ROOT/usr/bin/python3.11 ...

Debian's arm64 packages come by `apt-get download` with a private state folder, so that nothing of
this machine's package database changes; the wheels by `pip download`. Nothing is installed outside
of ROOT, and no root rights are needed. What is there already is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

DEBIAN = "bookworm"
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Python 3.11 and what it and the wheels load: libc, libstdc++, and the libraries of its modules.
PACKAGES = (
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libssl3",
    "libbz2-1.0",
    "liblzma5",
    "libsqlite3-0",
    "libuuid1",
    "libcrypt1",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "python3.11-minimal",
)
PINNED = ("apache-tvm", "apache-tvm-ffi", "numpy", "ml-dtypes", "typing-extensions", "psutil")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
# The compiler is 240 MB, and boards only run things.
LEFT_OUT = ("tvm/lib/libtvm_compiler.so", "tvm/lib/libtvm_runtime_cuda.so")


def main() -> int:
    """Make the root; says where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder to make")
    root = parser.parse_args().root.resolve()
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            print(f"error: no {tool} found: this needs Debian or a relative of it", file=sys.stderr)
            return 5
    done = root / ".complete"
    if not done.exists():
        root.mkdir(parents=True, exist_ok=True)
        debian(root)
        wheels(root)
        done.touch()
    print(root)
    return 0


def debian(root: Path) -> None:
    """Unpack Debian's packages into the root."""
    state = root / ".apt"
    for folder in ("lists/partial", "archives/partial", "etc/preferences.d"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    sources = state / "sources.list"
    sources.write_text(f"deb [arch=arm64 signed-by={KEYRING}] {MIRROR} {DEBIAN} main\n")
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "-",
        "Dir::Etc::PreferencesParts": state / "etc/preferences.d",
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *PACKAGES], cwd=state / "archives", check=True)
    for package in sorted((state / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    shutil.rmtree(state)


def wheels(root: Path) -> None:
    """Unpack the wheels, in the versions that are installed here, where that Python looks."""
    folder = root / ".wheels"
    pins = [f"{name}=={metadata.version(name)}" for name in PINNED]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--only-binary=:all:"]
    python = ["--implementation", "cp", "--python-version", "311", *platforms]
    subprocess.run([*command, *python, "--dest", str(folder), *pins], check=True)
    packages = root / "usr/lib/python3/dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(folder.glob("*.whl")):
        shutil.unpack_archive(wheel, packages, "zip")
    for name in LEFT_OUT:
        (packages / name).unlink(missing_ok=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
