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
from anymamba.language import LANGUAGES, _, set_language

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
        "# " + _("Which versions go together"),
        "",
        _(
            "torch, mamba-ssm and causal-conv1d have to fit each other, Python, CUDA, the C++ ABI and the GPU. The "
            "command works it out for a machine, or for a program, and prints what to type:"
        ),
        "",
        "```bash",
        "anymamba doctor --compat",
        "anymamba doctor --compat requirements.txt",
        "```",
        "",
        _("Facts of {checked}. Wheels are published for Linux only.").format(checked=table.document()["checked"]),
        "",
    ]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(titles: List[str], rows: Iterable[List[str]]) -> List[str]:
    return [_row(titles), _row("---" for _ in titles), *map(_row, rows), ""]


def _releases(package: str) -> List[str]:
    titles = [
        package,
        _("wheels: torch, CUDA"),
        "Python",
        "C++11 ABI",
        _("processors"),
    ]
    titles += ["causal-conv1d", _("needs")] if package == "mamba-ssm" else []
    titles.append(_("compiles from PyPI"))
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
    return [*cells, _("yes") if item.sources else _("no: from git")]


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
    note = _("In bold: what a plain `pip install torch` gives on Linux.")
    return ["## torch", "", note, "", *_table(titles, rows)]


def _gpus() -> List[str]:
    titles = [
        _("compute capability"),
        _("GPUs"),
        "mamba-ssm",
        "causal-conv1d",
        _("torch's builds"),
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
    note = _("Releases whose setup.py compiles for the GPU, with CUDA 11.8, 12.9 or 13.0.")
    return ["## " + _("GPUs"), "", note, "", *_table(titles, rows)]


def _made_for(package: str, arch: int) -> str:
    fitting = [
        item
        for item in table.releases(package)
        if any(table.runs(item.codes(cuda), arch) for cuda in ("11.8", "12.9", "13.0"))
    ]
    if not fitting:
        return _("none")
    newest = fitting[-1].version == table.releases(package)[-1].version
    return "≥ " + fitting[0].version if newest else "{}–{}".format(fitting[0].version, fitting[-1].version)


def _images() -> List[str]:
    titles = [_("image"), _("brings"), _("best")]
    rows = []
    for image in table.document()["images"]:
        host = Host(image["facts"])
        found = trios(host)
        brings = "torch {}, Python 3.{}, CUDA {}".format(host.torch["version"], host.python_minor, host.torch["cuda"])
        best = _("torch {}, mamba-ssm {}, causal-conv1d {}: {}")
        route = {"wheel": _("wheels"), "source": _("compiled")}
        cell = (
            best.format(found[0].torch, found[0].mamba.version, found[0].conv.version, route[found[0].route])
            if found
            else why_none(host) or "-"
        )
        rows.append(["{} (`--for {}`)".format(image["title"], image["name"]), brings, cell])
    return ["## " + _("Notebooks and containers"), "", *_table(titles, rows)]


def _sources() -> List[str]:
    lines = ["## " + _("Where this is from"), ""]
    for name, source in table.document()["sources"].items():
        words = ["<{}>".format(word) if word.startswith("https://") else word for word in source.split()]
        lines.append("- {}: {}".format(name, " ".join(words)))
    return [*lines, ""]


def write(docs: Path) -> None:
    for language in LANGUAGES:
        (docs / language / "versions.md").write_text(page(language), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
