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
from anymamba.installer.step import Choice, InstallStep, Plan, Refusal
from anymamba.installer.wheels import GITHUB, address, parts, wheel_for
from anymamba.language import _, pgettext

# build order: mamba-ssm uses causal-conv1d
_ORDER = ("causal-conv1d", "mamba-ssm")


def make_plan(
    facts: dict[str, Any],
    packages: dict[str, str | None],
    *,
    local: dict[str, str] | None = None,
    archives: dict[str, str] | None = None,
    links: str | None = None,
    offline: bool = False,
    dependencies: bool = True,
    architecture: int | None = None,
    github: str = GITHUB,
    without_wheels: frozenset[str] = frozenset(),
) -> Plan:
    """packages: name to version, None for the preferred one. local, archives: name to the path of a wheel, a source archive, of the user's.

    links: a folder in which pip looks for other packages too; offline: there alone, and nothing is fetched. dependencies: whether they
    are installed.
    architecture: compute capability to compile for (89) where no GPU is visible. without_wheels: their download has failed.
    """
    machine = Machine(facts)
    found, first = _found(machine), _first(machine, packages)
    blocked = refusal.of_machine(machine)
    if blocked:
        return Plan(machine.kind, "blocked", found, first, blocked=blocked)
    targets = [architecture] if architecture else machine.architectures
    choices: list[Choice] = []
    steps: list[InstallStep] = [_constraints()]
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
            choices.append(Choice(package, version, "local", _("your own file"), here))
            steps.append(InstallStep("local", _("take {file}").format(file=local[package]), (), {}, package, local[package]))
            continue
        file, why = wheel_for(machine, release)
        archive = (archives or {}).get(package)
        if archive:
            file, why = None, _("your own source archive")
        elif offline:
            return Plan(machine.kind, "blocked", found, first, blocked=refusal.offline(release))
        stop = _stop(machine, release, targets)
        if file and package not in without_wheels:
            choices.append(Choice(package, release.version, "wheel", why, here))
            where = address(release, file, github)
            steps.append(InstallStep("download", _("download {file}").format(file=file), (), {}, package, where))
            reasons.append(_fallback(package, stop))
            continue
        if stop:
            return Plan(machine.kind, "blocked", found, first, reasons=(f"{package}: {why}",), blocked=stop)
        choices.append(Choice(package, release.version, "source", why, here))
        built.append(release)
    targets = [] if machine.torch_kind == "rocm" else targets
    origin = (*(("--no-index",) if offline else ()), *(("--find-links", links) if links else ()))
    steps += _build(machine, built, targets, archives or {}, origin)
    if built:
        reasons += source.explain(machine, built, targets)
    steps += _finish(machine, releases, origin, dependencies)
    routes = {choice.route for choice in choices}
    # finding, fetching and checking takes a minute to five besides
    times = [(1.0, 5.0), *(step.minutes for step in steps if not step.beside)]
    low, high = (round(sum(item[end] for item in times), 1) for end in (0, 1))
    builds = source.at_once(machine, built) if built else 1
    compilers = [min(source.jobs(machine, builds), release.files) for release in built]
    running = sum(compilers) if builds > 1 else max(compilers, default=0)
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
        _changes(choices, dependencies),
    )


def _stop(machine: Machine, release: Release, targets: list[int]) -> Refusal | None:
    if machine.torch_kind == "rocm":
        return refusal.of_rocm_build(machine, release)
    architectures: list[int | None] = [*targets] or [None]
    return next(filter(None, (refusal.of_build(machine, release, target) for target in architectures)), None)


def _build(
    machine: Machine, built: list[Release], targets: list[int], archives: dict[str, str], origin: tuple[str, ...]
) -> list[InstallStep]:
    if not built:
        return []
    steps = [source.tools_step(origin)]
    if targets:
        steps.append(source.narrow_step(targets))
    return steps + source.build_steps(machine, built, targets, archives)


