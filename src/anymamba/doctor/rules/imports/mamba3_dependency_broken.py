"""One of Mamba-3's dependencies does not import, and import mamba_ssm fails with it."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import LIKELY, ONLY_OFFICIAL, Against, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM102",
    cause="mamba3-dependency-broken",
    order=537,
    title=Text(
        "a package that mamba-ssm's Mamba-3 uses (tilelang, apache-tvm-ffi, quack-kernels, nvidia-cutlass-dsl) "
        "is missing or does not fit",
        "mamba-ssm 的 Mamba-3 所用的某个包（tilelang、apache-tvm-ffi、quack-kernels、nvidia-cutlass-dsl）缺失或版"
        "本不符",
    ),
    why=Text(
        "Since 2.3.2 `import mamba_ssm` also imports Mamba-3, which needs these packages in versions that fit "
        "each other: quack-kernels 0.3.4 and newer uses names that newer nvidia-cutlass-dsl removed, tilelang "
        "0.1.8 needs apache-tvm-ffi 0.1.9 or older. Mamba-1 and Mamba-2 need none of them.",
        "自 2.3.2 起，`import mamba_ssm` 会同时导入 Mamba-3，它要求这些包的版本相互匹配：quack-kernels 使用的名称"
        "在新版 nvidia-cutlass-dsl 中已删除，tilelang 0.1.8 需要 0.1.9 及以前的 apache-tvm-ffi。Mamba-1 与 "
        "Mamba-2 都不需要它们。",
    ),
    needed=ONLY_OFFICIAL,
    signatures=(
        Signature(
            r"(?:ModuleNotFoundError|ImportError): No module named '?(?:quack|cutlass|tilelang|tvm_ffi"
            r"|tvm)(?:\.[\w.]+)?'?", bare=True,
        ),
        Signature(r"cannot import name '\w+' from '(?:quack|cutlass|tilelang|tvm_ffi|tvm)[\w.]*'", bare=True),
        Signature(r"module '(?:quack|cutlass|tilelang|tvm_ffi|tvm)[\w.]*' has no attribute '\w+'", bare=True),
        Signature(
            r"(?:[\\/]quack[\\/]|nvidia_cutlass_dsl|[\\/]cutlass[\\/]|[\\/]tilelang[\\/])(?:."
            r"|\n){0,500}?\w+Error: [^\n]*", confidence=LIKELY,
        ),
        Signature(
            r"OSError: [^\n]*(?:tilelang|libtvm|tvm_ffi)[^\n]*cannot open shared object"
            r"|OSError: [^\n]*(?:libtvm\w*|libtilelang\w*)\.so",
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "Without Mamba-3: the release before, which needs none of them.",
                "不需要 Mamba-3 时：使用不依赖它们的前一个版本。",
            ),
            (
                "pip uninstall -y mamba-ssm",
                "pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",
            ),
        ),
        Remedy(
            Text(
                "With Mamba-3: the versions that mamba-ssm 2.3.2.post1 was made with.",
                "需要 Mamba-3 时：安装 mamba-ssm 2.3.2.post1 所配套的版本。",
            ),
            (
                'pip install "tilelang==0.1.8" "apache-tvm-ffi<=0.1.9" "quack-kernels==0.6.1"',
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    explains=("broken-package-reported-missing",),
    links=("https://github.com/state-spaces/mamba/pull/863", "https://github.com/NVIDIA-NeMo/labs-molt/pull/34",),
    against=(
        Against(r"[\\/](?:vllm|sglang|flash_attn|tensorrt_llm)[\\/]", near=6),
    ),
)
