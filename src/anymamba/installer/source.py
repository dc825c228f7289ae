"""The steps of a build from source: against the user's torch, for one architecture, as parallel as memory allows."""

from __future__ import annotations

import ntpath
import posixpath

from anymamba.installer.machine import Machine
from anymamba.installer.refusal import capability
from anymamba.installer.releases import REPOSITORIES, Release
from anymamba.installer.step import Step
from anymamba.language import say

PIP = ("{python}", "-m", "pip")
# GB that one nvcc may take with one architecture: the backward kernels of the scan
JOB_GB = 3.0
# minutes that one source file takes with one architecture, from quick to slow cores; an estimate
FILE_MINUTES = (0.5, 2.5)
BUILD_TOOLS = ("setuptools>=61.0.0", "wheel", "packaging", "ninja")
_FORCE = {"mamba-ssm": "MAMBA_FORCE_BUILD", "causal-conv1d": "CAUSAL_CONV1D_FORCE_BUILD"}


def jobs(machine: Machine) -> int:
    """Compilers at a time: one a core, and JOB_GB of memory for each."""
    by_memory = int((machine.memory_gb or JOB_GB) // JOB_GB)
    return max(1, min(machine.cores, by_memory))


def tools_step() -> Step:
    return Step(
        "tools",
        say("build requirements, in a folder of their own", "构建依赖，放在单独的文件夹中"),
        ((*PIP, "install", "--upgrade", "--target", "{work}/tools", *BUILD_TOOLS),),
    )


def narrow_step(architecture: int) -> Step:
    return Step(
        "narrow",
        say(
            "a stand-in for nvcc that compiles for sm_{} only (torch takes it from PYTORCH_NVCC)",
            "一个代替 nvcc 的脚本，只为 sm_{} 编译（torch 从 PYTORCH_NVCC 读取）",
        ).format(architecture),
    )


def code_architecture(architecture: int) -> int:
    """What to compile for: causal-conv1d computes wrongly on sm_103 when compiled for it by nvcc 13 (its issue 105)."""
    return 100 if architecture == 103 else architecture


def build_steps(machine: Machine, release: Release, architecture: int | None) -> list[Step]:
    """architecture: None for ROCm."""
    environment = _environment(machine, release, architecture)
    title = say("compile {} {}: {} source files", "编译 {} {}：{} 个源文件").format(
        release.package, release.version, release.files
    )
    wheel = (*PIP, "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-cache-dir", "-w", "{work}/wheels")
    if machine.kind == "windows" and release.package == "mamba-ssm":
        folder = "{work}/sources"
        fetch = (*PIP, "download", "--no-binary", ":all:", "--no-build-isolation", "--no-deps", "-d", folder)
        edit = Step(
            "sources",
            say("fetch the sources and edit them for MSVC", "获取源码并针对 MSVC 修改"),
            ((*fetch, _specification(release)), ("{python}", "{work}/edit_for_msvc.py", folder)),
            environment,
            release.package,
        )
        unpacked = f"{folder}/mamba_ssm-{release.version}"
        return [edit, Step("build", title, ((*wheel, unpacked),), environment, release.package, files=release.files)]
    return [
        Step("build", title, ((*wheel, _specification(release)),), environment, release.package, files=release.files)
    ]


def explain(machine: Machine, architecture: int | None) -> list[str]:
    """Why the build is set up like this."""
    count = jobs(machine)
    said = [
        say(
            "--no-build-isolation: compiled against the torch {} that is installed, not against a newer one that pip would fetch",
            "--no-build-isolation：针对已安装的 torch {} 编译，而不是 pip 另行下载的新版本",
        ).format(machine.torch["version"]),
        say(
            "MAX_JOBS={}: {} cores, {} GB of memory, {:.0f} GB a compiler",
            "MAX_JOBS={}：{} 个核心，{} GB 内存，每个编译进程 {:.0f} GB",
        ).format(count, machine.cores, machine.memory_gb if machine.memory_gb is not None else "?", JOB_GB),
    ]
    if architecture is not None:
        said.append(
            say(
                "only compute capability {} is compiled. TORCH_CUDA_ARCH_LIST has no effect on these packages, because they pass"
                " a -gencode list of their own; a stand-in for nvcc replaces that list",
                "只为计算能力 {} 编译。TORCH_CUDA_ARCH_LIST 对这些包无效，因为它们自带 -gencode 列表；这里用一个代替 nvcc 的脚本替换该列表",
            ).format(capability(code_architecture(architecture)))
        )
    else:
        said.append(
            say(
                "only this GPU's architecture is compiled (HIP_ARCHITECTURES)",
                "只为本机显卡的架构编译（HIP_ARCHITECTURES）",
            )
        )
    if machine.kind == "windows":
        said.append(
            say(
                "upstream does not support Windows: the sources are edited for MSVC as users have reported to work; whether"
                " this compiles with your Visual Studio is not known beforehand. WSL2 is the safer way",
                "上游不支持 Windows：源码按用户报告的可行方法针对 MSVC 修改，事先无法确定能否用你的 Visual Studio 编译成功。WSL2 更稳妥",
            )
        )
    return said


def _specification(release: Release) -> str:
    if release.source:
        return f"{release.package}=={release.version}"
    # the archives of these versions on PyPI hold no sources
    ref = "main" if release.version == "main" else "v" + release.version
    return f"git+https://github.com/{REPOSITORIES[release.package]}@{ref}"


def _environment(machine: Machine, release: Release, architecture: int | None) -> dict[str, str]:
    values = {_FORCE[release.package]: "TRUE", "MAX_JOBS": str(jobs(machine)), "PYTHONPATH": "{work}/tools"}
    if release.package == "mamba-ssm" and release.version == "main":
        values["MAMBA_KEEP_CUDA_BUILD"] = "TRUE"
    paths = ["{work}/tools/bin"]
    if machine.kind == "windows":
        paths.append("{work}/tools/Scripts")
    if architecture is None:
        values["HIP_ARCHITECTURES"] = ",".join(machine.facts["gpu"]["amd"]) or "native"
        if machine.facts["cuda"].get("rocm"):
            values["ROCM_PATH"] = machine.facts["cuda"]["rocm"]
    else:
        nvcc = machine.nvcc()
        assert nvcc is not None, "of_build refuses without"
        folder = ntpath if machine.kind == "windows" else posixpath
        home = folder.dirname(folder.dirname(nvcc["path"]))
        paths.insert(0, folder.join(home, "bin"))
        values["CUDA_HOME"] = home
        values["PYTORCH_NVCC"] = '"{python}" "{work}/nvcc_one_architecture.py"'
        values["ANYMAMBA_NVCC"] = nvcc["path"]
        values["ANYMAMBA_ARCH"] = str(code_architecture(architecture))
    if machine.kind == "windows":
        values["CUDA_PATH"] = values["CUDA_HOME"]
        values["CL"] = "/DWIN32_LEAN_AND_MEAN /D_USE_MATH_DEFINES"
    values["PATH"] = (";" if machine.kind == "windows" else ":").join(paths)
    return values
