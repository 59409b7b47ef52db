"""Build the packages into dist/, and check them: `make packages ARGS='3.12 3.13'`.

Checks wheel and sdist with twine; the wheel in empty environments of each available Python,
without extras and with all of them; and the sdist in one of them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
UV = (sys.executable, "-m", "uv")

#: Checks without extras: it serves, and names the missing extra.
PLAIN = """
import importlib.util, os, subprocess, sys
assert not any(map(importlib.util.find_spec, ("psycopg", "aiortc")))
def serve(**env):
    command = [sys.executable, "-m", "trio_signal", "serve", "--check"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
assert serve().returncode == 0
refused = serve(DATABASE_URL="postgresql://localhost/signal")
assert refused.returncode == 2 and "trio-signal[postgres]" in refused.stderr, refused
try:
    import trio_signal.client.media
except ImportError as error:
    assert "trio-signal[media]" in str(error), error
else:
    raise AssertionError("media without its extra")
"""
#: Checks with all extras.
FULL = """
import psycopg, trio_signal.client.media
"""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command; exits with 1 and its output if it fails."""
    ended = subprocess.run(  # noqa: S603  our own commands
        list(command), cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{ended.stdout}")


def pythons(versions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The versions that are on this machine, with their interpreters."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in versions:
        # The first may be a shim of pyenv that does not work.
        places = [f"python{version}", *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))]
        for place in filter(None, map(shutil.which, places)):
            if subprocess.run([place, "-c", ""], capture_output=True).returncode == 0:  # noqa: S603
                yield version, place
                break
        else:
            print(f"Python {version}: not on this machine")


def build() -> Path:
    """Build the sdist, the wheel from it, and the npm package; the path of the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(*UV, "build", "--quiet", "--out-dir", DIST, ROOT)
    built = [*DIST.glob("*.whl"), *DIST.glob("*.tar.gz")]
    run(sys.executable, "-m", "twine", "check", "--strict", *built)
    npm = ("npm", "pack", "--pack-destination", DIST)
    run(*npm, cwd=ROOT / "trio_signal" / "browser")
    (wheel,) = DIST.glob("*.whl")
    return wheel


def try_out(python: str, package: str, code: str, folder: Path) -> None:
    """Install a package into an empty environment, and run code and the program there."""
    environment = folder / "environment"
    run(*UV, "venv", "--quiet", "--clear", "--python", python, environment)
    own = environment / "bin" / "python"
    run(*UV, "pip", "install", "--quiet", "--python", own, package)
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    run(own, "-I", "-c", code, cwd=folder, env=clean)
    run(environment / "bin" / "trio-signal", "--version", cwd=folder, env=clean)


def main(*versions: str) -> None:
    """Build and check everything."""
    wheel = build()
    (sdist,) = DIST.glob("*.tar.gz")
    checked: list[str] = []
    with TemporaryDirectory(prefix="trio-signal-") as name:
        folder = Path(name)
        for version, python in pythons(versions or VERSIONS):
            try_out(python, str(wheel), PLAIN, folder)
            try_out(python, f"{wheel}[media,postgres]", FULL, folder)
            if not checked:
                try_out(python, str(sdist), PLAIN, folder)
            checked.append(version)
    if not checked:
        sys.exit("No Python to check with.")
    for path in sorted(DIST.iterdir()):
        print(f"{path.name}: {path.stat().st_size >> 10} KiB")
    print(f"Installed, without extras and with all, with: {', '.join(checked)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
