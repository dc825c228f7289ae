"""Where the user stands, read from anywhere in a log or from the machine: what every remedy is written for."""

from __future__ import annotations

import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

from anymamba.doctor import situation
from anymamba.doctor.log import Log


class Environment(NamedTuple):
    """Versions are None where nothing tells them.

    system: "linux", "wsl", "windows" or "macos". shell: "bash", "powershell", "cmd".
    manager: "pip", "uv", "poetry" or "conda".
    place: "dockerfile", "notebook" or "". torch: without its +cu part; cuda: of that torch; nvcc, driver: their CUDA versions.
    guess: URL of the wheel that setup.py looked for.
    mamba, conv: what the program or the command asks for. new_abi: of torch's C++ library.
    """

    system: str
    shell: str = "bash"
    manager: str = "pip"
    place: str = ""
    python: Optional[str] = None
    torch: Optional[str] = None
    cuda: Optional[str] = None
    nvcc: Optional[str] = None
    driver: Optional[str] = None
    machine: str = "x86_64"
    arch: Optional[str] = None
    mamba: Optional[str] = None
    conv: Optional[str] = None
    new_abi: Optional[bool] = None
    program: Optional[str] = None
    uv_project: bool = False
    failed: Tuple[str, ...] = ()
    log: str = "build.log"
    guess: Optional[str] = None


def of_log(log: Log, system: str) -> Environment:
    text = log.text
    torch, cuda = _torch(log)
    wheel = log.facts.get("wheel") or {}
    if not cuda and re.match(r"cu\d", wheel.get("accelerator", "")):
        digits = wheel["accelerator"][2:]
        cuda = digits if len(digits) == 2 else digits[:2] + "." + digits[2:]
    return Environment(
        system=system,
        shell=_shell(text, system),
        manager=_manager(text),
        place="dockerfile" if log.reading.image_build else _place(text),
        python=log.facts.get("python") or _first(text, r"[Pp]ython(?:\s*(?:version|=|:|==))*\s*3\.(\d+)", "3."),
        torch=torch,
        cuda=cuda,
        nvcc=_first(text, r"release (\d+\.\d+), V|cuda_(\d+\.\d+)\.r\d"),
        driver=_first(text, r"CUDA Version: ?(\d+\.\d+)"),
        machine="aarch64" if re.search(r"aarch64|linux_arm64|\bGH200\b|\bGB10\b|DGX Spark|Jetson|Orin", text) else "x86_64",
        arch=_arch(text),
        mamba=_wish(text, "mamba") or _installed(log, "mamba-ssm"),
        conv=_wish(text, "conv"),
        new_abi={"TRUE": True, "FALSE": False}.get(wheel.get("abi", "")),
        program=_program(text),
        uv_project=bool(re.search(r"\buv (?:add|sync|lock|run)\b", text)),
        failed=tuple(sorted(name for name in log.failed if name in ("mamba-ssm", "causal-conv1d"))),
        log=log.name or "build.log",
        guess=log.facts.get("guessed_wheel"),
    )


def of_machine(facts: Dict[str, Any], system: str) -> Environment:
    torch, gpus = facts["torch"], facts["gpu"]["nvidia"]
    version = (torch.get("version") or "").split("+")[0] or None
    used = facts["cuda"]["used"]
    return Environment(
        system=system,
        shell="powershell" if system == "windows" else "bash",
        manager="conda" if facts["python"].get("conda") else "pip",
        python="3.{}".format(facts["python"]["minor"]),
        torch=version,
        cuda=torch.get("cuda"),
        nvcc=used["version"] if used else None,
        driver=facts["gpu"].get("cuda"),
        machine={"arm64": "aarch64"}.get(facts["system"]["machine"], facts["system"]["machine"]),
        arch=gpus[0]["capability"].replace(".", "") if gpus else None,
        new_abi=torch.get("abi"),
    )


_TORCH_WORDS = (
    r"(?:[Pp]y[Tt]orch|\btorch)(?:\.__version__)?[\s`'\"*|:=(v]{1,8}(?:version[\s:=]{0,3})?"
    r"(\d\.\d+(?:\.\d+)?)(a0)?(?:\+(?:cu|CUDA ?)(\d+(?:\.\d+)?))?"
)


def _torch(log: Log) -> Tuple[Optional[str], Optional[str]]:
    """(version, CUDA) of the user's torch: installed, else seen by an unisolated build, else written anywhere."""
    version = log.facts.get("torch_installed")
    if not version and not log.facts["isolated"]:
        version = log.facts.get("torch_of_build")
    cuda = None
    if not version:
        for found in re.finditer(_TORCH_WORDS, log.text):
            line = log.line_at(found.start()).text
            if not re.search(r"Downloading|Collecting|overlay|torch>=|requires|depends on|torchvision", line[: found.end()]):
                version = found.group(1) + ("+cu" + found.group(3).replace(".", "") if found.group(3) else "")
                break
    version = version or log.facts.get("torch_of_build")
    if not version:
        return None, _cuda_words(log.text)
    tag = re.search(r"\+cu(\d{2})(\d+)", version)
    cuda = "{}.{}".format(*tag.groups()) if tag else _cuda_words(log.text) if "+cpu" not in version else None
    return re.split(r"[+a]", version)[0], cuda


