"""What a run says before its first step, and what run.json keeps of it."""

from __future__ import annotations

import dataclasses
import platform
from typing import Any

import torch

from anymamba.backends import dispatch, machine
from anymamba.language import _, ngettext
from anymamba.models import lora
from anymamba.models.families import family_of
from anymamba.models.lora import LoraOptions
from anymamba.training.data.corpus import Corpus
from anymamba.training.machine import fit, memory
from anymamba.training.run.parts import Run
from anymamba.training.run.runfolder import config_document
from anymamba.training.show.report import count
from anymamba.version import __version__


def say_plan(
    run: Run, data: Corpus, parameters: int, precision_why: str, micro_why: str, threads_why: str, notes: list[str]
) -> None:
    """The table of what was derived and why, and what a continued run changes. The ..._why are the reasons of those values."""
    plan, config, why = run.plan, run.config, run.plan.reasons
    recompute = run.model.backbone.gradient_checkpointing
    processes = run.processes
    world = f" x {processes.world}" if processes.world > 1 else ""
    start = config.start or f"--size {config.size}"
    rates = f"{plan.lr:g}, {config.schedule}, " + _("warm-up") + f" {plan.warmup}"
    rows = [
        (_("model"), f"{run.model.config.model_type}, {count(parameters)} " + _("parameters"), start),
        (_("data"), f"{count(len(data.train.tokens))} " + _("tokens"), "; ".join(data.notes)),
        (_("device"), f"{processes.device}{world}", _device_name(processes.device)),
        (_("threads"), str(torch.get_num_threads()), threads_why),
        (_("precision"), "bf16" if run.dtype else "fp32", precision_why),
        (_("row length"), str(plan.length), why.get("length", "")),
        (_("rows a step"), str(plan.rows), why.get("rows", "")),
        (_("rows at once"), str(run.micro_batch), micro_why),
        (_("recompute"), _("yes") if recompute else _("no"), ""),
        (_("steps"), str(plan.steps), why.get("steps", "")),
        (_("learning rate"), rates, why.get("lr", "")),
        (_("run folder"), str(run.folder.path), ""),
    ]
    if run.config.lora_options is not None:
        rows[1:1] = _adapter_rows(run, run.config.lora_options)
    resumed = run.folder.resumed
    if resumed is not None:
        rows.append((_("continues"), resumed.folder.name, "" if notes else _("as it was")))
    run.reporter.table(rows)
    if notes:
        run.reporter.note(_("what changes from here on:"))
        for text in notes:
            run.reporter.note("  " + text)


def _adapter_rows(run: Run, options: LoraOptions) -> list[tuple[str, str, str]]:
    """What LoRA trains, and what the run will take of memory."""
    adapters, trained = lora.adapters_of(run.model, "default"), fit.trained_parameters(run.model)
    names = lora.leaves(list(adapters))
    kind = "DoRA" if options.dora else "LoRA"
    of = _("rank {rank}, alpha {alpha:g}, {count} trained on {layers} layers").format(
        rank=options.rank, alpha=options.scaling * options.rank, count=count(trained), layers=len(adapters)
    )
    elsewhere = [name for name in names if name not in family_of(run.model.config).lora_targets(run.model.config)]
    why = ", ".join(names)
    if elsewhere:
        why += _("; plain transformers with PEFT does without {names}: `anymamba run` there, or `anymamba merge`").format(
            names=", ".join(elsewhere)
        )
    if not run.kept_row:
        part = run.feeder.batch(run.done.step, run.processes.rank, run.processes.world).part(0, 1).to(run.processes.device)
        run.kept_row = fit.kept_bytes(run.model, part, run.autocast)
    sizes = (
        memory.weight_bytes(run.model) - 4 * trained, 4 * trained, 12 * trained, int(run.kept_row * run.micro_batch * fit.TRANSIENT),
    )  # fmt: skip
    text = _("base {base}, adapters {adapters}, gradients and AdamW {optimiser}, activations {activations}").format(
        base=memory.text(sizes[0]), adapters=memory.text(sizes[1]), optimiser=memory.text(sizes[2]), activations=memory.text(sizes[3])
    )
    return [(kind, of, why), (_("memory"), text, _("together {total}").format(total=memory.text(sum(sizes))))]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return machine.cpu_name() if device.type == "cpu" else ""


def document(run: Run, parameters: int, precision_why: str, notes: list[str]) -> dict[str, Any]:
    """What run.json holds. precision_why, notes: as in ``say_plan``. "changes": of every part of the run that went on with other
    options, from which step on."""
    earlier = [part for part in run.folder.read_run().get("changes", []) if part["step"] <= run.done.step]
    return {
        "config": config_document(run.config),
        "plan": {
            **dataclasses.asdict(run.plan),
            "micro_batch": run.micro_batch,
            "precision": "bf16" if run.dtype else "fp32",
            "precision_why": precision_why,
            "recompute": run.model.backbone.gradient_checkpointing,
            "parameters": parameters,
            "processes": run.processes.world,
        },
        "changes": earlier + ([{"step": run.done.step, "changes": notes}] if notes else []),
        "versions": {"anymamba": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": machine.facts(),
    }


def backends_used() -> dict[str, dict[str, str]]:
    """op -> {backend: why} of what this process has run so far."""
    used: dict[str, dict[str, str]] = {}
    for call, choice in dispatch.choices_made():
        used.setdefault(call.op, {})[choice.backend] = choice.why
    return used


def finished_text(run: Run) -> str:
    """For a run that has nothing left to do."""
    out = run.folder.path
    return ngettext(
        "this run is finished: {step} step. To train longer: --resume auto --out {out} with more --steps or with "
        "--max-minutes",
        "this run is finished: {step} steps. To train longer: --resume auto --out {out} with more --steps or with "
        "--max-minutes",
        run.done.step,
    ).format(step=run.done.step, out=out)
