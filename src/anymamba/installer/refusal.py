"""What makes a plan stop before anything is built, with the reason and the way out."""

from __future__ import annotations

from anymamba.doctor.compat.building import SINCE, capability
from anymamba.installer.machine import OLDEST_GCC, Machine, number
from anymamba.installer.releases import Release, versions
from anymamba.installer.step import Refusal
from anymamba.language import _

# GB on disk that a build takes; most of it temporary objects
BUILD_DISK = 3.0
_INSTEAD = ("anymamba demo", "anymamba dropin --help")


def of_machine(machine: Machine) -> Refusal | None:
    """What no route can get round."""
    if machine.kind == "macos":
        return Refusal(
            "macos",
            _("mamba-ssm and causal-conv1d need CUDA or ROCm; macOS has neither"),
            _("use anymamba's own kernels; the drop-in serves programs that import mamba_ssm"),
            _INSTEAD,
        )
    if machine.facts["python"].get("environment") == "system, externally managed":
        return Refusal(
            "externally-managed",
            _("this Python belongs to the operating system, and pip refuses to install into it"),
            _("work in an environment of your own; torch goes into it first"),
            ("python3 -m venv ~/mamba", "source ~/mamba/bin/activate"),
        )
    if machine.torch_kind == "missing":
        return Refusal(
            "torch-missing",
            _("torch is not installed here, and these packages are compiled against it"),
            _("install the CUDA build of torch first"),
            ("pip install torch --index-url https://download.pytorch.org/whl/cu128",),
        )
    if machine.torch_kind == "cpu":
        return _cpu_torch(machine)
    return None


def _cpu_torch(machine: Machine) -> Refusal:
    version = machine.torch["version"]
    reason = _(
        "torch {version} is a CPU build: it has no CUDA for these packages to be compiled against, and it is not "
        "replaced without you"
    ).format(version=version)
    if not machine.facts["gpu"]["nvidia"]:
        return Refusal(
            "cpu-torch",
            reason,
            _("this machine shows no GPU either, so the packages could not run: use anymamba's own kernels"),
            _INSTEAD,
        )
    return Refusal(
        "cpu-torch",
        reason,
        _("install a CUDA build of torch yourself, then call this again"),
        ("pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128",),
    )


def of_release(machine: Machine, package: str, release: Release | None, wanted: str | None) -> Refusal | None:
    """What a release cannot do on this machine by any route."""
    if release is None:
        return Refusal(
            "version",
            _("{package} {expected} is not a release that the installer knows").format(
                package=package, expected=wanted
            ),
            _("choose one of: {versions}").format(versions=", ".join(versions(package))),
        )
    if release.triton and (0, 0) != machine.triton < release.triton:
        return Refusal(
            "triton-pin",
            _(
                "{package} {release} needs triton {triton_major}.{triton_minor} or newer, and torch {torch} holds "
                "triton at {held_major}.{held_minor}: it cannot be had without replacing torch"
            ).format(
                package=package,
                release=release.version,
                triton_major=release.triton[0],
                triton_minor=release.triton[1],
                torch=machine.torch["version"],
                held_major=machine.triton[0],
                held_minor=machine.triton[1],
            ),
            _("take mamba-ssm 2.3.1"),
            ("anymamba install mamba-ssm --version 2.3.1",),
        )
    return None


def offline(release: Release) -> Refusal:
    """Neither a fitting wheel nor the sources are at hand, and nothing may be fetched."""
    return Refusal(
        "offline",
        _("--offline: the folder of --find-links has neither a fitting wheel nor the source archive of {package} {release}").format(
            package=release.package, release=release.version
        ),
        _("fetch one where there is a network, and put it into that folder"),
        (f"pip download --no-deps --no-binary :all: --no-build-isolation {release.package}=={release.version}",),
    )


