"""Records how installing mamba-ssm and causal-conv1d really fails on this machine, as logs for tests/doctor/logs.

    python scripts/record_install_failures.py [NAME ...]

Each case installs from PyPI in a throw-away environment: with a CPU torch or none, with and without build isolation, with nvcc
hidden or visible, with several versions of pip and with uv. Nothing is compiled and no CUDA build of torch is fetched: builds
in isolation are constrained to the torch version of --torch. Paths, hosts and user names are neutralised before the log is
written, and the doctor's findings are compared with what the case expects; exit code 1 when one differs.

One wheel-download failure needs a torch that says it has CUDA: the case renames the version in its own copy of torch.
"""

from __future__ import annotations

import argparse
import getpass
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "tests" / "doctor" / "logs"
sys.path.insert(0, str(ROOT / "src"))

LIMIT = 240  # seconds for one install
TOOLS = ("setuptools", "wheel", "packaging", "ninja")


class Case(NamedTuple):
    """arguments: after `pip install`; torch: "cpu", "none", or "cuda-named" (a CPU torch that calls itself CUDA 12.8)."""

    name: str
    arguments: tuple[str, ...]
    expected: tuple[str, ...]
    torch: str = "cpu"
    pip: str = "26.3"
    tools: tuple[str, ...] = TOOLS
    environment: dict[str, str] = {}
    installer: str = "pip"
    show_nvcc: bool = False


CASES = (
    Case("recorded_mamba_isolated", ("mamba-ssm",), ("torch-not-in-build-env",), torch="none"),
    Case("recorded_mamba_isolated_with_torch", ("mamba-ssm",), ("torch-not-in-build-env",)),
    Case("recorded_mamba_222_isolated", ("mamba-ssm==2.2.2",), ("torch-not-in-build-env",)),
    Case(
        "recorded_mamba_no_isolation_no_torch",
        ("--no-build-isolation", "mamba-ssm"),
        ("torch-not-in-build-env",),
        torch="none",
    ),
    Case("recorded_mamba_no_isolation_cpu", ("--no-build-isolation", "mamba-ssm"), ("cpu-torch-in-env",)),
    Case(
        "recorded_mamba_no_isolation_cpu_nvcc",
        ("--no-build-isolation", "mamba-ssm"),
        ("cpu-torch-in-env",),
        show_nvcc=True,
    ),
    Case(
        "recorded_mamba_231_no_isolation_cpu",
        ("--no-build-isolation", "mamba-ssm==2.3.1"),
        ("cpu-torch-in-env", "nvcc-missing"),
    ),
    Case(
        "recorded_mamba_222_no_isolation_cpu",
        ("--no-build-isolation", "mamba-ssm==2.2.2"),
        ("cpu-torch-in-env", "nvcc-missing"),
        pip="23.2.1",
    ),
    Case("recorded_mamba_231_isolated_cpu", ("mamba-ssm==2.3.1",), ("build-isolation-cpu-torch", "nvcc-missing")),
    Case("recorded_conv_isolated_cpu", ("causal-conv1d",), ("build-isolation-cpu-torch", "nvcc-missing")),
    Case(
        "recorded_conv_isolated_cpu_old_pip",
        ("causal-conv1d",),
        ("build-isolation-cpu-torch", "nvcc-missing"),
        pip="24.3.1",
    ),
    Case(
        "recorded_conv_no_isolation_cpu",
        ("--no-build-isolation", "causal-conv1d"),
        ("cpu-torch-in-env", "nvcc-missing"),
    ),
    Case(
        "recorded_conv_no_isolation_cpu_old_pip",
        ("--no-build-isolation", "causal-conv1d==1.4.0"),
        ("cpu-torch-in-env", "nvcc-missing"),
        pip="24.3.1",
    ),
    Case(
        "recorded_conv_no_isolation_no_wheel",
        ("--no-build-isolation", "causal-conv1d"),
        ("build-dep-missing-no-isolation",),
        torch="none",
        tools=("setuptools<70", "ninja"),
    ),
    Case(
        "recorded_mamba_no_isolation_no_setuptools",
        ("--no-build-isolation", "mamba-ssm"),
        ("build-dep-missing-no-isolation",),
        torch="none",
        tools=(),
    ),
    Case(
        "recorded_conv_no_wheel_host",
        ("--no-build-isolation", "causal-conv1d"),
        ("wheel-download-failed",),
        torch="cuda-named",
        environment={"CAUSAL_CONV1D_SKIP_CUDA_BUILD": "TRUE"},
    ),
    Case(
        "recorded_mamba_no_wheel_host",
        ("--no-build-isolation", "--no-deps", "mamba-ssm==2.3.1"),
        ("wheel-download-failed",),
        torch="cuda-named",
        environment={"MAMBA_SKIP_CUDA_BUILD": "TRUE"},
    ),
    Case(
        "recorded_conv_cuda_named_no_nvcc",
        ("--no-build-isolation", "causal-conv1d"),
        ("nvcc-missing",),
        torch="cuda-named",
    ),
    Case("recorded_uv_mamba_222", ("mamba-ssm==2.2.2",), ("torch-not-in-build-env",), installer="uv"),
    Case(
        "recorded_uv_conv_no_isolation",
        ("--no-build-isolation", "causal-conv1d"),
        ("cpu-torch-in-env", "nvcc-missing"),
        installer="uv",
    ),
)


