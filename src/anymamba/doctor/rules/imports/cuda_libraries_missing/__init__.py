"""An incomplete CUDA toolkit: libraries at link time."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM078",
    cause="cuda-libraries-missing",
    order=332,
    signatures=(
        Signature(
            r"cannot find -l(?:cudart|cudadevrt|cudart_static|c10_cuda|torch_cuda|torch_python|nvrtc|cublas|cusparse)\b"
        ),
        Signature(
            r"LINK : fatal error LNK1181: [^\n]*(?:cudart|c10|torch|python\d+)\w*\.lib|LINK : fatal error LNK1104:"
            r" [^\n]*(?:cudart|c10|torch|python\d+)\w*\.lib"
        ),
    ),
    explains=("log-truncated",),
)
