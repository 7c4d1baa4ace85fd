"""make relay and make setup mend an environment that broke after it was made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECK = ROOT / "scripts" / "check_environment.py"
# Makes an environment whose Python finds all well once pip has run there.
PYTHON = """#!/bin/sh
for folder; do :; done
mkdir -p "$folder/bin" && rm -f "$folder/installed" "$folder/bin/python"
cat > "$folder/bin/python" <<'END'
#!/bin/sh
home=$(dirname "$(dirname "$0")")
case "$*" in *pip*) touch "$home/installed";; esac
test -e "$home/installed"
END
chmod +x "$folder/bin/python"
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_a_broken_environment_is_made_anew_though_its_stamp_is_newer(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements-relay.lock").touch()
    python, home = tmp_path / "make_python", tmp_path / ".venv-relay"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def make() -> str:
        words = ["make", f"PYTHON={python}", ".venv-relay/.ofatvm-stamp"]
        return subprocess.run(
            words, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert "venv --clear" in make()
    assert "up to date" in make()
    (home / "installed").unlink()
    assert "venv --clear" in make()
    assert (home / "installed").is_file()
    (home / "bin" / "python").unlink()
    assert "venv --clear" in make()
    (home / "bin" / "python").unlink()
    (home / "bin" / "python").symlink_to("/nowhere/python")
    assert "venv --clear" in make()
    os.utime(tmp_path / "requirements-relay.lock", (2**32, 2**32))
    assert "venv" not in make().replace(".venv-relay", ""), "a newer list of packages is added"


def test_an_environment_is_whole_if_every_file_of_its_packages_is(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# a list\n\ntoy-part==1.2  # of one\n")
    about = tmp_path / "toy_part-1.2+cpu.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: toy-part\nVersion: 1.2+cpu\n")
    (about / "RECORD").write_text(f"toy_part.py,sha256=x,6\n{about.name}/RECORD,,\n")
    module = tmp_path / "toy_part.py"

    def check(*modules: str) -> str:
        done = subprocess.run(
            [sys.executable, str(CHECK), str(lock), *modules],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert bool(done.returncode) == bool(done.stderr)
        return done.stderr

    module.write_text("A = 1\n")
    assert check("toy_part") == ""
    assert "No module named 'toy_other'" in check("toy_other")
    module.write_text("A")
    assert check() == "toy-part: toy_part.py is not whole\n"
    module.unlink()
    assert check() == "toy-part: toy_part.py is not whole\n"
    lock.write_text("toy-part==1.3\n")
    assert check() == "toy-part is 1.2+cpu, not 1.3\n"
    shutil.rmtree(about)
    assert check() == "toy-part is missing\n"
