"""What a log says is installed: versions that somebody printed, listed or wrote down, not those that a command asks for."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional

_NAMES = {
    "mamba-ssm": r"mamba[-_]ssm",
    "causal-conv1d": r"[Cc]aus?al[-_]?[Cc]onv1[dD]",
    "triton": r"[Tt]rit(?:on|ion)(?:-windows)?",
    "transformers": r"transformers",
    "flash-linear-attention": r"(?:flash-linear-attention|fla-core)",
    "tilelang": r"tilelang",
    "apache-tvm-ffi": r"apache-tvm-ffi",
    "quack-kernels": r"quack-kernels",
    "nvidia-cutlass-dsl": r"nvidia-cutlass-dsl",
    "numpy": r"numpy",
}
_VERSION = r"v?(\d+\.\d+(?:\.\d+)?(?:\.?(?:post|rc|dev)\d+)?(?:\+\w+)?)"
# a line with one of these asks for a version, or fetches one, or speaks of another package's wishes
_ASKING = re.compile(
    r"pip3? (?:install|download|wheel)|\buv (?:pip|add|sync|lock)|Collecting|Downloading|Using cached|Building|Preparing|Guessing"
    r"|\.tar\.gz|\.whl|depends on|requires|Would install|RUN |conda install|poetry add|[><~!]=|http|Failed|Uninstalling|File \""
    r"|downgrad|upgrad|[Tt]ry|install(?:ing)? (?:the )?(?:version|v?\d)"
)


class Installation(NamedTuple):
    """offset: of the line that says so."""

    version: str
    offset: int


def versions(text: str) -> Dict[str, Installation]:
    """Package to the version that the log shows as installed; the last word counts."""
    result: Dict[str, Installation] = {}
    for name, words in _NAMES.items():
        for offset, version in _mentions(text, words):
            result[name] = Installation(version, offset)
    return result


def _mentions(text: str, words: str) -> List[tuple]:
    sure = re.compile(
        r"Successfully installed [^\n]*?\b{0}-{1}|Requirement already satisfied: {0}[^\n]*\({1}\)"
        r"|Name: {0}\s+Version: {1}".format(words, _VERSION)
    )
    said = re.compile(
        r"(?<![\w/.-])[`'\"*|]{{0,3}}{0}[`'\"*|]{{0,3}}(?:\.__version__)?(?: version)?[\s`'\"*|:=(,]{{1,24}}{1}(?![\w.]*\.whl)".format(
            words, _VERSION
        )
    )
    places = [(found.start(), next(group for group in found.groups() if group)) for found in sure.finditer(text)]
    for found in said.finditer(text):
        line = text[text.rfind("\n", 0, found.start()) + 1 : text.find("\n", found.end()) if "\n" in text[found.end() :] else None]
        if "\n" not in found.group(0).strip() and not _ASKING.search(line):
            places.append((found.start(), found.group(1)))
    return sorted(places)


_NVCC_WORKS = re.compile(
    r"Cuda compilation tools, release [\d.]+|nvcc: NVIDIA \(R\) Cuda compiler driver|Build cuda_\d+\.\d+"
    r"|nvcc\W{0,6}(?:command|--version|-V)?\W{0,6}"
    r"(?:works|is (?:installed|available|there|on)|exists|shows|gives|returns|prints|正常|可用|能用)"
    r"|(?:which|whereis|where) nvcc\s+(?:nvcc: )?[/A-Z][^\s]*nvcc|CUDA_HOME\W{1,3}/usr/local/cuda[^\n]*\n(?:[^\n]*\n){0,3}?[^\n]*nvcc"
    r"|nvcr\.io/nvidia/pytorch|NVIDIA_PRODUCT_NAME=PyTorch"
)


def working_nvcc(text: str) -> Optional[int]:
    """Where the log shows that nvcc runs, or that the container has one."""
    found = _NVCC_WORKS.search(text)
    return found.start() if found else None


_SITE = re.compile(r"((?:[A-Z]:)?[\\/][^\s\"'<>|]*?)[\\/](?:lib|Lib)[\\/](?:python3\.\d+[\\/])?(?:site|dist)-packages")


def environments(text: str) -> List[str]:
    """Prefixes of the environments whose site-packages folders the text names, without duplicates."""
    seen: List[str] = []
    for found in _SITE.finditer(text):
        prefix = found.group(1).replace("\\\\", "\\")
        if prefix not in seen and not re.search(r"pip-build-env|builds-v\d|\.tmp", prefix):
            seen.append(prefix)
    return seen
