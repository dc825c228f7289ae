"""What to type for a trio: complete lines for the installer (pip, uv, conda, poetry) and the shell of the machine."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from anymamba.doctor.compat.host import Host
from anymamba.doctor.compat.reasons import NOTEBOOKS, SOURCE
from anymamba.doctor.compat.table import REPOSITORIES, Release
from anymamba.doctor.compat.trios import Trio

INDEX = "https://download.pytorch.org/whl/"
_FORCE = "MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE"
# what a package's own metadata leaves too open
PINNED = ("numpy", "quack-kernels", "transformers")
# GB of memory that one compiler takes
_JOB_GB = 3.0


def commands(host: Host, trio: Trio) -> List[str]:
    """In the order in which they are typed."""
    if host.kind == "windows":
        return _in_wsl(host, trio) if trio.wsl else _on_windows(trio)
    notebook = host.container in NOTEBOOKS
    tool, python = install_tool(host.facts), "python"
    lines: List[str] = []
    if trio.python != host.python_minor:
        lines, tool, python = _new_environment(host, "3.{}".format(trio.python), notebook)
    if trio.torch_index is not None:
        vision = " torchvision=={}".format(trio.torchvision) if trio.torchvision else ""
        lines.append("{} torch=={}{} --index-url {}{}".format(tool, trio.torch, vision, INDEX, trio.torch_index))
    extras = ["{}{}".format(name, wanted) for name, wanted in sorted(trio.needs.items()) if name in PINNED]
    quoted = ['"{}"'.format(item) for item in extras]
    if trio.route == SOURCE:
        lines += _build(host, trio, tool, quoted)
    else:
        urls = ['"{}"'.format(trio.addresses[package]) for package in ("causal-conv1d", "mamba-ssm")]
        lines.append(" ".join([tool, *urls, *quoted]))
    lines.append(
        python + ' -c "import torch, causal_conv1d, mamba_ssm; print(torch.__version__, mamba_ssm.__version__)"'
    )
    return ["!" + line for line in lines] if notebook else lines


def _in_wsl(host: Host, trio: Trio) -> List[str]:
    """From PowerShell on: the third line leads into Ubuntu's shell."""
    system = dict(host.facts["system"], kind="wsl", container=None)
    inside = Host(dict(host.facts, system=system, python={"minor": trio.python, "environment": "venv", "pip": "24.0"}))
    return [
        "wsl --install -d Ubuntu-24.04",
        "wsl -d Ubuntu-24.04",
        "sudo apt-get update && sudo apt-get install -y python3-venv",
        "python3 -m venv ~/mamba && source ~/mamba/bin/activate",
        *commands(inside, trio._replace(wsl=False)),
    ]


def _on_windows(trio: Trio) -> List[str]:
    """The sources need edits there, which the installer does."""
    packages = "causal-conv1d=={} mamba-ssm=={}".format(trio.conv.version, trio.mamba.version)
    return ["pip install triton-windows anymamba", "anymamba install {}".format(packages)]


def install_tool(facts: Dict[str, Any]) -> str:
    """How packages get into the environment of these facts."""
    environment = facts["python"].get("environment") or ""
    if environment == "uv" or (facts["python"].get("uv") and "pip" in facts["python"] and not facts["python"]["pip"]):
        return "uv pip install"
    return "poetry run pip install" if environment == "poetry" else "pip install"


def _new_environment(host: Host, version: str, notebook: bool) -> Tuple[List[str], str, str]:
    """With that Python: (the lines that make it, what installs into it, its Python). uv fetches a Python that is not there."""
    if _is_conda(host):
        return ["conda create -y -n mamba python={}".format(version), "conda activate mamba"], "pip install", "python"
    lines = [] if install_tool(host.facts).startswith("uv") else ["pip install uv"]
    lines.append("uv venv --python {} mamba".format(version))
    if notebook:  # each line has a shell of its own, in which nothing stays activated
        return lines, "uv pip install --python mamba/bin/python", "mamba/bin/python"
    return [*lines, "source mamba/bin/activate"], "uv pip install", "python"


def _is_conda(host: Host) -> bool:
    return (host.facts["python"].get("environment") or "").startswith("conda")


def _build(host: Host, trio: Trio, tool: str, extras: List[str]) -> List[str]:
    lines = ["{} --upgrade setuptools wheel packaging ninja".format(tool)]
    settings = []
    if trio.toolkit is not None:
        home = trio.toolkit.home
        if home is None:
            lines += _toolkit(host, trio.toolkit.cuda)
            home = _new_home(host, trio.toolkit.cuda)
        settings.append("CUDA_HOME={}".format('"{}"'.format(home) if " " in home else home))
    jobs = max(1, min(host.cores, int((host.memory_gb or _JOB_GB) // _JOB_GB)))
    settings += ["MAX_JOBS={}".format(jobs), _FORCE]
    packages = [_source(trio.conv), _source(trio.mamba)]
    line = [*settings, tool, "--no-build-isolation --no-cache-dir", *packages, *extras]
    return [*lines, " ".join(line)]


def _toolkit(host: Host, cuda: str) -> List[str]:
    if _is_conda(host):
        return ["conda install -y -c nvidia cuda-toolkit={}".format(cuda)]
    return ["sudo apt-get install -y cuda-toolkit-{}".format(cuda.replace(".", "-"))]


def _new_home(host: Host, cuda: str) -> str:
    return "$CONDA_PREFIX" if _is_conda(host) else "/usr/local/cuda-{}".format(cuda)


def _source(release: Release) -> str:
    if release.sources:
        return "{}=={}".format(release.package, release.version)
    # PyPI has no archive of these versions with sources in it
    return "git+https://github.com/{}@{}".format(REPOSITORIES[release.package], release.tag)
