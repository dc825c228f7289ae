"""What makes a plan stop before anything is built, with the reason and the way out."""

from __future__ import annotations

from anymamba.doctor.compat.building import SINCE, capability
from anymamba.installer.machine import OLDEST_GCC, Machine, number
from anymamba.installer.releases import Release, versions
from anymamba.installer.step import Refusal
from anymamba.language import say

# GB on disk that a build takes; most of it temporary objects
BUILD_DISK = 3.0
_INSTEAD = ("anymamba demo", "anymamba dropin --help")


def of_machine(machine: Machine) -> Refusal | None:
    """What no route can get round."""
    if machine.kind == "macos":
        return Refusal(
            "macos",
            say(
                "mamba-ssm and causal-conv1d need CUDA or ROCm; macOS has neither",
                "mamba-ssm 与 causal-conv1d 需要 CUDA 或 ROCm，macOS 两者都没有",
            ),
            say(
                "use anymamba's own kernels; the drop-in serves programs that import mamba_ssm",
                "使用 anymamba 自带的内核；替身模块可服务于导入 mamba_ssm 的程序",
            ),
            _INSTEAD,
        )
    if machine.facts["python"].get("environment") == "system, externally managed":
        return Refusal(
            "externally-managed",
            say(
                "this Python belongs to the operating system, and pip refuses to install into it",
                "该 Python 由操作系统管理，pip 拒绝在其中安装",
            ),
            say(
                "work in an environment of your own; torch goes into it first",
                "请使用自己的环境，并先在其中安装 torch",
            ),
            ("python3 -m venv ~/mamba", "source ~/mamba/bin/activate"),
        )
    if machine.torch_kind == "missing":
        return Refusal(
            "torch-missing",
            say(
                "torch is not installed here, and these packages are compiled against it",
                "没有安装 torch，而这些包须针对它编译",
            ),
            say("install the CUDA build of torch first", "请先安装 CUDA 版 torch"),
            ("pip install torch --index-url https://download.pytorch.org/whl/cu128",),
        )
    if machine.torch_kind == "cpu":
        return _cpu_torch(machine)
    return None


def _cpu_torch(machine: Machine) -> Refusal:
    version = machine.torch["version"]
    reason = say(
        "torch {} is a CPU build: it has no CUDA for these packages to be compiled against, and it is not replaced without you",
        "torch {} 是 CPU 版：没有可供这些包编译的 CUDA；安装器不会擅自替换它",
    ).format(version)
    if not machine.facts["gpu"]["nvidia"]:
        return Refusal(
            "cpu-torch",
            reason,
            say(
                "this machine shows no GPU either, so the packages could not run: use anymamba's own kernels",
                "本机也没有可见的显卡，这些包无法运行：请使用 anymamba 自带的内核",
            ),
            _INSTEAD,
        )
    return Refusal(
        "cpu-torch",
        reason,
        say("install a CUDA build of torch yourself, then call this again", "请自行安装 CUDA 版 torch，然后重新运行"),
        ("pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128",),
    )


def of_release(machine: Machine, package: str, release: Release | None, wanted: str | None) -> Refusal | None:
    """What a release cannot do on this machine by any route."""
    if release is None:
        return Refusal(
            "version",
            say("{} {} is not a release that the installer knows", "安装器不认识 {} {} 这个版本").format(
                package, wanted
            ),
            say("choose one of: {}", "可选：{}").format(", ".join(versions(package))),
        )
    if release.triton and (0, 0) != machine.triton < release.triton:
        return Refusal(
            "triton-pin",
            say(
                "{} {} needs triton {}.{} or newer, and torch {} holds triton at {}.{}: it cannot be had without replacing torch",
                "{} {} 需要 triton {}.{} 或更新，而 torch {} 固定使用 triton {}.{}：不替换 torch 就无法满足",
            ).format(package, release.version, *release.triton, machine.torch["version"], *machine.triton),
            say("take mamba-ssm 2.3.1", "请改用 mamba-ssm 2.3.1"),
            ("anymamba install mamba-ssm --version 2.3.1",),
        )
    return None


def of_gpu(release: Release, architecture: int | None) -> Refusal | None:
    """A GPU that neither the release's wheels nor its sources are made for."""
    if architecture is None:
        return None
    if architecture < release.oldest_arch or architecture in (60, 61):
        return Refusal(
            "gpu-too-old",
            say("no code of {} {} exists for compute capability {}", "{} {} 没有适用于计算能力 {} 的代码").format(
                release.package, release.version, capability(architecture)
            ),
            say("use anymamba's own kernels on this GPU", "请在该显卡上使用 anymamba 自带的内核"),
            _INSTEAD,
        )
    return None


def of_build(machine: Machine, release: Release, architecture: int | None) -> Refusal | None:
    """What stops a build from source on an NVIDIA machine."""
    major = machine.torch_cuda[0]
    nvcc = machine.nvcc()
    if nvcc is None:
        return _no_nvcc(machine)
    if architecture is None:
        return Refusal(
            "no-gpu",
            say("no GPU is visible, so it is not known what to compile for", "看不到显卡，无法确定为哪种架构编译"),
            say("name the compute capability of the GPU that will be used", "请指明将要使用的显卡的计算能力"),
            (f"anymamba install {release.package} --arch 8.6",),
        )
    since = next((version for sm, version in SINCE if architecture >= sm), (10, 0))
    found = number(nvcc["version"])
    if found < since or (architecture < 75 and found >= (13, 0)):
        return Refusal(
            "nvcc-gpu",
            say("nvcc {} cannot compile for compute capability {}", "nvcc {} 无法为计算能力 {} 编译").format(
                nvcc["version"], capability(architecture)
            ),
            say(
                "install CUDA toolkit {} of torch's major version {}",
                "请安装 CUDA 工具包 {}（与 torch 的主版本 {} 一致）",
            ).format("{}.{}".format(*since) if found < since else "12.9", major),
        )
    if "headers" in nvcc and nvcc["headers"] is None:
        return Refusal(
            "cuda-headers-missing",
            say(
                "the CUDA toolkit of {} is incomplete: cuda_runtime.h is missing",
                "{} 所属的 CUDA 工具包不完整：缺少 cuda_runtime.h",
            ).format(nvcc["path"]),
            say("install the whole toolkit {}", "请安装完整的工具包 {}").format(nvcc["version"]),
            (_toolkit_command(machine, nvcc["version"]),),
        )
    return _host_compiler(machine, nvcc) or _disk(machine)


