"""The texts that tell for which mamba-ssm a program was written: one file of it, or what its folder holds."""

from __future__ import annotations

import os
import re
from typing import Iterator, List, NamedTuple, Tuple

from anymamba.doctor.compat.elsewhere import read_text

# files of a program's folder that name packages with versions, in the order in which they are believed
NAMES = (
    r"requirements[\w.-]*\.txt|[\w.-]*requirements\.txt",
    r"pyproject\.toml",
    r"setup\.(?:py|cfg)",
    r"(?:environment|env|conda)[\w.-]*\.ya?ml",
    r"[\w.-]*Dockerfile[\w.-]*|[\w.-]*\.dockerfile",
    r"(?:poetry|uv|pdm)\.lock|Pipfile(?:\.lock)?",
    r"install[\w.-]*\.(?:sh|md)|setup\.sh",
    r"readme\.(?:md|rst|txt)|readme",
)
# folders of others
_SKIPPED = {
    ".git",
    "node_modules",
    "site-packages",
    "build",
    "dist",
    ".venv",
    "venv",
    "__pycache__",
    "mamba_ssm",
    "causal_conv1d",
}
_MOST_FILES = 2000

# what a program's code imports, and the releases that have it
ERAS = (
    (r"mamba_ssm\.ops\.triton\.layernorm\b", "<2.0.0"),
    (r"from mamba_ssm\.modules\.mamba_simple import [^\n#]*\bBlock\b", "<2.0.0"),
    (r"mamba_ssm\.modules\.(?:block|mamba2|mamba2_simple|mlp|mha)\b", ">=2.0.0"),
    (r"mamba_ssm\.ops\.triton\.(?:layer_norm|ssd_\w+)\b|from mamba_ssm import [^\n#]*\bMamba2\b", ">=2.0.0"),
    (r"from mamba_ssm import [^\n#]*\bMamba3\b|mamba_ssm\.modules\.mamba3\b", ">=2.3.2"),
)


class Text(NamedTuple):
    name: str
    text: str


class Era(NamedTuple):
    """requirement: on mamba-ssm, which follows from these words on this line of a file."""

    requirement: str
    words: str
    name: str
    line: int


def texts(path: str) -> List[Text]:
    """The file, or the files of a folder that name packages. Raises OSError for what is not there."""
    if not os.path.isdir(path):
        return [Text(path, read_text(path))]
    entries = sorted(entry for entry in os.listdir(path) if os.path.isfile(os.path.join(path, entry)))
    named = [entry for pattern in NAMES for entry in entries if re.fullmatch(pattern, entry, re.I)]
    return [Text(os.path.join(path, entry), read_text(os.path.join(path, entry))) for entry in dict.fromkeys(named)]


def eras(path: str) -> List[Era]:
    """What the program's own code asks for: path is its folder or a .py file of it."""
    found: List[Era] = []
    for name, text in _code(path):
        for pattern, requirement in ERAS:
            match = re.search(pattern, text)
            if match and not any(item.requirement == requirement for item in found):
                found.append(Era(requirement, match.group(0), name, text.count("\n", 0, match.start()) + 1))
    return found


def _code(path: str) -> Iterator[Tuple[str, str]]:
    if path.endswith(".py"):
        yield path, read_text(path)
    count = 0
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".py") and count < _MOST_FILES:
                count += 1
                full = os.path.join(folder, name)
                text = read_text(full)
                if "mamba_ssm" in text:
                    yield os.path.relpath(full, path), text