def of_gpu(release: Release, architecture: int | None) -> Refusal | None:
    """A GPU that neither the release's wheels nor its sources are made for."""
    if architecture is None:
        return None
    if architecture < release.oldest_arch or architecture in (60, 61):
        return Refusal(
            "gpu-too-old",
            _("no code of {package} {release} exists for compute capability {capability}").format(
                package=release.package, release=release.version, capability=capability(architecture)
            ),
            _("use anymamba's own kernels on this GPU"),
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
            _("no GPU is visible, so it is not known what to compile for"),
            _("name the compute capability of the GPU that will be used"),
            (f"anymamba install {release.package} --arch 8.6",),
        )
    since = next((version for sm, version in SINCE if architecture >= sm), (10, 0))
    nvcc_version = number(nvcc["version"])
    if nvcc_version < since or (architecture < 75 and nvcc_version >= (13, 0)):
        return Refusal(
            "nvcc-gpu",
            _("nvcc {nvcc} cannot compile for compute capability {capability}").format(
                nvcc=nvcc["version"], capability=capability(architecture)
            ),
            _("install CUDA toolkit {toolkit} of torch's major version {major}").format(
                toolkit="{}.{}".format(*since) if nvcc_version < since else "12.9", major=major
            ),
        )
    if "headers" in nvcc and nvcc["headers"] is None:
        return Refusal(
            "cuda-headers-missing",
            _("the CUDA toolkit of {path} is incomplete: cuda_runtime.h is missing").format(path=nvcc["path"]),
            _("install the whole toolkit {nvcc}").format(nvcc=nvcc["version"]),
            (_toolkit_command(machine, nvcc["version"]),),
        )
    return _host_compiler(machine, nvcc) or _disk(machine)


def of_rocm_build(machine: Machine, release: Release) -> Refusal | None:
    if not machine.facts["cuda"].get("hipcc"):
        return Refusal(
            "hipcc-missing",
            _("hipcc, the compiler of ROCm, is not there"),
            _("install ROCm's development files"),
            ("sudo apt-get install hip-dev hipcc rocm-device-libs",),
        )
    if (
        number(machine.torch.get("hip")) >= (7, 0)
        and release.package == "mamba-ssm"
        and release.version not in ("2.3.1", "2.3.2.post1", "main")
    ):
        return Refusal(
            "rocm7",
            _("{package} {release} does not compile with ROCm 7").format(
                package=release.package, release=release.version
            ),
            _("take mamba-ssm 2.3.1 or newer"),
        )
    return _disk(machine)


def _no_nvcc(machine: Machine) -> Refusal:
    cuda = machine.torch["cuda"]
    there = ", ".join(item["version"] for item in machine.facts["cuda"]["nvccs"] if item["version"])
    if there:
        reason = _("torch is built for CUDA {cuda}, and the nvcc here is {version}").format(cuda=cuda, version=there)
    else:
        reason = _("there is no nvcc (CUDA compiler) on this machine")
    return Refusal(
        "nvcc-missing",
        reason,
        _("install the CUDA toolkit {cuda} (same major version as torch's CUDA)").format(cuda=cuda),
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
            _("the C++ compiler of Visual Studio is not there"),
            _("install the Build Tools with “Desktop development with C++”"),
            ("winget install Microsoft.VisualStudio.2022.BuildTools",),
        )
    gcc = machine.gcc()
    if machine.accepted_gcc(nvcc["version"]):
        return None
    if gcc is None:
        return Refusal(
            "gcc-missing",
            _("g++ is not there"),
            _("install it"),
            ("sudo apt-get install build-essential",),
        )
    limit = machine.gcc_limit(nvcc["version"])
    if limit and gcc["major"] >= limit:
        newest = limit - 1
        return Refusal(
            "gcc-too-new",
            _("nvcc {nvcc} accepts g++ up to {newest}, here is {gcc}").format(
                nvcc=nvcc["version"], newest=newest, gcc=gcc["version"]
            ),
            _("install an older one beside it and name it"),
            (f"sudo apt-get install g++-{newest}", f"export CC=gcc-{newest} CXX=g++-{newest} NVCC_CCBIN=g++-{newest}"),
        )
    if gcc["major"] < OLDEST_GCC:
        return Refusal(
            "gcc-too-old",
            _("torch's headers need g++ 9 or newer, here is {gcc}").format(gcc=gcc["version"]),
            _("install a newer one and name it"),
            ("sudo apt-get install g++-12", "export CC=gcc-12 CXX=g++-12"),
        )
    return None


def _disk(machine: Machine) -> Refusal | None:
    if machine.free_gb is None or machine.free_gb >= BUILD_DISK:
        return None
    return Refusal(
        "disk",
        _("the build takes about {needed} GB of temporary space, {free_gb} GB are free").format(
            needed=BUILD_DISK, free_gb=machine.free_gb
        ),
        _("free some space, or point TMPDIR to another disk"),
    )
