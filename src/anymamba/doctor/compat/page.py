"""The compatibility table as a page of the documentation, in both languages: one table of what goes together.

python -m anymamba.doctor.compat.page docs      # writes docs/en/versions.md and docs/zh/versions.md again
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict, Iterable, List, Tuple

from anymamba.doctor.compat import building, table
from anymamba.doctor.compat.host import Host
from anymamba.doctor.compat.table import Release
from anymamba.doctor.compat.trios import trios, why_none
from anymamba.language import LANGUAGES, say, set_language

GPUS = (
    (60, "P100"),
    (61, "GTX 10"),
    (70, "V100"),
    (75, "T4, RTX 20"),
    (80, "A100"),
    (86, "RTX 30, A10"),
    (89, "RTX 40, L4"),
    (90, "H100, H200, GH200"),
    (100, "B200"),
    (103, "B300"),
    (120, "RTX 50, RTX PRO"),
    (121, "GB10"),
)


def page(language: str) -> str:
    """Markdown."""
    set_language(language)
    try:
        return "\n".join(
            [
                *_head(),
                *_releases("mamba-ssm"),
                *_releases("causal-conv1d"),
                *_torches(),
                *_gpus(),
                *_images(),
                *_sources(),
            ]
        )
    finally:
        set_language(None)


def _head() -> List[str]:
    return [
        "# " + say("Which versions go together", "哪些版本可以配合"),
        "",
        say(
            "torch, mamba-ssm and causal-conv1d have to fit each other, Python, CUDA, the C++ ABI and the GPU. The command works it out for"
            " a machine, or for a program, and prints what to type:",
            "torch、mamba-ssm 与 causal-conv1d 必须彼此相配，并与 Python、CUDA、C++ ABI 和显卡相配。以下命令会为一台机器或一个程序算出答案"
            "，并给出该输入的命令：",
        ),
        "",
        "```bash",
        "anymamba doctor --compat",
        "anymamba doctor --compat requirements.txt",
        "```",
        "",
        say("Facts of {}. Wheels are published for Linux only.", "数据截至 {}。只发布了 Linux 版 wheel。").format(
            table.document()["checked"]
        ),
        "",
    ]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(titles: List[str], rows: Iterable[List[str]]) -> List[str]:
    return [_row(titles), _row("---" for _ in titles), *map(_row, rows), ""]


def _releases(package: str) -> List[str]:
    titles = [
        package,
        say("wheels: torch, CUDA", "wheel：torch、CUDA"),
        "Python",
        "C++11 ABI",
        say("processors", "处理器"),
    ]
    titles += ["causal-conv1d", say("needs", "需要")] if package == "mamba-ssm" else []
    titles.append(say("compiles from PyPI", "可从 PyPI 编译"))
    return ["## " + package, "", *_table(titles, (_release(item) for item in reversed(table.releases(package))))]


def _release(item: Release) -> List[str]:
    rows = [row for row in item.wheels if not row.nightly]
    of_minor: Dict[str, List[str]] = {}
    for row in rows:  # x86_64 and aarch64 may have different ones
        of_minor.setdefault(row.torch, []).extend(name[:2] for name in row.cuda)
    by_cuda: Dict[Tuple[str, ...], List[str]] = {}
    for minor, names in of_minor.items():
        by_cuda.setdefault(tuple(sorted(set(names))), []).append(minor)
    wheels = "; ".join("{}: CUDA {}".format(_range(minors), ", ".join(cuda)) for cuda, minors in by_cuda.items())
    pythons = (
        "3.{}–3.{}".format(min(row.pythons[0] for row in rows), max(row.pythons[1] for row in rows)) if rows else "-"
    )
    abis = ", ".join(sorted({abi for row in rows for abi in row.abi})) or "-"
    processors = ", ".join(sorted({row.machine for row in rows}, reverse=True)) or "-"
    cells = [item.version, wheels or "-", pythons, abis, processors]
    if item.package == "mamba-ssm":
        cells += [
            item.conv.replace("<", "&lt;") or "-",
            ", ".join(name + wanted for name, wanted in item.needs.items()).replace("<", "&lt;") or "-",
        ]
    return [*cells, say("yes", "是") if item.sources else say("no: from git", "否：须从 git")]


def _range(minors: List[str]) -> str:
    ordered = sorted(minors, key=table.numbers)
    return ordered[0] if len(ordered) == 1 else "{}–{}".format(ordered[0], ordered[-1])


def _torches() -> List[str]:
    titles = ["torch", "CUDA", "Python", "triton", "C++11 ABI"]
    rows = []
    for item in reversed(table.torches()):
        abi = item.abi + "".join("; {}: {}".format(build, other) for build, other in item.abi_of.items())
        builds = ", ".join("**{}**".format(build) if build == item.pypi else build for build in item.cuda)
        rows.append([item.newest, builds, "3.{}–3.{}".format(*item.pythons), item.triton or "-", abi])
    note = say(
        "In bold: what a plain `pip install torch` gives on Linux.",
        "粗体：在 Linux 上直接 `pip install torch` 得到的版本。",
    )
    return ["## torch", "", note, "", *_table(titles, rows)]


def _gpus() -> List[str]:
    titles = [
        say("compute capability", "计算能力"),
        say("GPUs", "显卡"),
        "mamba-ssm",
        "causal-conv1d",
        say("torch's builds", "torch 的版本"),
    ]
    rows = []
    for arch, names in GPUS:
        builds = [
            build
            for build in table.document()["torch archs"]
            if int(build[2:]) >= 118 and table.torch_runs(build, arch)
        ]
        rows.append(
            [
                building.capability(arch),
                names,
                *(_made_for(package, arch) for package in table.PACKAGES),
                ", ".join(builds) or "-",
            ]
        )
    note = say(
        "Releases whose setup.py compiles for the GPU, with CUDA 11.8, 12.9 or 13.0.",
        "setup.py 在 CUDA 11.8、12.9 或 13.0 下会为该显卡编译的版本。",
    )
    return ["## " + say("GPUs", "显卡"), "", note, "", *_table(titles, rows)]


def _made_for(package: str, arch: int) -> str:
    fitting = [
        item
        for item in table.releases(package)
        if any(table.runs(item.codes(cuda), arch) for cuda in ("11.8", "12.9", "13.0"))
    ]
    if not fitting:
        return say("none", "无")
    newest = fitting[-1].version == table.releases(package)[-1].version
    return "≥ " + fitting[0].version if newest else "{}–{}".format(fitting[0].version, fitting[-1].version)


def _images() -> List[str]:
    titles = [say("image", "镜像"), say("brings", "自带"), say("best", "最合适")]
    rows = []
    for image in table.document()["images"]:
        host = Host(image["facts"])
        found = trios(host)
        brings = "torch {}, Python 3.{}, CUDA {}".format(host.torch["version"], host.python_minor, host.torch["cuda"])
        best = say("torch {}, mamba-ssm {}, causal-conv1d {}: {}", "torch {}、mamba-ssm {}、causal-conv1d {}：{}")
        route = {"wheel": say("wheels", "wheel"), "source": say("compiled", "编译")}
        cell = (
            best.format(found[0].torch, found[0].mamba.version, found[0].conv.version, route[found[0].route])
            if found
            else why_none(host) or "-"
        )
        rows.append(["{} (`--for {}`)".format(image["title"], image["name"]), brings, cell])
    return ["## " + say("Notebooks and containers", "笔记本服务与容器"), "", *_table(titles, rows)]


def _sources() -> List[str]:
    lines = ["## " + say("Where this is from", "出处"), ""]
    for name, source in table.document()["sources"].items():
        words = ["<{}>".format(word) if word.startswith("https://") else word for word in source.split()]
        lines.append("- {}: {}".format(name, " ".join(words)))
    return [*lines, ""]


def write(docs: Path) -> None:
    for language in LANGUAGES:
        (docs / language / "versions.md").write_text(page(language), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
