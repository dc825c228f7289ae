"""A plan as a commented script: for another machine, for a container, or to be read before it is run."""

from __future__ import annotations

from pathlib import Path

from anymamba.installer.releases import EXTENSIONS, MODULES
from anymamba.installer.step import InstallStep, Plan
from anymamba.language import _

KINDS = ("bash", "powershell", "Dockerfile")
_HELPERS = {"narrow": "nvcc_one_architecture.py", "sources": "edit_for_msvc.py"}


IMAGE = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-devel"
"""What a Dockerfile starts from; it needs nvcc where something is compiled."""


def emit(plan: Plan, kind: str) -> str:
    """plan must not be blocked."""
    lines = {"bash": _bash, "powershell": _powershell, "Dockerfile": _dockerfile}[kind](plan)
    return "\n".join(lines) + "\n"


def _head(plan: Plan) -> list[str]:
    names = ", ".join(f"{choice.package} {choice.version} ({choice.route})" for choice in plan.packages)
    lines = [
        _("Installs {names} into the Python environment that is active.").format(names=names),
        _("Written by `anymamba install --emit-script` for:"),
        *("  " + line for line in plan.found[:5]),
        *plan.first,
        _(
            "Expected: {least:.0f} to {most:.0f} minutes, up to {memory_gb:.0f} GB of memory, {disk_gb:.0f} GB on disk."
        ).format(least=plan.minutes[0], most=plan.minutes[1], memory_gb=plan.memory_gb, disk_gb=plan.disk_gb),
        *plan.reasons,
    ]
    return ["# " + line for line in lines]


def _title(step: InstallStep) -> str:
    """A script leaves the finding of dependencies to pip, so that two steps do something else than the program does."""
    if step.kind == "dependencies":
        return _("install what is missing of: {needs}").format(needs=", ".join(_needs(step)))
    return _("install the collected wheels") if step.kind == "install" else step.title


def _needs(step: InstallStep) -> list[str]:
    """The requirements in the step's first command."""
    words = step.commands[0]
    return list(words[words.index("{work}/constraints.txt") + 1 :])


def _helper(name: str) -> list[str]:
    return Path(__file__).with_name(name).read_text("utf-8").rstrip("\n").split("\n")


def _check(plan: Plan) -> str:
    """One line of Python that imports what was installed."""
    names = [name for choice in plan.packages for name in (EXTENSIONS[choice.package], MODULES[choice.package])]
    return "import torch, {}".format(", ".join(names))


_TORCH = 'import sys, torch; sys.exit(None if torch.version.cuda or torch.version.hip else "torch is a CPU build")'


def _bash(plan: Plan) -> list[str]:
    lines = ["#!/usr/bin/env bash", *_head(plan), "set -euo pipefail", ""]
    lines += [
        'PYTHON="${PYTHON:-python3}"',
        'WORK="$(mktemp -d)"',
        'LOG="${LOG:-$PWD/anymamba-install.log}"',
        'mkdir -p "$WORK/wheels"',
        "trap 'rm -rf \"$WORK\"' EXIT",
        "",
        "# " + _("a CPU build of torch cannot be compiled against: stop before anything is done"),
        f'"$PYTHON" -c {_single(_TORCH)}',
    ]
    for number, step in enumerate(plan.steps):
        lines += ["", "# " + _title(step)]
        more = number + 1 < len(plan.steps) and plan.steps[number + 1].beside
        made = _bash_step(step, plan)
        if more or step.beside:
            begin = next(number for number, line in enumerate(made) if line.startswith("env "))
            made[begin:] = ["(", *("  " + line for line in made[begin:]), ") &", 'builds="${builds:-} $!"']
        if step.beside and not more:
            made += ["for build in $builds; do", '  wait "$build"', "done"]
        lines += made
    return lines


