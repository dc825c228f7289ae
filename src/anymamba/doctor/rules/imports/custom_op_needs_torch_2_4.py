"""causal-conv1d 1.5.1 on an older torch."""

from __future__ import annotations

from anymamba.doctor.rule import ONLY_OFFICIAL, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM107",
    cause="custom-op-needs-torch-2-4",
    order=523,
    title=Text(
        "this causal-conv1d or mamba-ssm needs torch 2.4 or newer",
        "该 causal-conv1d 或 mamba-ssm 需要 torch 2.4 或更高版本",
    ),
    why=Text(
        "causal-conv1d 1.5.1 and newer register their functions with torch.library.custom_op, and mamba-ssm "
        "2.2.5 and newer use them; torch has that since 2.4.",
        "causal-conv1d 1.5.1 及以后用 torch.library.custom_op 注册函数，mamba-ssm 2.2.5 及以后依赖它；torch 自 "
        "2.4 起才有该接口。",
    ),
    needed=ONLY_OFFICIAL,
    signatures=(
        Signature(
            r"module 'torch\.library' has no attribute '(?:custom_op|register_fake|triton_op"
            r"|register_autograd)'", bare=True,
        ),
        Signature(
            r"module 'torch\.amp' has no attribute 'custom_(?:fwd|bwd)'|cannot import name 'custom_(?:fwd"
            r"|bwd)' from 'torch\.amp'", bare=True,
        ),
        Signature(r"custom_(?:fwd|bwd)\(\) got an unexpected keyword argument 'device_type'", bare=True),
    ),
    remedies=(
        Remedy(
            Text(
                "With this torch: the releases made for it.",
                "保留当前 torch：使用与它配套的版本。",
            ),
            (
                "pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir "
                "causal-conv1d=={conv2} mamba-ssm=={mamba2}",
            ),
        ),
        Remedy(
            Text(
                "Or a newer torch, and both packages for it.",
                "或升级 torch，并安装与之配套的两个包。",
            ),
            (
                "pip install --force-reinstall torch=={torch2} --index-url "
                "https://download.pytorch.org/whl/{cuda2}",
                "pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir "
                "causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",
            ),
        ),
    ),
    explains=("broken-package-reported-missing", "transformers-fast-path-warning",),
)
