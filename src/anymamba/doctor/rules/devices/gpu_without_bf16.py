"""bfloat16 on a GPU that has none."""

from __future__ import annotations

from anymamba.doctor import advice
from anymamba.doctor.rule import LIKELY, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM096",
    cause="gpu-without-bf16",
    order=603,
    title=Text(
        "this GPU has no bfloat16, which the program asks for (it takes compute capability 8.0, sm_80)",
        "该显卡不支持程序所用的 bfloat16（需要计算能力 8.0，即 sm_80）",
    ),
    why=Text(
        "T4, V100, P40, RTX 20 and GTX cards (sm_60 to sm_75) have no bfloat16 instructions; the assembler of "
        "the Triton kernel refuses them.",
        "T4、V100、P40、RTX 20 与 GTX 系列（sm_60 至 sm_75）没有 bfloat16 指令，Triton 内核在汇编时即被拒绝。",
    ),
    needed=Text(
        "Yes, in the program: choose another number format.",
        "需要：在程序中换一种数值格式。",
    ),
    signatures=(
        Signature(r"Feature '(?:cvt with )?\.?(?:cvt\.|f32\.)?[\w.]*bf16[\w.]*' requires \.target sm_80", bare=True),
        Signature(
            r"[Bb]f(?:loat)?16 is (?:only|not) supported on (?:this|GPUs?|devices?)[^\n]*"
            r"|Bfloat16 is only supported on GPUs with compute capability", confidence=LIKELY,
        ),
        Signature(r"Your setup doesn't support bf16/gpu|Current CUDA Device does not support bfloat16"),
    ),
    remedies=(
        Remedy(
            Text(
                "Use float16 or float32: torch_dtype=torch.float16, --fp16 True --bf16 False, or autocast with "
                "dtype=torch.float16.",
                "改用 float16 或 float32：torch_dtype=torch.float16、--fp16 True --bf16 False，或 autocast 的 "
                "dtype=torch.float16。",
            ),
        ),
        advice.USE_ANYMAMBA,
    ),
    links=("https://github.com/state-spaces/mamba/issues/269", "https://github.com/midrender/mamba-chat/issues/24",),
)