def _bash_step(step: InstallStep, plan: Plan) -> list[str]:
    if step.kind == "constraints":
        unwanted = "|".join(choice.package.replace("-", "[-_]") for choice in plan.packages)
        return [f'"$PYTHON" -m pip list --format=freeze | grep -viE "^({unwanted})=" > "$WORK/constraints.txt"']
    if step.kind == "download":
        assert step.address is not None
        name = step.address.rsplit("/", 1)[1].replace("%2B", "+")
        return [f'curl -fL --retry 8 --retry-all-errors -C - -o "$WORK/wheels/{name}" \\', f"  {_single(step.address)}"]
    if step.kind == "local":
        return [f'cp {_single(step.address or "")} "$WORK/wheels/"']
    if step.kind == "narrow":
        name = _HELPERS["narrow"]
        return [f"cat > \"$WORK/{name}\" <<'END_OF_FILE'", *_helper(name), "END_OF_FILE"]
    if step.kind == "dependencies":
        needs = " ".join(_single(item) for item in _needs(step))
        return [f'"$PYTHON" -m pip install -c "$WORK/constraints.txt" {needs}']
    if step.kind == "install":
        return ['"$PYTHON" -m pip install --force-reinstall --no-deps --no-index "$WORK"/wheels/*.whl']
    if step.kind == "verify":
        packages = " ".join(choice.package for choice in plan.packages)
        undo = f'"$PYTHON" -m pip uninstall -y {packages}'
        return [
            f'if ! "$PYTHON" -c {_single(_check(plan))}; then',
            f"  {undo}",
            "  echo " + _single(_("the packages do not import; they were removed again")) + " >&2",
            "  exit 1",
            "fi",
            'if "$PYTHON" -c "import anymamba" 2>/dev/null; then',
            f'  "$PYTHON" -m anymamba.installer.verify {packages} || {{ {undo}; exit 1; }}',
            "fi",
        ]
    return _bash_build(step)


def _bash_build(step: InstallStep) -> list[str]:
    lines = []
    values = dict(step.environment)
    if "CUDA_HOME" in values:
        lines.append(f'CUDA_HOME="${{CUDA_HOME:-{values["CUDA_HOME"]}}}"')
        values["ANYMAMBA_NVCC"] = values["ANYMAMBA_NVCC"].replace(values["CUDA_HOME"], "$CUDA_HOME")
        values["PATH"] = values["PATH"].replace(values["CUDA_HOME"], "$CUDA_HOME")
        values["CUDA_HOME"] = "$CUDA_HOME"
        lines.append('"$CUDA_HOME/bin/nvcc" --version')
    settings = []
    for name, value in values.items():
        text = value.replace("{work}", "$WORK").replace("{python}", "$PYTHON").replace('"', '\\"')
        text = f"${{MAX_JOBS:-{text}}}" if name == "MAX_JOBS" else text + ":$PATH" if name == "PATH" else text
        settings.append(f'{name}="{text}"')
    prefix = ["env " + settings[0], *("  " + item for item in settings[1:])] if settings else []
    for command in step.commands:
        words = " ".join(_bash_word(word) for word in command)
        body = [*prefix, "  " + words] if prefix else [words]
        end = ' 2>&1 | tee -a "$LOG"' if step.kind == "build" else ""
        lines += [line + " \\" for line in body[:-1]] + [body[-1] + end]
    return lines


def _bash_word(word: str) -> str:
    if "{" in word:
        return '"' + word.replace("{work}", "$WORK").replace("{python}", "$PYTHON") + '"'
    return word if word.replace("-", "").replace("_", "").isalnum() else _single(word)


def _single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _powershell(plan: Plan) -> list[str]:
    lines = [*_head(plan), "$ErrorActionPreference = 'Stop'", ""]
    lines += [
        "if (-not $env:PYTHON) { $env:PYTHON = 'python' }",
        "$Python = (Get-Command $env:PYTHON).Source",
        "$Work = Join-Path ([IO.Path]::GetTempPath()) ('anymamba-' + [guid]::NewGuid().ToString('N'))",
        "New-Item -ItemType Directory -Force -Path $Work, (Join-Path $Work 'wheels') | Out-Null",
        'function Invoke-Checked { & $args[0] $args[1..($args.Count - 1)]; if ($LASTEXITCODE -ne 0) { throw "failed: $args" } }',
        "",
        "# " + _("a CPU build of torch cannot be compiled against: stop before anything is done"),
        "Invoke-Checked $Python -c 'import sys, torch; sys.exit(0 if torch.version.cuda or torch.version.hip else 1)'",
    ]
    for step in plan.steps:
        lines += ["", "# " + _title(step)]
        lines += _powershell_step(step, plan)
    return [*lines, "", "Remove-Item -Recurse -Force $Work"]


