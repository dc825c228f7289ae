"""What a log tells besides its error: tools, versions, the system, which packages were installed and which failed."""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

_NAME = r"[`'\"]?([A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9])"

# (pattern, whether it says that work on this very package begins)
_MARKS = (
    (re.compile(r"^(?:Building wheel|Running setup\.py (?:install|bdist_wheel|develop|clean)|Building editable) for"
                r" " + _NAME, re.M), True),
    (re.compile(r"^(?:ERROR: )?(?:Failed building wheel|Failed building editable) for " + _NAME, re.M), False),
    (re.compile(r"^(?:Collecting|Building|Installing|Downloading and building|Built) " + _NAME, re.M), True),
    (re.compile(r"^Processing \S*?([A-Za-z0-9][\w.-]*)[\\/]?$", re.M), True),
    (re.compile(r"^(?:[×x] )?Failed to (?:build|download and build|install|prepare distributions for):? " + _NAME, re.M), True),
    (re.compile(r"pip-(?:install|req-build|wheel)-\w+[\\/]([A-Za-z][\w.-]*?)_[0-9a-f]{32}"), True),
    (re.compile(r"^(?:- |• )?(?:Installing|Updating) " + _NAME + r" \([^)]*\): ?(?:Failed|Installing)", re.M), True),
    (re.compile(r"This error originates from the build backend, and is likely not a problem with [Pp]oetry but"
                r" (?:with|one of the following issues with) " + _NAME), True),
)  # fmt: skip

_FAILED = (
    re.compile(r"Failed (?:building wheel|building editable|to build installable wheels) for (?!some )" + _NAME),
    re.compile(
        r"^(?:× |error: |ERROR: )?Failed to (?:build|download and build):? (?!installable|one or)" + _NAME, re.M
    ),
    re.compile(r"^(?:ERROR: )?Could not build wheels for ([\w., -]+?)(?:,? which|$)", re.M),
    re.compile(r"^Failed to build ((?!installable)[\w.-]+(?: [\w.-]+)*)$", re.M),
    re.compile(r"^╰─> ([\w.-]+)$", re.M),
    re.compile(r"error: metadata-generation-failed.{0,200}?from (?:the )?package " + _NAME, re.S),
    re.compile(r"^(?:- |• )?Installing " + _NAME + r" \([^)]*\): ?Failed", re.M),
    re.compile(r"likely not a problem with [Pp]oetry but (?:with|one of the following issues with) " + _NAME),
    re.compile(r"ERROR: Failed to build installable wheels for some pyproject\.toml based projects \(([\w., -]+)\)"),
)

_METADATA_FAILED = re.compile(
    r"(?:Getting requirements to build wheel|Preparing metadata[^\n]*|setup\.py egg_info[^\n]*) did not run"
    r" successfully"
)

# projects whose own builds and imports fail in the same words as ours
_OTHER = re.compile(
    r"flash[-_]attn|flash[-_]attention|\bapex\b|deepspeed|xformers|bitsandbytes|detectron2|mmcv|pytorch3d"
    r"|torch[-_](?:scatter|sparse|cluster)"
    r"|tiny-?cuda-?nn|nvdiffrast|gsplat|diff[-_]gaussian|simple[-_]knn|MinkowskiEngine|spconv|vllm|sglang"
    r"|llama[-_.]cpp|auto[-_]gptq|exllama|natten"
    r"|transformer[-_]engine|onnxruntime|tensorflow|jax(?:lib)?\b|paddle|stable-diffusion|comfyui|ultralytics"
    r"|yolov?\d|opencv|numba\b|fla-core|dgl\b",
    re.I,
)


def normal(name: str) -> str:
    """A project's name as pip compares it, without a version."""
    name = re.split(r"[=<>!~\[(@ ]", name.strip("`'\".,"))[0]
    name = re.sub(r"-v?\d[\w.+]*(?:\.tar\.gz|\.whl|\.zip)?.*$", "", name)
    return re.sub(r"[-_.]+", "-", name).lower()


# what our packages pull in: an error among these while ours are installed concerns ours
_DEPENDENCIES = re.compile(
    r"(?:torch|setuptools|wheel|ninja|packaging|einops|triton|numpy|nvidia-.*|filelock|sympy|networkx|jinja2|fsspec|mpmath|markupsafe"
    r"|typing-extensions|huggingface-hub|tqdm|requests|regex|pyyaml|safetensors|pip|buildtools)$"
)
_NO_PACKAGES = ("wheels", "dependencies", "build", "backend", "collected", "metadata", "the", "build-dependencies")


