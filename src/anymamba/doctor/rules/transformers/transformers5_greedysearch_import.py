"""transformers removed a name that old releases import."""

from __future__ import annotations

from anymamba.doctor.rule import (
    ONLY_OFFICIAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM051",
    cause="transformers5-greedysearch-import",
    order=520,
    title=Text(
        "this mamba-ssm imports a name that newer transformers no longer has",
        "该 mamba-ssm 导入了新版 transformers 已删除的名称",
    ),
    why=Text(
        "mamba-ssm up to 2.2.6.post3 imports GreedySearchDecoderOnlyOutput from transformers.generation; 2.3.0 uses"
        " the new name.",
        "mamba-ssm 2.2.6.post3 及以前从 transformers.generation 导入 GreedySearchDecoderOnlyOutput；2.3.0 已改用新"
        "名称。",
    ),
    needed=ONLY_OFFICIAL,
    signatures=(
        Signature(
            r"cannot import name '(?:GreedySearchDecoderOnlyOutput|SampleDecoderOnlyOutput)' from 'transformers",
            bare=True,
        ),
    ),
    remedies=(
        Remedy(
            Text("Upgrade mamba-ssm.", "升级 mamba-ssm。"),
            ("pip install --no-build-isolation --no-cache-dir causal-conv1d=={conv_new} mamba-ssm=={mamba_new}",),
        ),
        Remedy(
            Text("Or keep the old one and an older transformers.", "或保留旧版，并使用较旧的 transformers。"),
            ('pip install "transformers<5"',),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/pull/807",),
)
