"""Which mamba-ssm a program was written for: from its requirements.txt, pyproject.toml, environment.yml, lock file, Dockerfile, code.

Any text that names packages the way pip, conda, poetry or uv do is read; nothing is resolved or run.
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Tuple

from anymamba.doctor.compat import program, table
from anymamba.doctor.compat.trios import Wish
from anymamba.language import _

NAMES = ("mamba-ssm", "causal-conv1d", "torch", "triton", "transformers", "python", "cuda")
_ALIASES = {
    "pytorch": "torch",
    "pytorch-cuda": "cuda",
    "cudatoolkit": "cuda",
    "cuda-toolkit": "cuda",
    "requires-python": "python",
}
_VERSION = r"(?:===?|~=|!=|>=|<=|<|>|=|\^)\s*v?\d[\w.]*(?:\.\*)?(?:\+[\w.]+)?"
_NAMED = re.compile(
    # the name, with extras or a closing quote
    r"(?<![\w./-])(mamba[-_]ssm|causal[-_]conv1d|pytorch-cuda|pytorch|torch|triton|transformers|python|requires-python|cudatoolkit"
    r"|cuda-toolkit)(?![\w/-])(?:\s*\[[\w,-]*\])?[\"']?\s*"
    # as TOML and YAML write it: name = "2.2.2", name = {version = "^2.0"}
    r"(?:[=:]\s*(?:\{[^}\n]*?version\s*=\s*)?[\"']\s*(\d[\w.]*|" + _VERSION + r"(?:\s*,\s*" + _VERSION + r")*)[\"']"
    # as pip and conda write it: name>=2.0,<3 or name (>=2.0)
    r"|\(?\s*(" + _VERSION + r"(?:\s*,\s*" + _VERSION + r")*))?",
    re.I,
)
# what a program asks for and no release is
NOTHING = ("none",)
_CLAUSE = re.compile(r"(===?|~=|!=|>=|<=|<|>|=|\^)\s*v?(\d[\w.]*(?:\.\*)?)(\+[\w.]+)?")
_WHEEL = re.compile(
    r"(mamba_ssm|causal_conv1d)-([\w.]+?)(?:\+|%2B)cu(\d+)torch(\d+\.\d+)[\d.]*cxx11abi(TRUE|FALSE)-cp3(\d+)", re.I
)
_TORCH_WHEEL = re.compile(r"(?<![\w-])torch-(\d+\.\d+\.\d+)(?:\+|%2B|-)", re.I)
_GIT = re.compile(
    r"(state-spaces/mamba|Dao-AILab/causal-conv1d)(?![\w-])(?:\.git)?(?:(?:/archive/refs/tags/|/tree/|@|/releases/download/)v?([\w.]+))?",
    re.I,
)


class WrittenFor(NamedTuple):
    """named: package to what the file says of it (">=2.2.0"); mamba: releases that fit, oldest first; certain: the file pins one release.

    reason: how it follows, one sentence; line: of file, counted from 1, 0 where it is concluded from the rest.
    """

    named: Dict[str, str]
    mamba: Tuple[str, ...]
    certain: bool
    reason: str
    line: int
    file: str = ""

    def wish(self) -> Wish:
        """What ``trios`` is asked for such a program."""
        python, conv = _minors(self.named.get("python", "")), self.named.get("causal-conv1d", "")
        convs = tuple(item.version for item in table.releases("causal-conv1d") if table.fits(item.version, conv))
        torches = tuple(row.minor for row in table.torches() if _torch_fits(row.newest, self.named.get("torch", "")))
        pythons = tuple(minor for minor in range(7, 15) if table.fits("3.{}".format(minor), python))
        return Wish(
            self.mamba,
            (convs or NOTHING) if conv else (),
            () if len(torches) == len(table.torches()) else torches or NOTHING,
            (pythons or (0,)) if python else (),
            self.named.get("cuda", ""),
        )


def of_path(path: str) -> WrittenFor:
    """Of a program's folder, or of one file of it. Raises OSError for what is not there."""
    named: Dict[str, str] = {}
    where: Dict[str, Tuple[str, int]] = {}
    for name, text in program.texts(path):
        here, lines = _named(text)
        for package, value in here.items():
            if package not in named or (value and not named[package]):
                named[package], where[package] = value, (name, lines[package])
    return _conclude(named, where, program.eras(path))


def written_for(text: str) -> WrittenFor:
    """What the text of a file says, and what follows from it."""
    named, lines = _named(text)
    return _conclude(named, {package: ("", line) for package, line in lines.items()}, [])


def _conclude(named: Dict[str, str], where: Dict[str, Tuple[str, int]], eras: List[program.Era]) -> WrittenFor:
    file, line = where.get("mamba-ssm", ("", 0))
    pinned = named.get("mamba-ssm", "")
    every = [item.version for item in table.releases("mamba-ssm")]
    if pinned:
        fitting = [version for version in every if table.fits(version, pinned)]
        if not fitting:
            reason = _("it says mamba-ssm {}, and there is no such release")
            return WrittenFor(named, (), False, reason.format(pinned), line, file)
        reason = _("it says mamba-ssm {pinned}").format(pinned=pinned)
        if len(fitting) == 1:
            return WrittenFor(named, tuple(fitting), True, reason, line, file)
    elif "mamba-ssm" in named or "causal-conv1d" in named or "torch" in named or eras:
        told, clue = _by_its_time(named)
        fitting = list(told)
        without = _("it says mamba-ssm without a version")
        reason = (without if "mamba-ssm" in named else _("it does not name mamba-ssm")) + clue
    else:
        nothing = _("it names none of: {value}").format(value="mamba-ssm, causal-conv1d, torch")
        return WrittenFor(named, (), False, nothing, 0)
    for era in eras:
        narrower = [version for version in fitting if table.fits(version, era.requirement)]
        if narrower:
            fitting = narrower
            reason += _("; {name} line {line} ({words}) needs {requirement}").format(
                name=era.name, line=era.line, words=era.words, requirement=era.requirement
            )
    return WrittenFor(named, tuple(fitting), False, reason, line, file)