def _cuda_words(text: str) -> Optional[str]:
    """torch.version.cuda where it is printed, or the CUDA that the user names beside torch."""
    return _first(
        text,
        r"(?:torch\.version\.cuda|CUDA used to build PyTorch|pytorch-cuda|built with CUDA)\W{1,4}(\d+\.\d+)"
        r"|whl/cu(\d{3})\b|\b[Cc][Uu][Dd][Aa](?:[- ]?(?:version|toolkit|版本))?[\s:=v-]{1,3}(\d{2}\.\d)\b",
    )


def _first(text: str, pattern: str, before: str = "") -> Optional[str]:
    found = re.search(pattern, text)
    if not found:
        return None
    value = next(group for group in found.groups() if group)
    if re.fullmatch(r"\d{3}", value):
        value = value[:2] + "." + value[2]
    return before + value


def _shell(text: str, system: str) -> str:
    if system != "windows":
        return "bash"
    prompt = re.search(r"^(?:\([\w.-]+\) ?)?(PS )?[A-Z]:\\[^>\n]*>", text, re.M)
    return "cmd" if prompt and not prompt.group(1) else "powershell"


def _manager(text: str) -> str:
    if re.search(
        r"\buv (?:pip|add|sync|lock|run|tool)\b|Failed to (?:build|download and build) `|The build backend returned an error"
        r"|[\\/]uv[\\/]builds",
        text,
    ):
        return "uv"
    if re.search(r"\bpoetry (?:add|install|run|update|lock)\b|PEP517 build of a dependency failed|ChefBuildError|[\\/]pypoetry[\\/]", text):
        return "poetry"
    if re.search(
        r"\bconda (?:install|env|create|activate|list)|Pip subprocess error|CondaError|PackagesNotFoundError|[\\/](?:mini|ana)conda3?[\\/]"
        r"|[\\/]envs[\\/][\w.-]+[\\/]|[Mm]ini(?:forge|conda)|^\(base\)|CONDA_PREFIX",
        text,
        re.M,
    ):
        return "conda"
    return "pip"


def _place(text: str) -> str:
    if re.search(r"^#\d+ \d|failed to solve|Dockerfile|^(?:Step \d+/\d+ : )?RUN |docker build|docker-compose", text, re.M):
        return "dockerfile"
    if re.search(r"^!pip|^%pip|\b[Cc]olab\b|\b[Kk]aggle\b|ipykernel|ipython-input|^In \[\d+\]:|Cell In\[", text, re.M):
        return "notebook"
    return ""


_CARDS = (
    (r"sm_(1[0-2]\d|[5-9]\d)\b", None),
    (r"RTX ?(?:PRO ?)?50[5-9]0|RTX PRO \d000 Blackwell", "120"),
    (r"\bGB10\b|DGX Spark", "121"),
    (r"\bB300\b|GB300", "103"),
    (r"\bB200\b|GB200", "100"),
    (r"\bH[12]00\b|GH200", "90"),
    (r"RTX ?40[5-9]0|\bL40S?\b|\bL4\b", "89"),
    (r"RTX ?30[5-9]0|RTX ?A\d000|\bA10\b|\bA40\b", "86"),
    (r"\bA100\b", "80"),
    (r"\bT4\b|RTX ?20[6-8]0|2080 ?[Tt]i|GTX ?16\d0", "75"),
    (r"\bV100\b", "70"),
    (r"GTX ?10[5-8]0|1080 ?[Tt]i|\bP40\b|TITAN Xp", "61"),
    (r"\bP100\b", "60"),
)


def _arch(text: str) -> Optional[str]:
    for pattern, number in _CARDS:
        found = re.search(pattern, text)
        if found and number is None and re.search(r"capability sm_" + found.group(1), text):
            return found.group(1)
        if found and number is not None:
            return number
    return None


def _wish(text: str, package: str) -> Optional[str]:
    """The version that a command or a requirements file asks for with ==."""
    name = r"mamba[-_]ssm" if package == "mamba" else r"causal[-_]conv1d"
    asked = name + r"==([\d.]+(?:\.?post\d+)?)"
    found = re.search(r"(?:pip3? install|uv add|poetry add|requirements?[^\n]{0,40})[^\n]*" + asked, text)
    found = found or re.search(r"^(?:Collecting )?" + asked + r"(?: \(from|$)", text, re.M)
    return found.group(1).rstrip(".") if found else None


def _installed(log: Log, name: str) -> Optional[str]:
    """The release that the user has, which a repair keeps."""
    installation = log.installations.get(name)
    return installation.version.split("+")[0] if installation else None


def _program(text: str) -> Optional[str]:
    found = re.search(r"(?:^|[$%>#] )(?:CUDA_VISIBLE_DEVICES=\S+ )?python3? (?:-u )?([\w./\\-]+\.py)\b", text, re.M)
    if not found:
        found = re.search(r"File \"?((?!<)[^\"\n]*?(?!site-packages)[\w-]+\.py)\"?, line \d+, in <module>", text)
    if not found or "-packages" in found.group(1) or "setup.py" in found.group(1) or "pip" in found.group(1):
        return None
    return re.split(r"[\\/]", found.group(1))[-1]


def minor_of(python: Optional[str]) -> Optional[int]:
    return int(python.split(".")[1]) if python else None


def torch_is_old(environment: Environment) -> bool:
    return bool(environment.torch) and situation.short(environment.torch or "") < (2, 4)
