"""A version or extra that the shell took for itself."""

from __future__ import annotations

from anymamba.doctor.rule import Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM111",
    cause="unquoted-specifier",
    order=8,
    title=Text(
        "the shell took a part of the command for itself: >= and [ ] need quotes",
        "命令的一部分被 shell 截走了：>= 与 [ ] 需要加引号",
    ),
    why=Text(
        "In bash and zsh > writes to a file, and zsh reads [causal-conv1d] as a pattern; pip never sees that "
        "part.",
        "在 bash 与 zsh 中，> 表示写入文件；zsh 把 [causal-conv1d] 当作通配符，pip 根本看不到这一部分。",
    ),
    needed=Text(
        "Yes: repeat the command with quotes.",
        "需要：加上引号重新执行。",
    ),
    signatures=(
        Signature(r"zsh: (?:no matches found: \S*(?:mamba|causal)\S*|[=]?\d[\d.]* not found)"),
        Signature(
            r"(?:bash|zsh|sh): [^\n]*(?:=?\d+\.\d+(?:\.\d+)?): (?:No such file|Permission denied"
            r"|command not found|cannot create)",
        ),
        Signature(r"-bash: =?\d+\.\d+[^\n]*"),
    ),
    remedies=(
        Remedy(
            Text(
                "With quotes.",
                "加上引号。",
            ),
            (
                'pip install --no-build-isolation "causal-conv1d=={conv2}" "mamba-ssm[causal-conv1d]=={mamba2}"',
            ),
        ),
    ),
)