def _powershell_step(step: InstallStep, plan: Plan) -> list[str]:
    if step.kind == "constraints":
        unwanted = "|".join(choice.package.replace("-", "[-_]") for choice in plan.packages)
        return [
            f"& $Python -m pip list '--format=freeze' | Where-Object {{ $_ -notmatch '^({unwanted})=' }} |"
            ' Set-Content -Encoding ascii "$Work/constraints.txt"'
        ]
    if step.kind == "download":
        assert step.address is not None
        name = step.address.rsplit("/", 1)[1].replace("%2B", "+")
        return [f'Invoke-WebRequest -Uri {_ps(step.address)} -OutFile "$Work/wheels/{name}"']
    if step.kind == "local":
        return [f'Copy-Item {_ps(step.address or "")} "$Work/wheels"']
    if step.kind == "narrow":
        return _powershell_file(_HELPERS["narrow"])
    if step.kind == "dependencies":
        needs = " ".join(_ps(item) for item in _needs(step))
        return [f'Invoke-Checked $Python -m pip install -c "$Work/constraints.txt" {needs}']
    if step.kind == "install":
        return [
            '$Wheels = (Get-ChildItem "$Work/wheels/*.whl").FullName',
            "& $Python -m pip install --force-reinstall --no-deps --no-index $Wheels",
            "if ($LASTEXITCODE -ne 0) { throw 'pip install failed' }",
        ]
    if step.kind == "verify":
        packages = " ".join(choice.package for choice in plan.packages)
        return [
            f"& $Python -c {_ps(_check(plan))}",
            "if ($LASTEXITCODE -ne 0) {",
            f"    & $Python -m pip uninstall -y {packages}",
            "    throw " + _ps(_("the packages do not import; they were removed again")),
            "}",
            "& $Python -c 'import anymamba'",
            f"if ($LASTEXITCODE -eq 0) {{ Invoke-Checked $Python -m anymamba.installer.verify {packages} }}",
        ]
    lines = _powershell_file(_HELPERS["sources"]) if step.kind == "sources" else []
    for name, value in step.environment.items():
        text = _ps_expand(value.replace('"', '`"'))
        lines.append(f'$env:{name} = "{text};$env:PATH"' if name == "PATH" else f'$env:{name} = "{text}"')
    for command in step.commands:
        words = " ".join(_ps_word(word) for word in command)
        lines.append("Invoke-Checked " + words)
    if "PYTHONPATH" in step.environment:  # else pip would take the build requirements for installed
        lines.append("Remove-Item Env:PYTHONPATH")
    return lines


def _powershell_file(name: str) -> list[str]:
    return ["@'", *_helper(name), f'\'@ | Set-Content -Encoding utf8 "$Work/{name}"']


def _ps_expand(text: str) -> str:
    return text.replace("{work}", "$Work").replace("{python}", "$Python")


def _ps_word(word: str) -> str:
    return "$Python" if word == "{python}" else f'"{_ps_expand(word)}"' if "{" in word else _ps(word)


def _ps(text: str) -> str:
    plain = text.replace("-", "").replace("_", "").isalnum()
    return text if plain else "'" + text.replace("'", "''") + "'"


def _dockerfile(plan: Plan) -> list[str]:
    lines = [
        "# syntax=docker/dockerfile:1",
        *_head(plan),
        f"FROM {IMAGE}",
        "",
        "COPY <<'END_OF_SCRIPT' /tmp/install.sh",
    ]
    script = _bash(plan)
    return [*lines, *script, "END_OF_SCRIPT", "RUN bash /tmp/install.sh && rm /tmp/install.sh"]
