"""The steps of a build from source: against the user's torch, for one architecture, as parallel as memory allows."""

from __future__ import annotations

import ntpath
import posixpath
from dataclasses import replace

from anymamba.doctor.compat.building import capability
from anymamba.installer.machine import Machine
from anymamba.installer.releases import REPOSITORIES, Release
from anymamba.installer.step import InstallStep
from anymamba.language import _, ngettext

PIP = ("{python}", "-m", "pip")
# GB that one nvcc may take with one architecture: the backward kernels of the scan
JOB_GB = 3.0
# a quick and a slow machine against the one on which Release.minutes was measured
SPEEDS = (0.4, 1.6)
BUILD_TOOLS = ("setuptools>=61.0.0", "wheel", "packaging", "ninja")
_FORCE = {"mamba-ssm": "MAMBA_FORCE_BUILD", "causal-conv1d": "CAUSAL_CONV1D_FORCE_BUILD"}


def jobs(machine: Machine, builds: int = 1) -> int:
    """Compilers at a time in each of so many builds: one a core, and JOB_GB of memory for each."""
    by_memory = int((machine.memory_gb or JOB_GB) // (JOB_GB * builds))
    return max(1, min(machine.cores, by_memory))


def at_once(machine: Machine, releases: list[Release]) -> int:
    """How many builds run beside each other: all, where there is memory for a compiler in each."""
    enough = (machine.memory_gb or JOB_GB) >= JOB_GB * len(releases) and machine.kind != "windows"
    return len(releases) if enough else 1


def minutes(machine: Machine, releases: list[Release], architectures: int) -> tuple[float, float]:
    """(least, most) that builds beside each other take: files are shared out among the compilers, but the longest has one of them."""
    slots = min(machine.cores, len(releases) * jobs(machine, len(releases)))
    total, longest = sum(release.minutes[0] for release in releases), max(release.minutes[1] for release in releases)
    work = max(total / slots, longest) * max(1, architectures)
    return round(SPEEDS[0] * work, 1), round(SPEEDS[1] * work, 1)


def tools_step(origin: tuple[str, ...] = ()) -> InstallStep:
    """origin: pip's words for where packages come from."""
    return InstallStep(
        "tools",
        _("build requirements, in a folder of their own"),
        ((*PIP, "install", "--upgrade", *origin, "--target", "{work}/tools", *BUILD_TOOLS),),
    )


def narrow_step(architectures: list[int]) -> InstallStep:
    return InstallStep(
        "narrow",
        _("a stand-in for nvcc that compiles for {codes} only (torch takes it from PYTORCH_NVCC)").format(
            codes=", ".join(f"sm_{code}" for code in codes(architectures))
        ),
    )


def codes(architectures: list[int]) -> list[int]:
    """What to compile for: causal-conv1d computes wrongly on sm_103 when compiled for it by nvcc 13 (its issue 105)."""
    return sorted({100 if architecture == 103 else architecture for architecture in architectures})


def build_steps(machine: Machine, releases: list[Release], architectures: list[int], archives: dict[str, str]) -> list[InstallStep]:
    """architectures: none for ROCm. archives: package to a source archive of the user's."""
    builds = at_once(machine, releases)
    steps: list[InstallStep] = []
    for release in releases:
        together = releases if builds > 1 else [release]
        build = InstallStep(
            "build",
            "",
            environment=_environment(machine, release, architectures, builds),
            package=release.package,
            files=release.files,
            minutes=minutes(machine, together, len(architectures)),
            beside=builds > 1 and release is not releases[0],
        )
        steps += _release_steps(machine, release, build, archives.get(release.package))
    return steps


def _release_steps(machine: Machine, release: Release, build: InstallStep, archive: str | None) -> list[InstallStep]:
    title = ngettext(
        "compile {package} {release}: {files} source file",
        "compile {package} {release}: {files} source files",
        release.files,
    ).format(package=release.package, release=release.version, files=release.files)
    wheel = (*PIP, "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-cache-dir", "-w", "{work}/wheels")
    if archive:
        return [replace(build, title=title, commands=((*wheel, archive),))]
    if machine.kind == "windows" and release.package == "mamba-ssm":
        folder = "{work}/sources"
        fetch = (*PIP, "download", "--no-binary", ":all:", "--no-build-isolation", "--no-deps", "-d", folder)
        edit = InstallStep(
            "sources",
            _("fetch the sources and edit them for MSVC"),
            ((*fetch, _specification(release)), ("{python}", "{work}/edit_for_msvc.py", folder)),
            build.environment,
            release.package,
        )
        unpacked = f"{folder}/mamba_ssm-{release.version}"
        return [edit, replace(build, title=title, commands=((*wheel, unpacked),))]
    return [replace(build, title=title, commands=((*wheel, _specification(release)),))]


def explain(machine: Machine, releases: list[Release], architectures: list[int]) -> list[str]:
    """Why the build is set up like this."""
    builds = at_once(machine, releases)
    count = jobs(machine, builds)
    sentences = [
        _(
            "--no-build-isolation: compiled against the torch {torch} that is installed, not against a newer one that "
            "pip would fetch"
        ).format(torch=machine.torch["version"]),
        ngettext(
            "MAX_JOBS={count}: {cores} core, {memory_gb} GB of memory, {job_gb:.0f} GB a compiler",
            "MAX_JOBS={count}: {cores} cores, {memory_gb} GB of memory, {job_gb:.0f} GB a compiler",
            machine.cores,
        ).format(
            count=count,
            cores=machine.cores,
            memory_gb=machine.memory_gb if machine.memory_gb is not None else "?",
            job_gb=JOB_GB,
        ),
    ]
    if builds > 1:
        sentences.append(_("the packages are compiled at the same time: neither needs the other for it"))
    if architectures:
        sentences.append(
            _(
                "only compute capability {codes} is compiled. TORCH_CUDA_ARCH_LIST has no effect on these packages, "
                "because they pass a -gencode list of their own; a stand-in for nvcc replaces that list"
            ).format(codes=", ".join(capability(code) for code in codes(architectures)))
        )
    else:
        sentences.append(_("only this GPU's architecture is compiled (HIP_ARCHITECTURES)"))
    if machine.kind == "windows":
        sentences.append(
            _(
                "upstream does not support Windows: the sources are edited for MSVC as users have reported to work; "
                "whether this compiles with your Visual Studio is not known beforehand. WSL2 is the safer way"
            )
        )
    return sentences


def _specification(release: Release) -> str:
    if release.source:
        return f"{release.package}=={release.version}"
    # PyPI has no archive of these versions with sources in it
    return f"git+https://github.com/{REPOSITORIES[release.package]}@{release.published.tag}"


def _environment(machine: Machine, release: Release, architectures: list[int], builds: int) -> dict[str, str]:
    values = {_FORCE[release.package]: "TRUE", "MAX_JOBS": str(jobs(machine, builds)), "PYTHONPATH": "{work}/tools"}
    if release.package == "mamba-ssm" and release.version == "main":
        values["MAMBA_KEEP_CUDA_BUILD"] = "TRUE"
    paths = ["{work}/tools/bin"]
    if machine.kind == "windows":
        paths.append("{work}/tools/Scripts")
    if not architectures:
        values["HIP_ARCHITECTURES"] = ",".join(machine.facts["gpu"]["amd"]) or "native"
        if machine.facts["cuda"].get("rocm"):
            values["ROCM_PATH"] = machine.facts["cuda"]["rocm"]
    else:
        nvcc = machine.nvcc()
        assert nvcc is not None, "of_build refuses without"
        folder = ntpath if machine.kind == "windows" else posixpath
        home = nvcc.get("root") or folder.dirname(folder.dirname(nvcc["path"]))
        paths.insert(0, folder.join(home, "bin"))
        values["CUDA_HOME"] = home
        values["PYTORCH_NVCC"] = '"{python}" "{work}/nvcc_one_architecture.py"'
        values["ANYMAMBA_NVCC"] = folder.join(home, "bin", folder.basename(nvcc["path"]))
        values["ANYMAMBA_ARCH"] = ",".join(map(str, codes(architectures)))
        # conda and NVIDIA's own packages for cross compilation keep the headers elsewhere than torch looks
        headers = nvcc.get("headers")
        if headers and headers != folder.join(home, "include"):
            values["CPATH"] = headers
        if machine.kind != "windows":
            values.update(_host_compiler(machine, nvcc))
    if machine.kind == "windows":
        values["CUDA_PATH"] = values["CUDA_HOME"]
        values["CL"] = "/DWIN32_LEAN_AND_MEAN /D_USE_MATH_DEFINES"
    values["PATH"] = (";" if machine.kind == "windows" else ":").join(paths)
    return values


def _host_compiler(machine: Machine, nvcc: dict[str, str]) -> dict[str, str]:
    """Names an older g++ of this machine where nvcc does not accept the one that would be used."""
    usual, accepted = machine.gcc(), machine.accepted_gcc(nvcc["version"])
    if accepted is None or accepted == usual:
        return {}
    path = accepted["path"]
    return {"CC": path.replace("g++", "gcc"), "CXX": path, "NVCC_CCBIN": path}
