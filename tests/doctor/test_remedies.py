"""Every remedy of every rule, for every system, package manager and a range of torches: whole commands that the shell takes."""

from __future__ import annotations

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anymamba.doctor import blanks, rules, versions
from anymamba.doctor.compat import table
from anymamba.doctor.environment import Environment
from anymamba.doctor.present import steps

SHELLCHECK = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
RULES = rules.all_rules()
SYSTEMS = ("linux", "wsl", "windows", "macos")
MANAGERS = ("pip", "uv", "conda", "poetry")
TORCHES = (
    (None, None),
    ("1.13.1", "11.7"),
    ("2.0.1", "11.8"),
    ("2.1.2", "12.1"),
    ("2.5.1", "12.4"),
    ("2.8.0", "12.8"),
    ("2.10.0", "13.0"),
    ("2.12.0", "13.0"),
)
# what the rules themselves put into the blanks from a match
FROM_MATCHES = {
    "arch": "120", "gcc": "12", "toolkit": "12.8", "nvcc_torch": "2.8.0", "nvcc_cuda": "cu128", "driver_torch": "2.5.1",
    "driver_cuda": "cu118",
}  # fmt: skip


def environments(system: str, place: str = "", shell: str | None = None) -> Iterator[Environment]:
    shell = shell or ("powershell" if system == "windows" else "bash")
    for manager, (torch, cuda), python in itertools.product(MANAGERS, TORCHES, ("3.10", "3.14")):
        yield Environment(system, shell, manager, place, python, torch, cuda)


def all_commands(system: str, place: str = "", shell: str | None = None) -> set[str]:
    made: set[str] = set()
    for environment in environments(system, place, shell):
        known = dict(blanks.values(environment), **FROM_MATCHES)
        for rule in RULES:
            for step in steps(rule, environment, known):
                made.update(step.commands)
    return made


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_rule_has_a_remedy_everywhere(system: str) -> None:
    for environment in environments(system):
        known = dict(blanks.values(environment), **FROM_MATCHES)
        without = [rule.cause for rule in RULES if not steps(rule, environment, known)]
        # a Windows folder's name is no problem elsewhere
        assert [cause for cause in without if not cause.startswith(("windows-", "msvc-"))] == [], environment


@pytest.mark.parametrize("system", SYSTEMS)
def test_commands_can_be_pasted(system: str) -> None:
    for command in all_commands(system):
        assert not re.search(r"\{[a-z_0-9]+\}|FILE\b|HOST|PORT\b|PROGRAM|URL_OF|\.\.\.|<\w+>|\bor:|==None", command), command
        assert command == command.strip() and "\n" not in command


