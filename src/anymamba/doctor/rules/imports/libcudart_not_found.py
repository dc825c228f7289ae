"""The wheel wants another CUDA major version."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import advice
from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Signature,
    Text,
    match_signatures,
)


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log,
        (
            Signature(r"ImportError: libcudart\.so\.[\d.]+: cannot open shared object file", bare=True),
            Signature(
                r"libcudart\.so\.\d+[\d.]*(?:: cannot open shared object file| => not found|: 无法打开共享[对目]象文件)"
            ),
            Signature(
                r"libc10_cuda\.so: cannot open shared object file|libtorch\w*\.so: cannot open shared object file"
            ),
        ),
    )
    if match and log.has(r"(?:bitsandbytes|tensorflow|jax)[^\n]*libcudart") and match.confidence != CERTAIN:
        return None
    return match


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    errors = [error for error in facts["packages"]["errors"].values() if "libcudart" in error]
    return Match((), CERTAIN, None, tuple(errors)) if errors else None


RULE = Rule(
    code="AM044",
    cause="libcudart-not-found",
    order=412,
    title=Text(
        "the compiled part wants the libraries of another CUDA version", "该包的编译部分需要另一个 CUDA 版本的运行库"
    ),
    why=Text(
        "libcudart.so.11.0, .12 or .13 names the CUDA that the wheel was built with. When torch has another major"
        " version, the wrong wheel was installed (an isolated build does that)."
        " When it is the same, torch must be imported first, because it brings the library.",
        "libcudart.so.11.0、.12、.13 表示该 wheel 构建时的 CUDA 版本。若 torch 的主版本不同，说明装错了 wheel（隔离"
        "构建会导致这种情况）；若相同，则须先导入 torch，因为库由它带来。",
    ),
    needed=OPTIONAL,
    log=_log,
    machine=_machine,
    remedies=(
        Remedy(
            Text("Compare.", "比较两者。"), ('python -c "import torch; print(torch.__version__, torch.version.cuda)"',)
        ),
        advice.RIGHT_WHEEL,
        Remedy(
            Text(
                "The same major version: let the loader find torch's library.",
                "主版本相同：让加载器找到 torch 自带的库。",
            ),
            (
                "export LD_LIBRARY_PATH=$(python -c 'import nvidia.cuda_runtime as m, os;"
                ' print(os.path.join(list(m.__path__)[0], "lib"))\'):$LD_LIBRARY_PATH',
            ),
            systems=("linux", "wsl"),
        ),
    ),
    explains=("broken-package-reported-missing", "transformers-fast-path-warning"),
    links=("https://github.com/state-spaces/mamba/issues/706", "https://github.com/state-spaces/mamba/issues/450"),
)