def package_marks(text: str) -> List[Tuple[int, str, bool]]:
    """(offset, package, whether work on it begins here), in the order of the text."""
    marks = []
    for pattern, strong in _MARKS:
        for found in pattern.finditer(text):
            name = normal(found.group(1))
            if name not in _NO_PACKAGES and not _DEPENDENCIES.match(name):
                marks.append((found.start(), name, strong))
    return sorted(marks)


def failed_packages(text: str) -> Set[str]:
    names: Set[str] = set()
    for pattern in _FAILED:
        for found in pattern.finditer(text):
            for name in re.split(r"[\s,]+", found.group(1)):
                plain = normal(name)
                if plain and plain not in (
                    "wheel",
                    "see",
                    "the",
                    "one",
                    "or",
                    "more",
                    "and",
                    "package",
                    "installable",
                    "wheels",
                ):
                    names.add(plain)
    marks = package_marks(text)
    for found in _METADATA_FAILED.finditer(text):
        before = [name for offset, name, strong in marks if offset < found.start() and strong]
        if before:
            names.add(before[-1])
    return names


def other_project(text: str) -> Optional[str]:
    found = _OTHER.search(text)
    return found.group(0) if found else None


class WheelName(NamedTuple):
    """``mamba_ssm-2.2.4+cu12torch2.5cxx11abiFALSE-cp310-cp310-linux_x86_64.whl`` taken apart."""

    package: str
    version: str
    accelerator: str  # cu12, cu118, hip62
    torch: str
    abi: str
    python: str
    platform: str


_WHEEL = re.compile(
    r"(mamba_ssm|causal_conv1d)-([\d.]+(?:\.post\d+)?)\+(cu\w*?|hip\w*?|None|cuNone)?torch([\d.]+\w*?)cxx11abi(TRUE"
    r"|FALSE)"
    r"-(cp\d+|\w+)-\w+-([\w.]+?)\.whl"
)


def wheel_name(text: str) -> Optional[WheelName]:
    found = _WHEEL.search(text.replace("%2B", "+"))
    return WheelName(found[1], found[2], found[3] or "", found[4], found[5], found[6], found[7]) if found else None


_VERSION = {
    "mamba-ssm": re.compile(r"mamba[-_]ssm(?:==|-|=|\s+\(?v?|@v|/v)(\d+\.\d+\.\d+(?:\.post\d+)?)"),
    "causal-conv1d": re.compile(r"causal[-_]conv1d(?:==|-|=|\s+\(?v?|@v|/v)(\d+\.\d+\.\d+(?:\.post\d+)?)"),
    "transformers": re.compile(r"\btransformers(?:==|-|=|\s+\(?)(\d+\.\d+\.\d+)"),
    "triton": re.compile(r"\btriton(?:-windows)?(?:==|-|=|\s+\(?)(\d+\.\d+\.\d+)"),
}  # fmt: skip
_TORCH_OF_BUILD = re.compile(r"torch\.__version__\s*=\s*(\d[\w.+]*)")
_TORCH_INSTALLED = (
    re.compile(r"Requirement already satisfied: torch(?:[><=!~][^\n]*?)? in [^\n]*?\((\d[\w.+]*)\)"),
    re.compile(r"^torch\s+(\d+\.\d+[\w.+]*)(?:\s|$)", re.M),
    re.compile(r"^torch==(\d+\.\d+[\w.+]*)$", re.M),
    re.compile(r"print\(torch\.__version__\)[\"']?\s+'?(\d+\.\d+[\w.+]*)"),
    re.compile(r"^Name: torch\s+Version: (\d+\.\d+[\w.+]*)", re.M),
    re.compile(r"PyTorch version: ?(\d+\.\d+[\w.+]*)"),
    re.compile(r">>> (?:import torch; ?)?(?:print\()?torch\.__version__\)?\s+'?(\d+\.\d+[\w.+]*)"),
    re.compile(r"(?:Py[Tt]orch|torch) ?(?:==|=|version|v|:)? ?(\d+\.\d+\.\d+\+(?:cu\d+|rocm[\d.]+|cpu))"),
)
_PYTHON = (
    re.compile(r"-cp3(\d+)-cp3\d+"),
    re.compile(r"[Pp]ython[/\\ ]?3\.(\d+)"),
    re.compile(r"[\\/]Python3(\d\d?)[\\/]"),
    re.compile(r"cpython-3(\d+)-"),
)