def _constraints() -> InstallStep:
    return InstallStep(
        "constraints",
        _("write down every installed package, so that none can be replaced"),
        ((*PIP, "list", "--format=freeze"),),
    )


def _finish(machine: Machine, releases: list[Release], origin: tuple[str, ...], dependencies: bool) -> list[InstallStep]:
    needs = sorted({need for release in releases for need in release.needs})
    if machine.kind == "windows" and any(release.package == "mamba-ssm" for release in releases):
        needs.append("triton-windows")
    report = (*PIP, "install", "--dry-run", "--quiet", *origin, "--report", "{work}/needed.json", "-c", "{work}/constraints.txt")
    find = InstallStep(
        "dependencies",
        _("find and download what is missing of: {needs}").format(needs=", ".join(needs)),
        ((*report, *needs), (*PIP, "wheel", *origin, "--no-deps", "-w", "{work}/wheels", "NAME==VERSION ...")),
    )
    return [
        *([find] if dependencies else []),
        InstallStep(
            "install",
            _("install the collected wheels; the environment changes only here"),
            ((*PIP, "install", "--force-reinstall", "--no-deps", "--no-index", "{work}/wheels/*.whl"),),
        ),
        InstallStep(
            "verify",
            _("import in a fresh process; on a GPU, forward and backward against the reference"),
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
        cards = [_("compute capability {capability}").format(capability=capability(machine.architectures[0]))]
    nvccs = dict.fromkeys(item["version"] for item in machine.facts["cuda"]["nvccs"] if item["version"])
    sentences = [
        _("system: ") + system,
        f"Python 3.{machine.python_minor}",
        "torch " + (torch["version"] if torch.get("installed") else pgettext("a package", "missing")),
        _("GPU: ") + (", ".join(cards) or _("none visible")),
        "nvcc: " + (", ".join(nvccs) or _("none")),
    ]
    for package, module in MODULES.items():
        sentences.append("{}: {}".format(package, machine.installed(module) or _("not installed")))
    return tuple(sentences)


def _first(machine: Machine, packages: Iterable[str]) -> tuple[str, ...]:
    instead = _("A program that imports mamba_ssm runs on them unchanged: `anymamba run PROGRAM`.")
    if not machine.architectures and not machine.facts["gpu"]["amd"]:
        return (
            _(
                "No GPU is visible here, and the official packages compute on GPUs only: they would bring nothing on "
                "this machine. anymamba's kernels run on the CPU. {instead}"
            ).format(instead=instead),
        )
    count, names = machine.fast_ops(packages)
    if not count:
        return ()
    return (
        _(
            "You do not need this: anymamba already computes all {count} ops of {packages} here with compiled kernels "
            "({names}), so the official package would bring nothing new. {instead}"
        ).format(count=count, packages=", ".join(packages), names=", ".join(names), instead=instead),
    )


def _torch_stays(machine: Machine) -> str:
    return _(
        "torch {torch} stays as it is: every installed package is pinned to its version; if that cannot be kept, "
        "nothing is installed"
    ).format(torch=machine.torch["version"])


def _fallback(package: str, stop: Refusal | None) -> str:
    if stop is None:
        return _("{package}: if the wheel cannot be downloaded, it is compiled here").format(package=package)
    return _("{package}: if the wheel cannot be downloaded, this stops: {reason}").format(
        package=package, reason=stop.reason
    )


def _changes(choices: list[Choice], dependencies: bool) -> tuple[str, ...]:
    sentences = []
    for choice in choices:
        if choice.installed:
            sentences.append(
                _("{package} {installed} is replaced by {version}").format(
                    package=choice.package, installed=choice.installed, version=choice.version
                )
            )
        else:
            sentences.append(_("{package} {version} is added").format(package=choice.package, version=choice.version))
    if dependencies:
        sentences.append(_("missing dependencies are added; nothing else changes"))
    else:
        sentences.append(_("nothing else changes; missing dependencies are not added (--no-deps)"))
    sentences.append(_("`anymamba uninstall` removes exactly what was added"))
    return tuple(sentences)