def bash_accepts(commands: set[str], folder: Path) -> None:
    script = folder / "commands.sh"
    lines = [f"( {command} )" for command in sorted(commands)]
    script.write_text("#!/bin/bash\n" + "\n".join(lines) + "\n", "utf-8")
    # variables set in the subshells of this very script, files that are not here, cd without a check
    unimportant = "SC2155,SC2030,SC2031,SC2164,SC2086,SC1091,SC2046,SC2103"
    done = subprocess.run([str(SHELLCHECK), "-e", unimportant, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[:3000]


@pytest.mark.parametrize("system", ["linux", "wsl", "macos"])
@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed")
def test_bash_accepts_them(system: str, tmp_path: Path) -> None:
    bash_accepts(all_commands(system), tmp_path)


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed")
def test_a_dockerfile_takes_them(tmp_path: Path) -> None:
    lines = all_commands("linux", "dockerfile")
    assert {line.split(" ")[0] for line in lines} <= {"FROM", "RUN", "ENV", "#"}
    for line in lines:
        if line.startswith("FROM "):
            assert re.fullmatch(r"FROM [\w./-]+:[\w.-]+", line), line
        if line.startswith("ENV "):  # one setting, without a blank that Docker would take for the next one
            assert re.fullmatch(r"ENV [A-Z][A-Z0-9_]*=(?:\S+|\"[^\"]*\")", line), line
        # a layer has no session: nothing is activated, and root needs no sudo
        assert not re.search(r"\bsudo\b|\bsource |conda activate|activate$|\bexport [^&]*$", line) or line.startswith("#"), line
    bash_accepts({line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")}, tmp_path)


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed")
def test_a_notebook_takes_them(tmp_path: Path) -> None:
    lines = all_commands("linux", "notebook")
    python = {line for line in lines if line.startswith("import ")}
    for line in python:
        ast.parse(line)
    wrong = [line for line in lines - python if not re.match(r"!\S|%env [A-Z][A-Z0-9_]*=[^$]+$|%pip ", line)]
    assert wrong == []
    shell = {line[1:] for line in lines if line.startswith("!")}
    # each line with ! is a shell of its own: a folder or a variable does not last until the next one
    assert [line for line in shell if re.search(r"^cd \S+$|^export |^source ", line)] == []
    bash_accepts(shell, tmp_path)


def test_cmd_takes_them() -> None:
    for line in all_commands("windows", shell="cmd"):
        assert line.count('"') % 2 == 0, line
        # cmd knows single quotes no more than any other letter, and none of PowerShell's or bash's words
        outside = re.sub(r'\\"|"(?:\\"|[^"])*"', "", line)
        assert not re.search(r"\$|'|;|\bexport\b|\bsudo\b|(?:^|&& )[A-Z_]+=", outside), line
        assert not re.search(r"[<>|](?! \S+$| ?\S+ 2>&1|&1)", outside), line
        assert all(part.strip() for part in line.split(" && ")), line


def test_powershell_accepts_them() -> None:
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_powershell")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    wrong = [command for command in all_commands("windows") if parser.parse(command.encode()).root_node.has_error]
    assert wrong == []
    assert [command for command in all_commands("windows") if re.search(r"&&|\bexport\b|\bsudo\b|(?:^|; )[A-Z_]+=", command)] == []


def test_managers_speak_their_own_language() -> None:
    for system in SYSTEMS:
        for environment in environments(system):
            known = dict(blanks.values(environment), **FROM_MATCHES)
            made = [line for rule in RULES for step in steps(rule, environment, known) for line in step.commands]
            bare = [line for line in made if re.search(r"(?<!uv )(?<!run )(?<![\w.-])pip (?:install|uninstall|show|freeze)", line)]
            if environment.manager in ("uv", "poetry"):
                assert bare == [], environment
            if environment.manager == "conda":
                assert not any("apt-get install -y cuda" in line for line in made)


def assert_published(url: str, torch: str, python: int) -> None:
    """The table has this very file."""
    found = re.search(r"/download/([^/]+)/(mamba_ssm|causal_conv1d)-([\w.]+)%2Bcu(\d+)torch([\d.]+)cxx11abi(\w+)-cp3(\d+)-", url)
    assert found, url
    tag, module, version, cuda, minor, abi, tagged = found.groups()
    release = table.release(module.replace("_", "-"), version)
    assert release and release.tag == tag and (minor, int(tagged)) == (torch, python), url
    assert any(
        row.torch == minor and row.pythons[0] <= python <= row.pythons[1] and cuda in row.cuda and abi in row.abi and not row.nightly
        for row in release.wheels
    ), url


NAMED = re.compile(r"(mamba-ssm|causal-conv1d)==([\w.]+)")


@pytest.mark.parametrize("torch", TORCHES, ids=lambda torch: str(torch[0]))
@pytest.mark.parametrize("python", ["3.9", "3.10", "3.12", "3.14"])
def test_versions_fit(torch: tuple[str | None, str | None], python: str) -> None:
    """A command names releases that fit each other, and a wheel's URL only where that wheel was published."""
    environment = Environment("linux", python=python, torch=torch[0], cuda=torch[1])
    known = dict(blanks.values(environment), **FROM_MATCHES)
    for rule in RULES:
        for step in steps(rule, environment, known):
            for command in step.commands:
                named = dict(NAMED.findall(command))
                if len(named) == 2:
                    release = table.release("mamba-ssm", named["mamba-ssm"])
                    assert release and table.fits(named["causal-conv1d"], release.conv), command
                assert all(table.release(name, version) for name, version in named.items()), command
                # a forced build compiles: the source package must have its sources
                if "FORCE_BUILD=TRUE" in command and "SKIP_CUDA" not in command:
                    for name, version in named.items():
                        release = table.release(name, version)
                        assert release and release.sources, command
                for url in re.findall(r"https://github.com/\S+\.whl", command):
                    assert_published(url, ".".join((torch[0] or "").split(".")[:2]), int(python.split(".")[1]))
                for index, version in re.findall(r"torch==([\d.]+) --index-url \S+/whl/(cu\d+)", command):
                    build = table.torch(".".join(index.split(".")[:2]))
                    assert build is None or version in build.cuda, command


@pytest.mark.parametrize(
    ("asked", "torch", "fitting"),
    [
        ("1.1.1", "2.0.1", "causal-conv1d==1.1.3.post1 mamba-ssm==1.1.1"),
        ("1.2.0.post1", "2.1.2", "causal-conv1d==1.4.0 mamba-ssm==1.2.0.post1"),
        ("2.2.2", "2.1.2", "causal-conv1d==1.5.0.post8 mamba-ssm==2.2.2"),
        (None, "2.5.1", "causal-conv1d==1.6.0 mamba-ssm==2.3.0"),
        (None, "2.10.0", "causal-conv1d==1.6.1 mamba-ssm==2.3.1"),
    ],
)
def test_a_pinned_version_is_kept(asked: str | None, torch: str, fitting: str) -> None:
    environment = Environment("linux", python="3.10", torch=torch, cuda="12.1", mamba=asked)
    names = NAMED.findall(blanks.values(environment)["packages"])
    assert (asked is None) or ("mamba-ssm", asked) in names
    if asked != "1.2.0.post1":
        assert blanks.values(environment)["packages"] == fitting


@pytest.mark.parametrize(
    ("torch", "cuda", "expected"),
    [
        ("1.13.1", "11.7", ("1.13.1", "cu117")),
        ("2.1.2", "12.1", ("2.1.2", "cu121")),
        (None, "13.0", ("2.9.1", "cu130")),
        (None, "12.2", ("2.5.1", "cu121")),
        (None, "11.4", ("2.7.1", "cu118")),
        ("2.8.0", None, ("2.8.0", "cu128")),
    ],
)
def test_torch_index(torch: str | None, cuda: str | None, expected: tuple[str, str]) -> None:
    assert versions.torch_with_cuda(torch, cuda) == expected
