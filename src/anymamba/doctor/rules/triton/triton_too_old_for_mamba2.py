"""Mamba-2's kernels on Triton 2.0."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import LIKELY, OPTIONAL, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM097",
    cause="triton-too-old-for-mamba2",
    order=608,
    title=Text(
        "this Triton is too old for the kernels of Mamba-2, which take 2.1 or newer",
        "该 Triton 版本太旧，Mamba-2 的内核需要 2.1 或更高版本",
    ),
    why=Text(
        "torch 2.0 brings triton 2.0, which lacks tl.cumsum and typed pointers that mamba-ssm 2.x uses. A newer "
        "Triton comes with a newer torch; Mamba-1 does not need it.",
        "torch 2.0 自带 triton 2.0，缺少 mamba-ssm 2.x 使用的 tl.cumsum 等功能。升级 torch 会带来新的 Triton；"
        "Mamba-1 不需要它。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(
            r"module 'triton\.language' has no attribute '(?:cumsum|associative_scan|static_range|softplus"
            r"|reduce|make_block_ptr)'", bare=True,
        ),
        Signature(
            r"IncompatibleTypeErrorImpl\('invalid operands of type pointer<int64> and triton\.language\.int32"
            r"'\)", bare=True,
        ),
        Signature(r"File .<string>., line \d+, in _(?:chunk|state|bmm|mamba)\w*_kernel\s+KeyError: \('2-\.-0-\.-0-", own=True),
        Signature(r"module 'triton' has no attribute '(?:language|jit|autotune|heuristics|Config)'"),
        Signature(
            r"(?:autotune|JITFunction)\S*\(\) got an unexpected keyword argument '(?:pre_hook|restore_value"
            r"|prune_configs_by|do_not_specialize)'", confidence=LIKELY,
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "A newer torch brings its Triton; both packages have wheels for this one.",
                "升级 torch 会带来对应的 Triton；两个包都有适用于它的 wheel。",
            ),
            (
                "pip install --force-reinstall torch=={torch2} --index-url "
                "https://download.pytorch.org/whl/{cuda2}",
                "pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",
            ),
        ),
        Remedy(
            Text(
                "Or keep torch 2.0 and take a newer Triton alone.",
                "或保留 torch 2.0，只升级 Triton。",
            ),
            (
                'pip install --no-deps "triton==2.1.0"',
            ),
            systems=("linux", "wsl"),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/366", "https://github.com/state-spaces/mamba/issues/384",),
)
