"""transformers wants a newer torch."""

from __future__ import annotations

from anymamba.doctor.rule import (
    LIKELY,
    NECESSARY,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM052",
    cause="transformers-too-new-for-torch",
    order=522,
    title=Text("this transformers is too new for the installed torch", "该 transformers 对已安装的 torch 来说太新"),
    why=Text(
        "New transformers call functions that torch 2.0 and 2.1 do not have.",
        "新版 transformers 会调用 torch 2.0、2.1 所没有的函数。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(r"module 'torch\.utils\._pytree' has no attribute 'register_pytree_node'"),
        Signature(r"Disabling PyTorch because PyTorch >= ?\d\.\d+ is required but found"),
        Signature(
            r"module 'torch\.\w+(?:\.\w+)*' has no attribute '(?:float8_e\w+|get_default_device|DeviceMesh)'|cannot"
            r" import name 'DeviceMesh' from 'torch",
            confidence=LIKELY,
        ),
    ),
    remedies=(
        Remedy(
            Text("An older transformers for torch 2.1.", "torch 2.1 请用较旧的 transformers。"),
            ("pip install transformers==4.38.2",),
        ),
        Remedy(
            Text("Or a newer torch, then reinstall the packages for it.", "或升级 torch，再针对它重新安装这两个包。"),
            (
                "pip install --force-reinstall torch=={torch2} --index-url https://download.pytorch.org/whl/{cuda2}",
                "pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",
            ),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/297",),
)
