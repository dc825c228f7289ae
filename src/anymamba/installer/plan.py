"""Facts of a machine -> what would be done on it, and why. Pure: nothing is read, run or fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from anymamba.doctor.compat.building import capability
from anymamba.installer import refusal, source
from anymamba.installer.machine import Machine
from anymamba.installer.releases import MODULES, Release, find
from anymamba.installer.source import PIP
from anymamba.installer.step import Choice, Plan, Refusal, Step
from anymamba.installer.wheels import GITHUB, address, parts, wheel_for
from anymamba.language import say

# build order: mamba-ssm uses causal-conv1d
_ORDER = ("causal-conv1d", "mamba-ssm")


def make_plan(
    facts: dict[str, Any],
    packages: dict[str, str | None],
    *,
    local: dict[str, str] | None = None,
    architecture: int | None = None,
    github: str = GITHUB,
    without_wheels: frozenset[str] = frozenset(),
) -> Plan:
    """packages: name to version, None for the preferred one. local: name to the path of a wheel of the user's.

    architecture: compute capability to compile for (89) where no GPU is visible. without_wheels: their download has failed.
    """
    machine = Machine(facts)
    found, first = _found(machine), _first(machine, packages)
    blocked = refusal.of_machine(machine)
    if blocked:
        return Plan(machine.kind, "blocked", found, first, blocked=blocked)
    targets = [architecture] if architecture else machine.architectures
    choices: list[Choice] = []
    steps: list[Step] = [_constraints()]
    reasons: list[str] = [_torch_stays(machine)]
    built: list[Release] = []
    releases: list[Release] = []
    for package in [name for name in _ORDER if name in packages]:
        release = find(package, packages[package])
        if release is None and local and package in local:
            release = find(package, None)
        stop = refusal.of_release(machine, package, release, packages[package])
        if release is not None and not stop:
            stop = next(filter(None, (refusal.of_gpu(release, target) for target in targets)), None)
        if stop or release is None:
            return Plan(machine.kind, "blocked", found, first, blocked=stop)
        releases.append(release)
        here = machine.installed(MODULES[package])
        if local and package in local:
            name = parts(re.split(r"[/\\]", local[package])[-1])
            version = name.version if name else release.version
            choices.append(Choice(package, version, "local", say("your own file", "你提供的文件"), here))
            steps.append(
                Step("local", say("take {}", "使用 {}").format(local[package]), (), {}, package, local[package])
            )
            continue
        file, why = wheel_for(machine, release)
        stop = _stop(machine, release, targets)
        if file and package not in without_wheels:
            choices.append(Choice(package, release.version, "wheel", why, here))
            where = address(release, file, github)
            steps.append(Step("download", say("download {}", "下载 {}").format(file), (), {}, package, where))
            reasons.append(_fallback(package, stop))
            continue
        if stop:
            return Plan(machine.kind, "blocked", found, first, reasons=(f"{package}: {why}",), blocked=stop)
        choices.append(Choice(package, release.version, "source", why, here))
        built.append(release)
    targets = [] if machine.torch_kind == "rocm" else targets
    steps += _build(machine, built, targets)
    if built:
        reasons += source.explain(machine, targets)
    steps += _finish(machine, releases)
    routes = {choice.route for choice in choices}
    count = source.jobs(machine)
    # finding, fetching and checking takes a minute to five besides
    times = [(1.0, 5.0), *(step.minutes for step in steps)]
    low, high = (round(sum(item[end] for item in times), 1) for end in (0, 1))
    running = min(count, max((release.files for release in built), default=0))
    return Plan(
        machine.kind,
        routes.pop() if len(routes) == 1 else "mixed",
        found,
        first,
        tuple(choices),
        tuple(steps),
        (low, high),
        running * source.JOB_GB if built else 1.0,
        refusal.BUILD_DISK if built else 1.0,
        ",".join(capability(target) for target in targets) or ",".join(facts["gpu"]["amd"]) or None,
        tuple(reasons),
        _changes(choices, machine),
    )


def _stop(machine: Machine, release: Release, targets: list[int]) -> Refusal | None:
    if machine.torch_kind == "rocm":
        return refusal.of_rocm_build(machine, release)
    asked: list[int | None] = [*targets] or [None]
    return next(filter(None, (refusal.of_build(machine, release, target) for target in asked)), None)


def _build(machine: Machine, built: list[Release], targets: list[int]) -> list[Step]:
    if not built:
        return []
    steps = [source.tools_step()]
    if targets:
        steps.append(source.narrow_step(targets))
    for release in built:
        steps += source.build_steps(machine, release, targets)
    return steps


def _constraints() -> Step:
    return Step(
        "constraints",
        say("write down every installed package, so that none can be replaced", "记录所有已安装的包，使其不会被替换"),
        ((*PIP, "list", "--format=freeze"),),
    )


def _finish(machine: Machine, releases: list[Release]) -> list[Step]:
    needs = sorted({need for release in releases for need in release.needs})
    if machine.kind == "windows" and any(release.package == "mamba-ssm" for release in releases):
        needs.append("triton-windows")
    report = (*PIP, "install", "--dry-run", "--quiet", "--report", "{work}/needed.json", "-c", "{work}/constraints.txt")
    return [
        Step(
            "dependencies",
            say("find and download what is missing of: {}", "查找并下载缺少的依赖：{}").format(", ".join(needs)),
            ((*report, *needs), (*PIP, "wheel", "--no-deps", "-w", "{work}/wheels", "NAME==VERSION ...")),
        ),
        Step(
            "install",
            say(
                "install the collected wheels; the environment changes only here",
                "安装已收集的 wheel；环境仅在这一步改变",
            ),
            ((*PIP, "install", "--force-reinstall", "--no-deps", "--no-index", "{work}/wheels/*.whl"),),
        ),
        Step(
            "verify",
            say(
                "import in a fresh process; on a GPU, forward and backward against the reference",
                "在新进程中导入；有显卡时，将前向与反向结果和参考实现对比",
            ),
            (("{python}", "-m", "anymamba.installer.verify", *[release.package for release in releases]),),
        ),
    ]


def _found(machine: Machine) -> tuple[str, ...]:
    torch = machine.torch
    system = "{}, {}".format(machine.facts["system"].get("name") or machine.kind, machine.processor)
    if machine.kind == "wsl":
        system += ", WSL2"
    if machine.container:
        system += ", " + machine.container
    cards = [f"{item['name']} ({item.get('capability') or '?'})" for item in machine.facts["gpu"]["nvidia"]]
    cards = [f"{cards.count(card)} x {card}" if cards.count(card) > 1 else card for card in dict.fromkeys(cards)]
    cards += machine.facts["gpu"]["amd"]
    if not cards and machine.architectures:
        cards = [say("compute capability {}", "计算能力 {}").format(capability(machine.architectures[0]))]
    nvccs = dict.fromkeys(item["version"] for item in machine.facts["cuda"]["nvccs"] if item["version"])
    said = [
        say("system: ", "系统：") + system,
        f"Python 3.{machine.python_minor}",
        "torch " + (torch["version"] if torch.get("installed") else say("missing", "未安装")),
        say("GPU: ", "显卡：") + (", ".join(cards) or say("none visible", "不可见")),
        "nvcc: " + (", ".join(nvccs) or say("none", "无")),
    ]
    for package, module in MODULES.items():
        said.append("{}: {}".format(package, machine.installed(module) or say("not installed", "未安装")))
    return tuple(said)


def _first(machine: Machine, packages: Iterable[str]) -> tuple[str, ...]:
    instead = say(
        "A program that imports mamba_ssm runs on them unchanged: `anymamba run PROGRAM`.",
        "导入 mamba_ssm 的程序无需修改即可使用：`anymamba run 程序`。",
    )
    if not machine.architectures and not machine.facts["gpu"]["amd"]:
        return (
            say(
                "No GPU is visible here, and the official packages compute on GPUs only: they would bring nothing on this"
                " machine. anymamba's kernels run on the CPU. {}",
                "本机没有可见的显卡，而官方包只能在显卡上计算：在本机不会带来任何好处。anymamba 的内核可在 CPU 上运行。{}",
            ).format(instead),
        )
    count, names = machine.fast_ops(packages)
    if not count:
        return ()
    return (
        say(
            "You do not need this: anymamba already computes all {} ops of {} here with compiled kernels ({}), so the official"
            " package would bring nothing new. {}",
            "你并不需要它：anymamba 已用编译好的内核（{2}）计算 {1} 的全部 {0} 个算子，官方包不会带来新功能。{3}",
        ).format(count, ", ".join(packages), ", ".join(names), instead),
    )


def _torch_stays(machine: Machine) -> str:
    return say(
        "torch {} stays as it is: every installed package is pinned to its version; if that cannot be kept, nothing is installed",
        "torch {} 保持不变：所有已安装的包都被固定在当前版本；若无法做到，则不安装任何内容",
    ).format(machine.torch["version"])


def _fallback(package: str, stop: Refusal | None) -> str:
    if stop is None:
        return say(
            "{}: if the wheel cannot be downloaded, it is compiled here", "{}：若 wheel 无法下载，则在本机编译"
        ).format(package)
    return say("{}: if the wheel cannot be downloaded, this stops: {}", "{}：若 wheel 无法下载则停止：{}").format(
        package, stop.reason
    )


def _changes(choices: list[Choice], machine: Machine) -> tuple[str, ...]:
    said = []
    for choice in choices:
        if choice.installed:
            said.append(
                say("{} {} is replaced by {}", "{} {} 被替换为 {}").format(
                    choice.package, choice.installed, choice.version
                )
            )
        else:
            said.append(say("{} {} is added", "新增 {} {}").format(choice.package, choice.version))
    said.append(say("missing dependencies are added; nothing else changes", "新增缺少的依赖；其余不变"))
    said.append(
        say("`anymamba uninstall` removes exactly what was added", "`anymamba uninstall` 会准确移除所添加的内容")
    )
    return tuple(said)
