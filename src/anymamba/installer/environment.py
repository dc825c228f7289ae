"""The Python environment that is installed into, asked from outside: its folders and what is in it."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from anymamba.errors import AnymambaError
from anymamba.language import _

_ASK = "import json, sys, sysconfig; print(json.dumps(dict(sysconfig.get_paths(), prefix=sys.prefix)))"


class Environment:
    """python: the interpreter of the environment."""

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True)
        paths = json.loads(done.stdout)
        self.packages, self.binary = Path(paths["purelib"]), Path(paths["platlib"])
        self.scripts, self.data = Path(paths["scripts"]), Path(paths["data"])
        self.state = Path(paths["prefix"]) / ".anymamba"

    def freeze(self) -> dict[str, str]:
        """Name to version of every installed distribution, names in their normal form."""
        command = [self.python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise AnymambaError(
                "pip",
                _("pip does not work in this environment"),
                done.stderr.strip()[-400:],
                f"{self.python} -m ensurepip --upgrade",
            )
        return {normal(item["name"]): item["version"] for item in json.loads(done.stdout)}

    def files_of(self, name: str) -> list[Path]:
        """The files of an installed distribution by its record; empty without one."""
        code = (
            "import importlib.metadata as m, json, sys\n"
            "files = m.distribution(sys.argv[1]).files or []\n"
            "print(json.dumps([str(f.locate()) for f in files]))"
        )
        done = subprocess.run([self.python, "-c", code, name], capture_output=True, text=True)
        return [Path(os.path.normpath(path)) for path in json.loads(done.stdout)] if not done.returncode else []

    def requirements(self) -> dict[str, list[str]]:
        """Distribution to the names that it requires, extras left out."""
        code = (
            "import importlib.metadata as m, json, re\n"
            "pick = lambda d: [re.match(r'[\\w.-]+', r).group() for r in d.requires or [] if 'extra ==' not in r]\n"
            "print(json.dumps([[d.metadata['Name'], pick(d)] for d in m.distributions() if d.metadata['Name']]))"
        )
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return {normal(name): [normal(item) for item in needs] for name, needs in json.loads(done.stdout)}

    def files_in(self, wheel: Path) -> list[Path]:
        """Where the files of a wheel would lie here, scripts of its entry points included."""
        files: list[Path] = []
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                parts = Path(name).parts
                if name.endswith("/"):
                    continue
                if parts[0].endswith(".data") and len(parts) > 2:
                    base = {"scripts": self.scripts, "data": self.data, "platlib": self.binary}.get(
                        parts[1], self.packages
                    )
                    files.append(base.joinpath(*parts[2:]))
                else:
                    files.append(self.packages / name)
                if name.endswith(".dist-info/entry_points.txt"):
                    files += self._entry_points(archive.read(name).decode("utf-8"))
        return files

    def _entry_points(self, text: str) -> list[Path]:
        parser = configparser.ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(text)
        names = [name for group in ("console_scripts", "gui_scripts") if group in parser for name in parser[group]]
        return [
            self.scripts / (name + suffix) for name in names for suffix in (("", ".exe") if os.name == "nt" else ("",))
        ]


def normal(name: str) -> str:
    """mamba_ssm and Mamba.SSM are mamba-ssm."""
    return name.lower().replace("_", "-").replace(".", "-")
