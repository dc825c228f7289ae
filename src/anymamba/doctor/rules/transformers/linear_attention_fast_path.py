"""transformers' models with gated delta rules run without fast kernels."""

from __future__ import annotations

from anymamba.doctor.rule import HARMLESS, LIKELY, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM095",
    cause="linear-attention-fast-path",
    order=702,
    title=Text(
        "transformers runs this model's linear attention without fast kernels: it needs flash-linear-attention "
        "and causal-conv1d",
        "transformers 未使用快速内核运行该模型的线性注意力：需要 flash-linear-attention 与 causal-conv1d",
    ),
    why=Text(
        "Qwen3-Next, Qwen3.5, OLMo hybrids and their like take the fast path only when both "
        "flash-linear-attention and causal-conv1d import and a CUDA GPU is there; mamba-ssm plays no part. One "
        "of them missing, or failing to import, gives this warning; the model works, slowly.",
        "Qwen3-Next、Qwen3.5、OLMo hybrid 等模型只有在 flash-linear-attention 与 causal-conv1d 都能导入且有 CUDA "
        "显卡时才走快速路径，与 mamba-ssm 无关。缺少其一或导入失败都会出现此警告；模型可以运行，但较慢。",
    ),
    needed=HARMLESS,
    signatures=(
        Signature(r"[Ff]ast path is not available because (?:on )?one of the required librar(?:y|ies)", own=True),
        Signature(
            r"(?:flash-linear-attention|fla)[^\n]*(?:is )?not (?:installed"
            r"|available)[^\n]*(?:torch implementation|slow)"
            r"|is_flash_linear_attention_available\(\)[^\n]*False", own=True, confidence=LIKELY,
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "See which of the two is missing or broken.",
                "查看缺少或损坏的是哪一个。",
            ),
            (
                'python -c "import fla, causal_conv1d; print(fla.__version__, causal_conv1d.__version__)"',
            ),
        ),
        Remedy(
            Text(
                "Install both: the first needs no compiler, the second takes a wheel that fits this torch.",
                "安装两者：前者无需编译，后者使用与当前 torch 匹配的 wheel。",
            ),
            (
                "pip install -U flash-linear-attention",
                "pip install --no-build-isolation causal-conv1d=={conv2}",
            ),
        ),
    ),
    links=("https://github.com/unslothai/unsloth/pull/5434",),
)
