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

from anymamba.language import _, ngettext
from anymamba.models.sizes import SIZES, config_of_size, parameters_of
from anymamba.training.data.readers import documents
from anymamba.training.data.skips import Skips
from anymamba.training.loop.pace import RESERVE
from anymamba.training.loop.timelimit import DISK_SPEED
from anymamba.training.loop.validation import SHARE
from anymamba.training.machine import disk, fit, memory, probe
from anymamba.training.machine.parallel import Processes
from anymamba.training.run import checkpoint
from anymamba.training.run.checks import check_options
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.derive import RunPlan, batch_tokens, derive
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
            overrides = {"data": data, "out": str(Path(folder) / "run"), "report_to": [], "max_minutes": 0.0, "bad_records": ""}
            run = prepare(dataclasses.replace(config, **overrides), "", processes, Reporter(quiet=True))  # type: ignore[arg-type]
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
    shards, trained = world if config.shard else 1, fit.trained_parameters(run.model)
    free = memory.left(device)
    parts = {
        "weights": memory.weight_bytes(run.model) // shards,
        "gradients": 4 * trained // shards,
        "optimiser": 8 * trained // shards,
        "activations": int(kept * run.micro_batch * fit.TRANSIENT),
    }
    seconds = probe.step_seconds(run)
    limited = _limited_steps(config, plan, seconds, trained)
    checkpoints = checkpoint.size_on_disk(trained)
    best = 4 * trained if run.held_out is not None else 0
    return {
        "model": run.model.config.model_type,
        "parameters": parameters,
        "trained": trained,
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


def _why(config: TrainConfig, plan: RunPlan, limited: int) -> str:
    if not limited or limited == plan.steps:
        return plan.reasons.get("steps", "")
    fit_in = ngettext(
        "what fits into {minutes:g} minute", "what fits into {minutes:g} minutes", config.max_minutes
    ).format(minutes=config.max_minutes)
    few = _(", too few: a run wants ten at least")
    return fit_in + (few if limited < probe.FEWEST_STEPS else "")


class _Train:
    """What ``derive`` asks of the training text, whose sample is in the run."""

    def __init__(self, run: Run) -> None:
        self.learn = run.feeder.rows.file.learn  # type: ignore[attr-defined]


def _limited_steps(config: TrainConfig, plan: RunPlan, seconds: float, parameters: int) -> int:
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
        bytes_needed = 16 * parameters // (run.processes.world if config.shard else 1)
        is_own_size = size == config.size
        rows.append(
            {
                "size": size,
                "parameters": parameters,
                "memory": bytes_needed,
                "fits": not free or bytes_needed < free,
                "step_seconds": round(seconds if is_own_size else seconds * parameters * tokens / measured, 3),
                "measured": is_own_size,
            }
        )
    return rows


def text(plan: dict[str, Any]) -> str:
    """The plan in lines."""
    use, room = plan["memory"], plan["disk"]
    about = _("about ") if plan["tokens_estimated"] else ""
    at_once = ngettext("{micro_batch} row at once", "{micro_batch} rows at once", plan["micro_batch"]).format(
        micro_batch=plan["micro_batch"]
    )
    rows = [
        (_("model"), f"{plan['model']}, {count(plan['parameters'])} " + _("parameters")),
        (_("data"), f"{about}{count(plan['tokens'])} " + _("tokens to train on")),
        (_("device"), f"{plan['device']}, {plan['threads']} " + _("threads") + f", {plan['precision']}"),
        (
            _("memory"),
            _(
                "weights {weights}, gradients {gradients}, AdamW {optimiser}, activations {activations} ({at_once}): "
                "{total} of {free}"
            ).format(
                weights=memory.text(use["weights"]),
                gradients=memory.text(use["gradients"]),
                optimiser=memory.text(use["optimiser"]),
                activations=memory.text(use["activations"]),
                at_once=at_once,
                total=memory.text(use["total"]),
                free=memory.text(use["free"]),
            ),
        ),
        (
            _("disk"),
            _("checkpoints {checkpoints}, best {best}; {free} free").format(
                checkpoints=memory.text(room["checkpoints"]),
                best=memory.text(room["best"]),
                free=memory.text(room["free"]),
            ),
        ),
        (
            _("a step"),
            ngettext(
                "{rows} row of {length} tokens in {step_seconds:.3g} s (measured): {tokens_per_s} tokens/s",
                "{rows} rows of {length} tokens in {step_seconds:.3g} s (measured): {tokens_per_s} tokens/s",
                plan["rows"],
            ).format(
                rows=plan["rows"],
                length=plan["length"],
                step_seconds=plan["step_seconds"],
                tokens_per_s=count(plan["tokens_per_s"]),
            ),
        ),
        (_("steps"), f"{plan['steps']}  {clock(plan['seconds'])}  {plan['steps_why']}".rstrip()),
    ]
    if plan["steps"] < plan["steps_without_limit"]:
        whole = plan["steps_without_limit"]
        time = clock(whole * plan["step_seconds"])
        rows.append(
            (
                _("without limit"),
                ngettext("{whole} step, {time}", "{whole} steps, {time}", whole).format(whole=whole, time=time),
            )
        )
    width = max(len(name.encode("gbk", "replace")) for name, _ in rows)
    lines = [name + " " * (width - len(name.encode("gbk", "replace")) + 2) + value for name, value in rows]
    for row in plan["sizes"]:
        fits = _("fits") if row["fits"] else _("does not fit")
        how = _("measured") if row["measured"] else _("estimated")
        parameters, needed, seconds = count(row["parameters"]), memory.text(row["memory"]), clock_or_seconds(row["step_seconds"])
        lines.append(f"  {row['size']:<6}{parameters:>8}{needed:>10}+  {fits}  " + _("a step ") + f"{seconds} ({how})")
    return "\n".join(lines)


def clock_or_seconds(seconds: float) -> str:
    """``0.52 s`` or ``3:20``."""
    return f"{seconds:.2g} s" if seconds < 60 else clock(seconds)
