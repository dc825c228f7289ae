"""``anymamba train --plan``: what a run would take, in memory, on the disk and in time, without a step made or a file left behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from anymamba.language import say
from anymamba.models.sizes import SIZES, config_of_size, parameters_of
from anymamba.training.data.readers import documents
from anymamba.training.data.skips import Skips
from anymamba.training.loop.pace import RESERVE
from anymamba.training.loop.timelimit import DISK_SPEED
from anymamba.training.loop.validation import SHARE
from anymamba.training.run import checkpoint, disk, fit, memory, probe
from anymamba.training.run.checks import check_options
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.derive import Plan, batch_tokens, derive
from anymamba.training.run.parallel import Processes
from anymamba.training.run.parts import Run
from anymamba.training.run.train import default_folder, prepare
from anymamba.training.show.report import Reporter, clock, count

SAMPLE = 16 << 20
"""Bytes of text that are read; the rest is taken to be like it."""


def planned(config: TrainConfig, processes: Processes) -> dict[str, Any]:
    """The plan as one document; ``text`` shows it. Raises AnymambaError for whatever the run itself would refuse at its start."""
    size = check_options(config, processes.device, processes.world if config.shard else 1)
    threads = torch.get_num_threads()
    out = Path(config.out or default_folder(config)).expanduser()
    try:
        with tempfile.TemporaryDirectory(prefix="anymamba-plan-") as folder:
            data, share = _sampled(config, size, Path(folder))
            changed = {"data": data, "out": str(Path(folder) / "run"), "report_to": [], "max_minutes": 0.0, "bad_records": ""}
            run = prepare(dataclasses.replace(config, **changed), "", processes, Reporter(quiet=True))  # type: ignore[arg-type]
            document = _document(run, config, share, out)
            del run  # its token files are mapped, and Windows removes no such file
        return document
    finally:
        torch.set_num_threads(threads)


def _sampled(config: TrainConfig, size: int, folder: Path) -> tuple[list[str], float]:
    """(data to look at, its share of all): the beginning of a large corpus."""
    if config.instruct or size <= SAMPLE:
        return config.data, 1.0
    path, written = folder / "sample.jsonl", 0
    with open(path, "w", encoding="utf-8") as file:
        for text in _texts(config):
            file.write(json.dumps({config.text_field: text}) + "\n")
            written += len(text.encode("utf-8", "replace"))
            if written >= SAMPLE:
                break
    return [str(path)], min(1.0, written / size)


def _texts(config: TrainConfig) -> Iterator[str]:
    for piece in documents(config.data, Skips(), config.text_field, config.encoding):
        if piece is not None and piece.strip():
            yield piece


def _document(run: Run, config: TrainConfig, share: float, out: Path) -> dict[str, Any]:
    plan, device, world = run.plan, run.processes.device, run.processes.world
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    tokens = round(len(run.feeder.rows.file.tokens) / share)  # type: ignore[attr-defined]
    if share < 1:
        rows = round(run.feeder.rows.count / share)
        plan = derive(config, parameters, run.model.config.hidden_size, _Train(run), plan.length, rows, world)  # type: ignore[arg-type]
    part = run.feeder.batch(0, run.processes.rank, world).part(0, 1).to(device)
    kept = fit.kept_bytes(run.model, part, run.autocast)
    shards = world if config.shard else 1
    free = memory.left(device)
    parts = {
        "weights": 4 * parameters // shards,
        "gradients": 4 * parameters // shards,
        "optimiser": 8 * parameters // shards,
        "activations": int(kept * run.micro_batch * fit.TRANSIENT),
    }
    seconds = probe.step_seconds(run)
    limited = _limited_steps(config, plan, seconds, parameters)
    checkpoints = checkpoint.size_on_disk(parameters)
    best = 4 * parameters if run.held_out is not None else 0
    return {
        "model": run.model.config.model_type,
        "parameters": parameters,
        "tokens": tokens,
        "tokens_estimated": share < 1,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if run.dtype else "fp32",
        "length": plan.length,
        "rows": plan.rows,
        "micro_batch": run.micro_batch,
        "recompute": run.model.backbone.gradient_checkpointing,
        "memory": {**parts, "total": sum(parts.values()), "free": free},
        "disk": {
            "checkpoint": checkpoints,
            "checkpoints": checkpoints * (config.keep + 1),
            "best": best,
            "free": shutil.disk_usage(disk.existing(out)).free,
        },
        "step_seconds": round(seconds, 4),
        "tokens_per_s": round(plan.rows * plan.length / seconds, 1),
        "steps": limited or plan.steps,
        "steps_without_limit": plan.steps,
        "steps_why": _why(config, plan, limited),
        "seconds": round((limited or plan.steps) * seconds, 1),
        "out": str(out),
        "sizes": _sizes(config, run, seconds, free),
    }


def _why(config: TrainConfig, plan: Plan, limited: int) -> str:
    if not limited or limited == plan.steps:
        return plan.reasons.get("steps", "")
    fit_in = say(f"what fits into {config.max_minutes:g} minutes", f"在 {config.max_minutes:g} 分钟内可完成")
    few = say(", too few: a run wants ten at least", "，太少：至少需要十步")
    return fit_in + (few if limited < probe.FEWEST_STEPS else "")


class _Train:
    """What ``derive`` asks of the training text, whose sample is in the run."""

    def __init__(self, run: Run) -> None:
        self.learn = run.feeder.rows.file.learn  # type: ignore[attr-defined]


def _limited_steps(config: TrainConfig, plan: Plan, seconds: float, parameters: int) -> int:
    """Steps within --max-minutes; 0 without it."""
    left = config.max_minutes * 60 - checkpoint.size_on_disk(parameters) / DISK_SPEED
    return min(plan.steps, max(1, int(left * (1 - RESERVE - 2 * SHARE) / seconds))) if config.max_minutes else 0


def _sizes(config: TrainConfig, run: Run, seconds: float, free: int) -> list[dict[str, Any]]:
    """Every size of the dial: does it fit into memory, and about how long a step takes, in proportion to the one measured."""
    if config.start:
        return []
    measured = sum(parameter.numel() for parameter in run.model.parameters()) * run.plan.rows * run.plan.length
    rows = []
    for size in SIZES:
        parameters = parameters_of(config_of_size(size, config.model, run.tokenizer.vocab_size))
        tokens = config.batch_tokens or batch_tokens(parameters)
        needed = 16 * parameters // (run.processes.world if config.shard else 1)
        mine = size == config.size
        rows.append(
            {
                "size": size,
                "parameters": parameters,
                "memory": needed,
                "fits": not free or needed < free,
                "step_seconds": round(seconds if mine else seconds * parameters * tokens / measured, 3),
                "measured": mine,
            }
        )
    return rows


def text(plan: dict[str, Any]) -> str:
    """The plan in lines."""
    use, room = plan["memory"], plan["disk"]
    about = say("about ", "约 ") if plan["tokens_estimated"] else ""
    at_once = say(f"{plan['micro_batch']} rows at once", f"每次 {plan['micro_batch']} 行")
    rows = [
        (say("model", "模型"), f"{plan['model']}, {count(plan['parameters'])} " + say("parameters", "参数")),
        (say("data", "数据"), f"{about}{count(plan['tokens'])} " + say("tokens to train on", "训练词元")),
        (say("device", "设备"), f"{plan['device']}, {plan['threads']} " + say("threads", "线程") + f", {plan['precision']}"),
        (
            say("memory", "内存"),
            say(
                f"weights {memory.text(use['weights'])}, gradients {memory.text(use['gradients'])}, AdamW "
                f"{memory.text(use['optimiser'])}, activations {memory.text(use['activations'])} ({at_once}): "
                f"{memory.text(use['total'])} of {memory.text(use['free'])}",
                f"权重 {memory.text(use['weights'])}，梯度 {memory.text(use['gradients'])}，AdamW {memory.text(use['optimiser'])}，"
                f"激活 {memory.text(use['activations'])}（{at_once}）：共 {memory.text(use['total'])}，可用 {memory.text(use['free'])}",
            ),
        ),
        (
            say("disk", "磁盘"),
            say(
                f"checkpoints {memory.text(room['checkpoints'])}, best {memory.text(room['best'])}; {memory.text(room['free'])} free",
                f"检查点 {memory.text(room['checkpoints'])}，最佳权重 {memory.text(room['best'])}；剩余 {memory.text(room['free'])}",
            ),
        ),
        (
            say("a step", "每步"),
            say(
                f"{plan['rows']} rows of {plan['length']} tokens in {plan['step_seconds']:.3g} s (measured): "
                f"{count(plan['tokens_per_s'])} tokens/s",
                f"{plan['rows']} 行 × {plan['length']} 词元，{plan['step_seconds']:.3g} 秒（实测）：{count(plan['tokens_per_s'])} 词元/秒",
            ),
        ),
        (say("steps", "步数"), f"{plan['steps']}  {clock(plan['seconds'])}  {plan['steps_why']}".rstrip()),
    ]
    if plan["steps"] < plan["steps_without_limit"]:
        whole = plan["steps_without_limit"]
        time = clock(whole * plan["step_seconds"])
        rows.append((say("without limit", "不限时"), say(f"{whole} steps, {time}", f"{whole} 步，{time}")))
    width = max(len(name.encode("gbk", "replace")) for name, _ in rows)
    lines = [name + " " * (width - len(name.encode("gbk", "replace")) + 2) + value for name, value in rows]
    for row in plan["sizes"]:
        fits = say("fits", "可容纳") if row["fits"] else say("does not fit", "内存不足")
        how = say("measured", "实测") if row["measured"] else say("estimated", "估计")
        parameters, needed, seconds = count(row["parameters"]), memory.text(row["memory"]), clock_or_seconds(row["step_seconds"])
        lines.append(f"  {row['size']:<6}{parameters:>8}{needed:>10}+  {fits}  " + say("a step ", "每步 ") + f"{seconds} ({how})")
    return "\n".join(lines)


def clock_or_seconds(seconds: float) -> str:
    """``0.52 s`` or ``3:20``."""
    return f"{seconds:.2g} s" if seconds < 60 else clock(seconds)