def run(command: list[str], environment: dict[str, str], seconds: float = LIMIT) -> str:
    """The command's output, standard error included, as a user would paste it."""
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False
        )
        return done.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"{' '.join(command)}: no end after {seconds:.0f} s") from error


def make_environment(folder: Path, torch: str, tools: tuple[str, ...]) -> None:
    """A virtual environment with these build tools, and torch unless "none"."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    wanted = list(tools) + ([] if torch == "none" else [f"torch=={options.torch}"])
    if wanted:
        subprocess.run([*pip, "install", "-q", *wanted], check=True)
    else:
        subprocess.run([*pip, "uninstall", "-q", "-y", "setuptools"], check=True)


def name_cuda(folder: Path, named: bool) -> None:
    """Makes the CPU torch call itself a CUDA 12.8 build, or gives it its own name back."""
    version = next(folder.glob("lib/*/site-packages/torch/version.py"))
    original = version.with_suffix(".original")
    if not original.exists():
        shutil.copy(version, original)
    text = original.read_text("utf-8")
    if named:
        text = re.sub(r"(?m)^cuda(: [^=]*)?\s*=.*$", "cuda = '12.8'", text.replace("+cpu", "+cu128"))
    version.write_text(text, "utf-8")


def settings(folder: Path, scratch: Path, case: Case) -> dict[str, str]:
    """The installer's environment: nothing of the caller's but its package index; nvcc on PATH only when the case shows it."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(("PIP_", "UV_", "SSL_", "REQUESTS_")) or key in ("LANG", "http_proxy", "https_proxy")
    }
    path = [str(folder / "bin"), "/usr/bin", "/bin"]
    nvcc = shutil.which("nvcc")
    if case.show_nvcc and nvcc:
        path.append(str(Path(nvcc).parent))
    constraint = scratch / "constraint.txt"
    constraint.write_text(f"torch=={options.torch}\n", "utf-8")
    kept.update(
        PATH=os.pathsep.join(path),
        HOME=str(scratch / "home"),
        TMPDIR=str(scratch / "tmp"),
        PIP_CONSTRAINT=str(constraint),
        PIP_NO_CACHE_DIR="1",
        UV_CACHE_DIR=str(scratch / "home" / ".cache" / "uv"),
        VIRTUAL_ENV=str(folder),
        COLUMNS="100",
    )
    # pip 25.3 and newer take constraints for isolated builds from here, and refuse the option without isolation
    if tuple(int(part) for part in case.pip.split(".")[:2]) >= (25, 3) and "--no-build-isolation" not in case.arguments:
        kept["PIP_BUILD_CONSTRAINT"] = str(constraint)
    kept.update(case.environment)
    for name in ("home", "tmp"):
        (scratch / name).mkdir(exist_ok=True)
    return kept


