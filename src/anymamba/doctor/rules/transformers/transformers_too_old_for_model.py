"""transformers does not know the model yet."""

from __future__ import annotations

from anymamba.doctor.rule import NECESSARY, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM119",
    cause="transformers-too-old-for-model",
    order=521,
    title=Text(
        "this transformers is older than the model: it does not know its architecture",
        "该 transformers 比模型旧，不认识其架构",
    ),
    why=Text(
        "Mamba came to transformers in 4.39, Jamba in 4.40, Mamba-2 in 4.44, Falcon-Mamba in 4.45, Bamba and "
        "Zamba-2 in 4.48 and 4.49, Falcon-H1 in 4.53. An older one has no class for the model_type in "
        "config.json; a half-finished upgrade in a running notebook looks the same.",
        "transformers 自 4.39 支持 Mamba，4.40 支持 Jamba，4.44 支持 Mamba-2，4.45 支持 Falcon-Mamba，4.48 与 "
        "4.49 支持 Bamba 与 Zamba-2，4.53 支持 Falcon-H1。更旧的版本没有 config.json 中 model_type 对应的类；在运"
        "行中的 notebook 里升级到一半也会这样。",
    ),
    needed=NECESSARY,
    signatures=(
        Signature(
            r"KeyError: '(?:mamba2?|falcon_mamba|falcon_h1|jamba|bamba|zamba2?|nemotron_h|granitemoehybrid"
            r"|plamo2?|qwen3_next|qwen3_5\w*|lfm2\w*)'",
            own=True,
        ),
        Signature(
            r"model type `?'?(?:mamba2?|falcon_mamba|falcon_h1|jamba|bamba|zamba2?|nemotron_h"
            r"|granitemoehybrid|plamo2?|qwen3_next|qwen3_5\w*"
            r"|lfm2\w*)'?`? but Transformers does not recognize this architecture", own=True,
        ),
        Signature(
            r"No module named 'transformers\.models\.(?:mamba2?|falcon_mamba|falcon_h1|jamba|bamba|zamba2?"
            r"|nemotron_h|granitemoehybrid|plamo2?|qwen3_next|qwen3_5\w*|lfm2\w*)(?:\.\w+)?'", own=True,
        ),
        Signature(
            r"cannot import name '(?:Mamba2?|FalconMamba|FalconH1|Jamba|Bamba|Zamba2?"
            r"|NemotronH)\w*' from 'transformers", own=True,
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "Upgrade transformers, then start Python (or the notebook) anew.",
                "升级 transformers，然后重启 Python（或 notebook）。",
            ),
            (
                "pip install -U transformers",
                'python -c "import transformers; print(transformers.__version__)"',
            ),
        ),
    ),
    links=("https://github.com/huggingface/transformers/issues/33262",),
)