def facts(text: str) -> Dict[str, Any]:
    """Everything that can be read off without a diagnosis; absent keys were not found."""
    known: Dict[str, Any] = {"tools": _tools(text), "system": system(text)}
    versions = {}
    for name, pattern in _VERSION.items():
        found = pattern.search(text)
        if found:
            versions[name] = found.group(1)
    known["versions"] = versions
    guess = re.search(r"Guessing wheel URL:\s*(\S+?\.whl)", text)
    if guess:
        known["guessed_wheel"] = guess.group(1)
        parsed = wheel_name(guess.group(1))
        if parsed:
            known["wheel"] = parsed._asdict()
            versions.setdefault(parsed.package.replace("_", "-"), parsed.version)
    built_with = _TORCH_OF_BUILD.findall(text)
    if built_with:
        known["torch_of_build"] = built_with[0]
    for pattern in _TORCH_INSTALLED:
        found = pattern.search(text)
        if found:
            known["torch_installed"] = found.group(1)
            break
    for pattern in _PYTHON:
        found = pattern.search(text)
        if found:
            known["python"] = "3." + found.group(1)
            break
    known["isolated"] = isolated(text)
    known["rocm"] = bool(
        re.search(r"\+rocm\d|[\\/]opt[\\/]rocm|hipcc|\bamdclang|--offload-arch|hip_fp16|gfx(?:9|1[01])\w\w", text)
    )
    return known


def isolated(text: str) -> Optional[bool]:
    """Whether our package was built in an isolated environment; None where the log does not show it."""
    if re.search(
        r"pip-build-env-\w+|builds-v\d+[\\/]\.tmp\w*|[\\/]uv[\\/].{0,40}\.tmp\w+[\\/]lib|virtualenvs?[\\/]\.tmp", text
    ):
        return True
    if re.search(r"Installing build dependencies|Installing backend dependencies", text):
        return True
    # the build tools of the user's own environment at work
    own_tools = re.search(r"site-packages[\\/]setuptools[\\/](?:build_meta|__init__)", text)
    if own_tools or "no-build-isolation" in text or re.search(r"setup\.py (?:install|develop|build)", text):
        return False
    if re.search(r"The build backend returned an error|PEP517 build of a dependency failed|ChefBuildError", text):
        return True  # what uv and poetry do unless they are told otherwise
    return None


def system(text: str) -> Optional[str]:
    """ "windows", "macos", "wsl", "linux" or None."""
    if re.search(r"microsoft-standard|/usr/lib/wsl|\bWSL ?2?\b|/mnt/[c-h]/(?:Users|Windows)", text):
        return "wsl"
    if re.search(
        r"(?<![A-Za-z])[A-Z]:\\\\?(?!actions-runner)\w|win_amd64|WinError|\bcl\.exe\b|MSVC|Microsoft Visual"
        r" (?:C\+\+|Studio)|win32|PS [A-Z]:\\",
        text,
    ):
        return "windows"
    if re.search(
        r"(?:^|[\s\"'(=])/Users/\w|/private/var/folders/|macosx[_-]\d|[Dd]arwin|\bmacOS\b|/opt/homebrew", text
    ):
        return "macos"
    if re.search(r"linux|/usr/|/home/|/root/|/tmp/|/opt/|\.so\b", text):
        return "linux"
    return None


def _tools(text: str) -> List[str]:
    signs = {
        "pip": r"\bpip install|subprocess-exited-with-error|Collecting |pip-(?:install|build-env|req-build)",
        "uv": r"\buv (?:pip|add|sync|lock|run)\b|Failed to (?:build|download and build) `|The build backend"
        r" returned an error|astral|setuptools\.build_meta:?_?_?l?e?g?a?c?y?_?_?\.build_wheel",
        "poetry": r"\bpoetry\b|PEP517 build of a dependency failed|ChefBuildError",
        "conda": r"\bconda (?:install|env|create|activate)|Pip subprocess error|CondaError|LibMambaUnsatisfiable"
        r"|PackagesNotFoundError",
        "docker": r"^#\d+ \d|failed to solve|Dockerfile|RUN pip|docker build",
        "setup.py": r"python3? setup\.py (?:install|develop|build)",
        "nvcc": r"\bnvcc\b",
        "MSVC": r"\bcl\.exe\b|MSVC|error C\d{4}|error LNK\d{4}",
        "transformers": r"transformers[\\/.]",
        "triton": r"triton[\\/.](?:compiler|runtime|backends|language)",
    }
    return [name for name, pattern in signs.items() if re.search(pattern, text, re.M)]
