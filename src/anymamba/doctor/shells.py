"""Commands are written once, for bash and pip; here they become those of the user's package manager, place and shell."""

from __future__ import annotations

import re
from typing import List, Optional, Tuple

from anymamba.doctor.environment import Environment
from anymamba.doctor.page import Remedy

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(\"[^\"]*\"|'[^']*'|\S*)(?:\s+|$)")
_EXPORT = re.compile(r"^export\s+")


def shell_of(system: str) -> str:
    return "powershell" if system == "windows" else "bash"


def commands(
    remedy: Remedy, environment: Environment, filled: Tuple[str, ...], powershell: Optional[Tuple[str, ...]]
) -> Tuple[str, ...]:
    """The remedy's commands for this environment. filled, powershell: its commands with their blanks filled in."""
    if environment.system == "windows":
        if powershell is not None:
            lines = [with_manager(line, environment) for line in powershell]
        else:
            lines = [to_powershell(with_manager(line, environment)) for line in filled]
        return tuple(to_cmd(line) for line in lines) if environment.shell == "cmd" else tuple(lines)
    lines = [with_manager(line, environment) for line in filled]
    if environment.place == "dockerfile":
        return tuple(to_dockerfile(without_session(lines)))
    if environment.place == "notebook":
        return tuple(piece for line in without_session(lines) for piece in to_notebook(line))
    return tuple(lines)


_UV_WORDS = (
    (r"pip cache remove (\S+)", lambda found: "uv cache clean " + found.group(1).replace("_", "-")),
    (r"pip cache purge", lambda found: "uv cache clean"),
    (r"pip debug --verbose", lambda found: "uv python list"),
    (r"pip --version", lambda found: "uv pip list"),
    (r"(?:python3? -m )?pip uninstall -y ", lambda found: "uv pip uninstall "),
    (r"(?:python3? -m )?pip (install|show|freeze|list)\b", lambda found: "uv pip " + found.group(1)),
)


def with_manager(command: str, environment: Environment) -> str:
    """pip's command in the words of the manager that the user works with; conda environments use pip itself."""
    if "docker" in command or not re.search(r"\bpip\b", command):
        return command
    if environment.manager == "uv":
        if (
            environment.uv_project
            and "--no-build-isolation" in command
            and "git+" not in command
            and "--no-deps" not in command
        ):
            return _uv_add(command)
        for pattern, words in _UV_WORDS:
            command = re.sub(r"(?<![\w-])(?<!uv )" + pattern, words, command)
        command = command.replace("--force-reinstall", "--reinstall").replace("--no-cache-dir", "--no-cache")
        return re.sub(r" -i (https?://)", r" --index-url \1", command)
    if environment.manager == "poetry":
        return re.sub(
            r"(?<![\w-])(?:python3? -m )?pip (install|uninstall|show|freeze|cache|list|debug|--version)",
            r"poetry run pip \1",
            command,
        )
    return command


def _uv_add(command: str) -> str:
    """``uv add`` writes into pyproject.toml that these packages are built without isolation, so that ``uv sync`` keeps to it."""
    found = re.search(r"(?:python3? -m )?pip install (.*)$", command)
    if not found:
        return command
    names = [word for word in found.group(1).split() if re.match(r"[\"']?(?:mamba|causal)", word)]
    if not names:
        return command
    options = " ".join("--no-build-isolation-package " + re.split(r"[=<>\"']", name.strip("\"'"))[0] for name in names)
    return command[: found.start()] + "uv add {} {}".format(options, " ".join(names))


def to_powershell(command: str) -> str:
    """``A=1 B=2 pip install x && y`` becomes ``$env:A="1"; $env:B="2"; pip install x; y``."""
    return "; ".join(_one(part.strip()) for part in command.split("&&"))


def _one(command: str) -> str:
    exported = bool(_EXPORT.match(command))
    rest = _EXPORT.sub("", command) + (" " if exported else "")
    settings = []
    found = _ASSIGNMENT.match(rest)
    while found:
        value = found.group(2).strip("\"'")
        settings.append('$env:{}="{}"'.format(found.group(1), re.sub(r"\$(\w+)", r"$env:\1", value)))
        rest = rest[found.end() :]
        found = _ASSIGNMENT.match(rest)
    rest = rest.strip().replace("python3 ", "python ")
    if rest.startswith('"'):
        rest = "& " + rest
    return "; ".join(settings + ([rest] if rest else []))


def to_cmd(command: str) -> str:
    """PowerShell's ``$env:A="1"; pip install x`` becomes cmd's ``set "A=1" && pip install x``; what cmd cannot say runs in PowerShell."""
    parts = command.split("; ")
    if any(re.match(r"(?:Remove-Item|New-ItemProperty|Get-|&|Select-)|.* \| ", part) for part in parts):
        return 'powershell -Command "{}"'.format(command.replace('"', '\\"'))
    lines = []
    for part in parts:
        setting = re.match(r'\$env:(\w+)="(.*)"$', part)
        words = 'set "{}={}"'.format(*setting.groups()) if setting else part.replace("*> ", "> ")
        lines.append(re.sub(r"\$env:(\w+)", r"%\1%", words))
    return " && ".join(lines)


def without_session(commands: List[str]) -> List[str]:
    """Each line as a shell of its own takes it: what cd, source and conda activate do for a session comes before every later command."""
    lines: List[str] = []
    before: List[str] = []
    run = ""
    for command in commands:
        rest = []
        for part in command.split(" && "):
            activated = re.match(r"conda activate (\S+)$", part)
            if activated:
                run = "conda run -n {} ".format(activated.group(1))
            elif re.match(r"(?:cd|source|\.) ", part):
                before.append(re.sub(r"\bsource ", ". ", part) if " || " not in part else "{ " + re.sub(r"\bsource ", ". ", part) + "; }")
            else:
                rest.append(run + part if re.match(r"(?:python3?|pip|uv|poetry) ", part) else part)
        if rest:
            lines.append(" && ".join(before + rest))
    return lines


def to_dockerfile(commands: List[str]) -> List[str]:
    """Lines of a Dockerfile; settings become ENV, so that they hold in the next layers. What a shell has to compute is set in the layer
    that needs it, and is said in a comment where only the container itself does."""
    lines: List[str] = []
    computed: List[str] = []
    for command in commands:
        if re.match(r"(?:FROM|RUN|ENV) ", command):
            lines.append(command)
            continue
        rest = []
        for part in command.replace("sudo ", "").split(" && "):
            if _EXPORT.match(part) and "$(" in part:
                computed.append(part)
            elif _EXPORT.match(part):
                lines.append("ENV " + _EXPORT.sub("", part))
            else:
                rest.append(part)
        if rest:
            lines.append("RUN " + " && ".join(computed + rest))
            computed = []
    return lines + ["# " + part for part in computed]


def to_notebook(command: str) -> List[str]:
    """Cells of Jupyter, Colab and Kaggle: each ! line is a shell of its own, so settings go through %env, or through Python where a shell
    has to compute them."""
    lines, rest = [], []
    for part in command.split(" && "):
        name, _, value = _EXPORT.sub("", part).partition("=")
        if _EXPORT.match(part) and "$" in value:
            lines.append('import os, subprocess; os.environ["{}"] = subprocess.getoutput({!r})'.format(name, "echo " + value))
        elif _EXPORT.match(part):
            lines.append("%env {}={}".format(name, value))
        else:
            rest.append(part)
    return lines + (["!" + " && ".join(rest)] if rest else [])