def _by_its_time(named: Dict[str, str]) -> Tuple[Tuple[str, ...], str]:
    """Releases that go with the causal-conv1d and the torch that a file names, as far as it names them."""
    fitting = list(table.releases("mamba-ssm"))
    said = []
    conv = named.get("causal-conv1d")
    if conv:
        convs = [item for item in table.releases("causal-conv1d") if table.fits(item.version, conv)]
        fitting = [item for item in fitting if any(table.fits(other.version, item.conv) for other in convs)]
        said.append("causal-conv1d " + conv)
    torch = named.get("torch")
    minors = [row.minor for row in table.torches() if _torch_fits(row.newest, torch or "")]
    if torch and minors:
        with_wheels = [item for item in fitting if any(row.torch in minors and not row.nightly for row in item.wheels)]
        fitting = with_wheels or fitting
        said.append("torch " + torch)
    if not said:
        return tuple(item.version for item in fitting), ""
    clue = _("; these go with its {said}").format(said=", ".join(said))
    return tuple(item.version for item in fitting), clue


def _named(text: str) -> Tuple[Dict[str, str], Dict[str, int]]:
    named: Dict[str, str] = {}
    lines: Dict[str, int] = {}
    before = ""
    for number, line in enumerate(text.split("\n"), 1):
        bare = re.sub(r"(^|\s)#.*", "", line)
        for name, value in _in_line(bare) + _locked(before, bare):
            if name not in named or (value and not named[name]):
                named[name], lines[name] = value, number
        before = bare
    return named, lines


def _locked(before: str, line: str) -> List[Tuple[str, str]]:
    """Of a lock file, where the version follows on the next line; and of a list as `pip list` and `conda list` print it."""
    version = re.match(r"""\s*["']?version["']?\s*[=:]\s*["'](?:==)?(\d[\w.]*)""", line)
    name = re.match(r"""\s*(?:["']?name["']?\s*[=:]\s*)?["']([\w-]+)["']""", before)
    listed = re.match(r"([\w-]+)\s{2,}(\d[\w.]*)(?:\+[\w.]+)?(?:\s|$)", line)
    pair = (name.group(1), version.group(1)) if version and name else listed.groups() if listed else None
    if pair is None:
        return []
    package = pair[0].lower().replace("_", "-")
    package = _ALIASES.get(package, package)
    return [(package, "==" + pair[1])] if package in NAMES else []


def _in_line(line: str) -> List[Tuple[str, str]]:
    result: List[Tuple[str, str]] = []
    for module, version, cuda, torch, __, python in _WHEEL.findall(line):
        result += [(module.lower().replace("_", "-"), "=={}".format(version)), ("torch", "=={}.*".format(torch))]
        result += [("python", "==3.{}.*".format(python)), ("cuda", "=={}.*".format(cuda[:2]))]
    if result:
        return result
    for repository, tag in _GIT.findall(line):
        package = "mamba-ssm" if "mamba" in repository.lower() else "causal-conv1d"
        result.append((package, "==" + _version_of_tag(package, tag) if re.match(r"\d+\.\d", tag) else ""))
    result += [("torch", "==" + version) for version in _TORCH_WHEEL.findall(line)]
    # the folder of Vision Mamba's own copy, which many programs bring along
    result += [("mamba-ssm", "==1.1.1")] * bool(re.search(r"mamba[-_]1p1p1", line))
    if result:
        return result
    for found in _NAMED.finditer(line):
        name = found.group(1).lower().replace("_", "-")
        name = _ALIASES.get(name, name)
        # `python setup.py install` and `pip install torch` in a script: the first names no version of Python
        said = found.group(2) or found.group(3) or ""
        if name == "python" and not said:
            continue
        said = "==" + said if said[:1].isdigit() else said
        value = ",".join(_clause(*clause) for clause in _CLAUSE.findall(said))
        build = re.search(r"\+cu(\d\d)(\d)", said)
        if name == "torch" and build:
            result.append(("cuda", "=={}.{}.*".format(*build.groups())))
        result.append((name, value))
    return result


def _clause(operator: str, version: str, local: str) -> str:
    if operator == "=":  # conda: 2.1 means 2.1.*
        return "=={}{}".format(version, "" if version.count(".") >= 2 or version.endswith("*") else ".*")
    if operator == "^":  # poetry
        return ">={},<{}".format(version, int(version.split(".")[0]) + 1)
    return operator + version


def _version_of_tag(package: str, tag: str) -> str:
    """A tag's files may call themselves otherwise: v1.6.1.post4 holds 1.6.1."""
    tagged = next((item.version for item in table.releases(package) if item.tag == "v" + tag), None)
    return tagged or tag


def _torch_fits(newest: str, requirement: str) -> bool:
    """By minor versions: a program that says torch==2.1.0 takes 2.1.2 as well, as far as extensions care."""
    return table.fits(newest, _minors(requirement)) if requirement else True


def _minors(requirement: str) -> str:
    parts = []
    for part in filter(None, requirement.split(",")):
        found = re.match(r"(==|===)\s*(\d+\.\d+)(\.\d[\w.]*)?$", part)
        parts.append("=={}.*".format(found.group(2)) if found else part)
    return ",".join(parts)