def neutral(text: str, folder: Path, scratch: Path) -> str:
    """The log as it would look on anybody's machine: no index, no host, no user, no path of this one."""
    for path in (folder, folder.resolve()):
        text = text.replace(str(path), "/home/user/venv")
    text = (
        text.replace(str(scratch / "tmp"), "/tmp")
        .replace(str(scratch / "home"), "/home/user")
        .replace(str(scratch), "/tmp")
    )
    text = text.replace(sys.base_prefix, "/usr").replace(str(ROOT), "/home/user/anymamba")
    text = re.sub(r"https?://[^\s/'\"]+/(?=(?:simple|packages|pypi|repository)\b)", "https://pypi.org/", text)
    text = re.sub(r"(?m)^\s*(?:Looking in (?:indexes|links)|WARNING: Location|\[notice\]).*\n", "", text)
    text = re.sub(r"file:///\S+", "https://pypi.org/simple", text)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    for name in {getpass.getuser(), socket.gethostname()}:
        if len(name) > 3 and name not in ("root", "user"):
            text = text.replace(name, "user")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def record(case: Case, environments: dict[tuple, Path], scratch: Path) -> str:
    kind = "none" if case.torch == "none" else "cpu"
    if (kind, case.tools) not in environments:
        environments[kind, case.tools] = scratch / f"venv{len(environments)}"
        make_environment(environments[kind, case.tools], kind, case.tools)
    folder = environments[kind, case.tools]
    if kind == "cpu":
        name_cuda(folder, case.torch == "cuda-named")
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", f"pip=={case.pip}"], check=True)
    environment = settings(folder, scratch, case)
    if case.installer == "uv":
        command = [
            options.uv,
            "pip",
            "install",
            "--python",
            str(folder / "bin" / "python"),
            "--no-cache",
            *case.arguments,
        ]
    else:
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", *case.arguments]
    shown = f"$ {case.installer}{' pip' if case.installer == 'uv' else ''} install {' '.join(case.arguments)}\n"
    shown = "".join(f"$ export {name}={value}\n" for name, value in case.environment.items()) + shown
    return shown + neutral(run(command, environment), folder, scratch)


def check(name: str, log: str, expected: tuple[str, ...]) -> bool:
    """Whether the doctor's first finding is the first expected one, and all others are found."""
    from anymamba.doctor import diagnose_log

    found = [finding.cause for finding in diagnose_log(io.BytesIO(log.encode("utf-8")), name).findings]
    right = found[:1] == list(expected[:1]) and set(expected) <= set(found)
    print(f"{'ok ' if right else 'BAD'} {name}: {', '.join(found)}", file=sys.stderr)
    return right


def main() -> int:
    right = True
    environments: dict[tuple, Path] = {}
    with tempfile.TemporaryDirectory(prefix="record-") as name:
        scratch = Path(name)
        for case in CASES:
            if options.names and case.name not in options.names:
                continue
            if case.installer == "uv" and not options.uv:
                print(f"skipped {case.name}: no uv", file=sys.stderr)
                continue
            log = record(case, environments, scratch)
            (LOGS / f"{case.name}.txt").write_text(log, "utf-8")
            about = f"recorded with {case.installer} {case.pip if case.installer == 'pip' else ''}".strip()
            expected = json.dumps({"causes": list(case.expected), "about": about}, ensure_ascii=False)
            (LOGS / f"{case.name}.json").write_text(expected + "\n", "utf-8")
            right = check(case.name, log, case.expected) and right
    return 0 if right else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="cases to record; all by default")
    parser.add_argument("--torch", default="2.13.0", help="version of the CPU torch to install")
    parser.add_argument("--uv", default=shutil.which("uv"), help="the uv to record with")
    options = parser.parse_args()
    sys.exit(main())
