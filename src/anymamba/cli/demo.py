"""``anymamba demo``: from nothing to a trained model and a paragraph of its own, in less than three minutes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from anymamba.cli.options import number, seed
from anymamba.language import say
from anymamba.printable import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=number(positive=True), default=1.75, metavar="M",
        help=say("most time for training [1.75]", "训练时间上限（分钟）[1.75]"),
    )  # fmt: skip
    parser.add_argument("--out", default="", metavar="DIR", help=say("run folder [runs/demo]", "运行目录 [runs/demo]"))
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=say("of the weights and the paragraph", "权重与段落的随机种子"))
    parser.add_argument("--json", action="store_true", help=say("print the result as JSON", "以 JSON 输出结果"))
    parser.add_argument("-q", "--quiet", action="store_true", help=say("no progress", "不显示进度"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.training.run.demo import document, run_demo
    from anymamba.training.show.report import Reporter

    reporter = Reporter(quiet=arguments.quiet)
    demo = run_demo(_folder(arguments.out), arguments.minutes, "tiny", arguments.seed, reporter)
    if demo.result.exit_code:
        return demo.result.exit_code
    if arguments.json:
        print(json.dumps(document(demo), ensure_ascii=False))
        return 0
    score = demo.result.score
    ran = sorted({(op, backend) for op, found in demo.backends.items() for backend in found})
    width = max(len(op) for op, _ in ran)
    reporter.note(say("backends that ran (`anymamba backends` says why):", "运行过的后端（`anymamba backends` 说明原因）："))
    for op, backend in ran:
        reporter.note(f"  {op:<{width}}  {backend}")
    one = demo.comparison
    ours, theirs, times = (f"{value:,.0f}" for value in (one.seconds * 1e3, one.sequential_seconds * 1e3, one.times_faster))
    reporter.note(
        say(
            f"training speed {demo.result.tokens_per_s:,.0f} tokens/s. The same model and the same {one.rows} rows of {one.length} "
            f"tokens, forward and backward on one thread, medians of {one.repetitions}: {ours} ms with these kernels, {theirs} ms with "
            f"plain PyTorch whose scan goes token by token. {times} times faster.",
            f"训练速度 {demo.result.tokens_per_s:,.0f} 词元/秒。同一模型、同样的 {one.rows} 行（每行 {one.length} 词元），"
            f"单线程前向与反向，{one.repetitions} 次的中位数：用这些内核 {ours} 毫秒，"
            f"用逐词元扫描的普通 PyTorch {theirs} 毫秒。快 {times} 倍。",
        )
    )
    if score is not None and score.bits_per_byte is not None:
        reporter.note(
            say(
                f"held-out text: {score.bits_per_byte:.3f} bits per byte after {demo.result.steps} steps, {demo.seconds:.0f} s in all",
                f"验证文本：{demo.result.steps} 步后每字节 {score.bits_per_byte:.3f} 比特，共 {demo.seconds:.0f} 秒",
            )
        )
    reporter.note(say("the model writes:\n", "模型写道：\n"))
    print(shown(demo.paragraph, sys.stdout), flush=True)
    print(
        say("\nmore of it: ", "\n继续生成：") + f"anymamba generate {demo.result.checkpoint} -p \"The \"",
        file=sys.stderr,
    )
    return 0


def _folder(named: str) -> Path:
    """The folder asked for, or the first of runs/demo, runs/demo-2, ... without a run in it."""
    if named:
        return Path(named).expanduser()
    number = 1
    while True:
        path = Path("runs") / ("demo" if number == 1 else f"demo-{number}")
        if not any(path.glob("step-*")):
            return path
        number += 1