def of_rocm_build(machine: Machine, release: Release) -> Refusal | None:
    if not machine.facts["cuda"].get("hipcc"):
        return Refusal(
            "hipcc-missing",
            say("hipcc, the compiler of ROCm, is not there", "找不到 ROCm 的编译器 hipcc"),
            say("install ROCm's development files", "请安装 ROCm 的开发文件"),
            ("sudo apt-get install hip-dev hipcc rocm-device-libs",),
        )
    if (
        number(machine.torch.get("hip")) >= (7, 0)
        and release.package == "mamba-ssm"
        and release.version not in ("2.3.1", "2.3.2.post1", "main")
    ):
        return Refusal(
            "rocm7",
            say("{} {} does not compile with ROCm 7", "{} {} 无法用 ROCm 7 编译").format(
                release.package, release.version
            ),
            say("take mamba-ssm 2.3.1 or newer", "请使用 mamba-ssm 2.3.1 或更新版本"),
        )
    return _disk(machine)


def _no_nvcc(machine: Machine) -> Refusal:
    cuda = machine.torch["cuda"]
    there = ", ".join(item["version"] for item in machine.facts["cuda"]["nvccs"] if item["version"])
    if there:
        reason = say(
            "torch is built for CUDA {}, and the nvcc here is {}", "torch 针对 CUDA {} 构建，而本机的 nvcc 为 {}"
        ).format(cuda, there)
    else:
        reason = say("there is no nvcc (CUDA compiler) on this machine", "本机没有 nvcc（CUDA 编译器）")
    return Refusal(
        "nvcc-missing",
        reason,
        say(
            "install the CUDA toolkit {} (same major version as torch's CUDA)",
            "请安装 CUDA 工具包 {}（主版本须与 torch 的 CUDA 相同）",
        ).format(cuda),
        (
            _toolkit_command(machine, cuda),
            "conda install -c nvidia cuda-toolkit={}".format(".".join(cuda.split(".")[:2])),
        ),
    )


def _toolkit_command(machine: Machine, cuda: str) -> str:
    if machine.kind == "windows":
        return f"winget install Nvidia.CUDA --version {cuda}"
    return "sudo apt-get install cuda-toolkit-{}-{}".format(*number(cuda))


def _host_compiler(machine: Machine, nvcc: dict[str, str]) -> Refusal | None:
    if machine.kind == "windows":
        if machine.facts["compiler"].get("msvc"):
            return None
        return Refusal(
            "msvc-missing",
            say("the C++ compiler of Visual Studio is not there", "找不到 Visual Studio 的 C++ 编译器"),
            say(
                "install the Build Tools with “Desktop development with C++”",
                "请安装 Build Tools，勾选“使用 C++ 的桌面开发”",
            ),
            ("winget install Microsoft.VisualStudio.2022.BuildTools",),
        )
    gcc = machine.gcc()
    if machine.accepted_gcc(nvcc["version"]):
        return None
    if gcc is None:
        return Refusal(
            "gcc-missing",
            say("g++ is not there", "找不到 g++"),
            say("install it", "请安装"),
            ("sudo apt-get install build-essential",),
        )
    limit = machine.gcc_limit(nvcc["version"])
    if limit and gcc["major"] >= limit:
        newest = limit - 1
        return Refusal(
            "gcc-too-new",
            say("nvcc {} accepts g++ up to {}, here is {}", "nvcc {} 最高支持 g++ {}，本机为 {}").format(
                nvcc["version"], newest, gcc["version"]
            ),
            say("install an older one beside it and name it", "请并行安装较旧版本并指定"),
            (f"sudo apt-get install g++-{newest}", f"export CC=gcc-{newest} CXX=g++-{newest} NVCC_CCBIN=g++-{newest}"),
        )
    if gcc["major"] < OLDEST_GCC:
        return Refusal(
            "gcc-too-old",
            say("torch's headers need g++ 9 or newer, here is {}", "torch 的头文件需要 g++ 9 或更新，本机为 {}").format(
                gcc["version"]
            ),
            say("install a newer one and name it", "请安装较新版本并指定"),
            ("sudo apt-get install g++-12", "export CC=gcc-12 CXX=g++-12"),
        )
    return None


def _disk(machine: Machine) -> Refusal | None:
    if machine.free_gb is None or machine.free_gb >= BUILD_DISK:
        return None
    return Refusal(
        "disk",
        say(
            "the build takes about {} GB of temporary space, {} GB are free", "构建约需 {} GB 临时空间，剩余 {} GB"
        ).format(BUILD_DISK, machine.free_gb),
        say("free some space, or point TMPDIR to another disk", "请释放空间，或将 TMPDIR 指向其他磁盘"),
    )
