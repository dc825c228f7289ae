"""``train(config)``: one run from its configuration to its last checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from pathlib import Path

import torch

from anymamba.backends import dispatch, matrix_units
from anymamba.determinism import deterministic
from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext
from anymamba.models import lora
from anymamba.models.sizes import SIZES
from anymamba.models.tokenizer import Tokenizer
from anymamba.training.data.corpus import Corpus
from anymamba.training.data.rows import Feeder, PackedRows, Rows, StreamRows
from anymamba.training.loop import optim
from anymamba.training.loop.interrupt import Interrupt
from anymamba.training.loop.loop import Loop
from anymamba.training.loop.pace import RESERVE
from anymamba.training.loop.timelimit import DISK_SPEED
from anymamba.training.loop.validation import SHARE
from anymamba.training.machine import disk, fit, memory, probe
from anymamba.training.machine.parallel import Processes
from anymamba.training.machine.precision import choose_precision
from anymamba.training.machine.threads import ThreadWatch, choose_threads
from anymamba.training.run import checkpoint, continuing
from anymamba.training.run.checks import check_options
from anymamba.training.run.config import TrainConfig, checked_ranges
from anymamba.training.run.continuing import Progress
from anymamba.training.run.derive import RunPlan, derive, row_length, set_intervals
from anymamba.training.run.parts import Result, Run
from anymamba.training.run.runfolder import DATA, RunFolder, config_document, open_run, read_metrics
from anymamba.training.run.setup import first_question, make_model, tokenizer_and_data
from anymamba.training.run.summary import backends_used, document, finished_text, say_plan
from anymamba.training.show.report import Reporter
from anymamba.training.show.trackers import open_trackers


def train(
    config: TrainConfig,
    resume: str = "",
    reporter: Reporter | None = None,
    processes: Processes | None = None,
    interrupt: Interrupt | None = None,
    begin: float = 0.0,
) -> Result:
    """Trains and returns what came of it; the run folder has everything else.

    resume: "", "auto" or a path, see ``runfolder.open_run``. Under torchrun every process calls it. interrupt: what answers to
    signals while it trains. begin: since when --max-minutes counts, by time.perf_counter; 0: since now.
    Raises AnymambaError for whatever is wrong with the configuration, the data, the folder or the machine.
    """
    begin = begin or time.perf_counter()
    checked_ranges(config)
    config = dataclasses.replace(config, out=config.out or default_folder(config))
    own = processes is None
    processes = processes or Processes(config.device)
    reporter = reporter or Reporter(quiet=not processes.main)
    threads = torch.get_num_threads()
    try:
        backend = dispatch.use_backend(config.backend) if config.backend else contextlib.nullcontext()
        with deterministic(config.deterministic), backend:
            run = prepare(config, resume, processes, reporter, begin)
            loop = Loop(run)
            result = loop.train(interrupt)
            _finish(run, result)
            return result
    finally:
        torch.set_num_threads(threads)  # prepare() chose those of the run; the caller has its own
        if own:
            processes.close()


def default_folder(config: TrainConfig) -> str:
    """runs/<first file or folder>-<size>."""
    stem = Path(config.data[0].replace(":", "-")).stem if config.data else "run"
    what = Path(config.start).name if config.start else config.size
    return str(Path("runs") / f"{stem}-{'instruct' if config.instruct else what}")


def prepare(config: TrainConfig, resume: str, processes: Processes, reporter: Reporter, begin: float = 0.0) -> Run:
    """Everything before the first step: folder, data, model, plan. begin: see ``train``."""
    begin = begin or time.perf_counter()
    most, fresh = torch.get_num_threads(), not resume
    # what an accelerator computes does not wait for cores
    fixed = config.deterministic or processes.device.type != "cpu"
    with processes.main_first() as main:
        if main:
            prepared = bool(resume) and (Path(config.out).expanduser() / DATA).is_dir()
            size = check_options(config, processes.device, processes.world if config.shard else 1, prepared)
    if fresh:
        threads, threads_why, may_change = choose_threads(config.threads, 0, fixed)
        torch.set_num_threads(threads)
    with processes.main_first() as main:
        if main and fresh:
            probe.refuse_early(config, processes.device, size, processes.world, begin)
        folder = open_run(config, resume, main)
    resumed = folder.resumed
    if not fresh:
        before = resumed.state.get("threads", 0) if resumed is not None else 0
        threads, threads_why, may_change = choose_threads(config.threads, before, fixed)
        torch.set_num_threads(threads)
    trackers = open_trackers(config.report_to, folder.path, config_document(config)) if processes.main else []
    tokenizer, data = tokenizer_and_data(config, folder, processes, reporter)
    model = make_model(config, folder, tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shards, trained = processes.world if config.shard else 1, fit.trained_parameters(model)
    fit.require_model(parameters // shards, processes.device, trained // shards, config.quantize)
    rows, held_out, length_why = _rows(config, data, parameters, tokenizer)
    if config.patience and held_out is None:
        raise _nothing_held_out(config)
    plan = derive(config, parameters, model.config.hidden_size, data.train, rows.length, rows.count, processes.world)
    if length_why:
        plan.reasons["length"] = length_why
    done = _progress(plan, config, folder, rows.count)
    if plan.steps > done.step:
        needed = checkpoint.room_needed(folder.path, trained, config.keep, held_out is not None)
        disk.require(folder.path, needed, _("the checkpoints"))
    dtype, precision_why = choose_precision(config.precision, processes.device)
    decaying = optim.decaying_names(model)
    # a processor without 16-bit products multiplies float32 weights as they are; shards of one group have one dtype
    rounds = dtype is not None and not (processes.device.type == "cpu" and matrix_units.widens(dtype))
    if config.lora_options is not None and dtype is not None and rounds and not config.shard:
        lora.narrow_frozen_layers(model, dtype)
    model.to(processes.device)
    feeder = Feeder(rows, plan.rows, config.seed)
    feeder.continue_at(done.step, done.row)
    run = Run(
        config, plan, folder, processes, reporter, trackers, tokenizer, model, model, feeder, held_out,
        data.held_out.bytes_per_token if data.held_out.learn is None else None,
        plan.rows // processes.world, dtype, decaying, ThreadWatch(max(most, threads)) if may_change else None, done, begin,
        question=first_question(data) if config.instruct else [],
    )  # fmt: skip
    micro_why = "" if plan.steps <= done.step else _fit_memory(run, parameters, trained)
    if config.max_minutes and plan.steps > done.step:
        _fit_time(run, trained)
    set_intervals(plan, config)
    notes = continuing.changes(plan, config, folder.before, done, rows.count) if resumed is not None and folder.before else []
    run.wrapped = processes.wrap(model, config.shard)
    if processes.main and plan.steps > done.step:
        say_plan(run, data, parameters, precision_why, micro_why, threads_why, notes)
        folder.write_run(document(run, parameters, precision_why, notes))
    elif processes.main:
        reporter.note(finished_text(run))
    return run


def _progress(plan: RunPlan, config: TrainConfig, folder: RunFolder, rows_per_pass: int) -> Progress:
    """Where the run stands; settles the plan of one that goes on."""
    if folder.resumed is None:
        return Progress(planned=plan.steps)
    done = Progress.of(folder.resumed.state, plan)
    continuing.settle(plan, config, folder.before or config, done, rows_per_pass)
    return dataclasses.replace(done, planned=plan.steps)


def _fit_time(run: Run, trained: int) -> None:
    """Measures a step and sets the number of steps to what the time allows. trained: how many parameters are not frozen.

    Raises AnymambaError when those steps are too few.
    """
    config, plan, done, processes = run.config, run.plan, run.done, run.processes
    left = run.begin + config.max_minutes * 60 - time.perf_counter()
    wanted = 1 if done.step else min(probe.FEWEST_STEPS, plan.steps)
    if config.shard:  # a shard cannot be asked alone
        state = run.folder.resumed.state if run.folder.resumed is not None else {}
        run.step_seconds = state.get("seconds", 0.0) / done.step if done.step else 0.0
        plan.steps = min(plan.steps, done.step + 1000) if not run.step_seconds else plan.steps
        return
    fits = _steps_that_fit(run, left / wanted, trained)
    if fits < wanted:  # kernels are compiled by now, and what else the machine did may have ended
        fits = _steps_that_fit(run, left / wanted, trained)
    if fits < wanted:
        error = probe.too_slow(config, run.step_seconds, left, wanted, run.autocast, processes.device)
        if fits < 1 or config.size != next(iter(SIZES)) or config.start:
            raise error
        run.reporter.note(f"{error.what}: {error.why}")  # there is no smaller one, and a busy machine may become idle
    plan.steps = min(plan.steps, done.step + fits)
    if done.step < plan.warmup:
        plan.warmup = min(plan.warmup, max(1, plan.steps // 10))
    plan.reasons["steps"] = ngettext(
        "what fits into {minutes:g} minute at {step_seconds:.2g} s a step; fitted again on the way",
        "what fits into {minutes:g} minutes at {step_seconds:.2g} s a step; fitted again on the way",
        config.max_minutes,
    ).format(minutes=config.max_minutes, step_seconds=run.step_seconds)


def _steps_that_fit(run: Run, enough: float, trained: int) -> int:
    """Measures a step (enough: seconds that would do) and says how many fit into what is left of the time."""
    # all processes see the slowest of them
    run.step_seconds = run.processes.least(-math.ceil(probe.step_seconds(run, enough) * 1e6)) / -1e6
    left = run.begin + run.config.max_minutes * 60 - time.perf_counter() - checkpoint.size_on_disk(trained) / DISK_SPEED
    return run.processes.least(int(left * (1 - RESERVE - 2 * SHARE) / run.step_seconds))


def _nothing_held_out(config: TrainConfig) -> AnymambaError:
    return AnymambaError(
        "usage",
        _("--patience {patience}: there is nothing to validate on").format(patience=config.patience),
        fix=_("name a file with --val, or a share with --validation"),
    )


def _rows(config: TrainConfig, data: Corpus, parameters: int, tokenizer: Tokenizer) -> tuple[Rows, Rows | None, str]:
    """(rows to train on, rows held out, why this length)."""
    length, why = row_length(config, parameters, data.train)
    total = len(data.held_out.tokens)
    held_out: Rows | None = None
    rows: Rows
    if data.train.learn is not None:
        pad = tokenizer.pad_id or 0
        rows = PackedRows(data.train, length, pad)
        held_out = PackedRows(data.held_out, length, pad) if total else None
    else:
        rows = StreamRows(data.train, length, config.seed)
        held_out = StreamRows(data.held_out, min(length, total - 1), config.seed, shifted=False) if total > 1 else None
    return rows, held_out, why


def _fit_memory(run: Run, parameters: int, trained: int) -> str:
    """Settles micro-batch and activation checkpointing; why. trained: how many of the parameters are not frozen."""
    config, mine = run.config, run.plan.rows // run.processes.world
    model, device = run.model, run.processes.device
    model.backbone.gradient_checkpointing = config.checkpointing == "on"
    as_before = run.done.rows == run.plan.rows and config.checkpointing == (run.folder.before or config).checkpointing
    if run.folder.resumed is not None and as_before and not config.micro_batch:
        kept = run.folder.resumed.state
        # the same parts in the same order: their sums are then the same to the last bit
        if mine % kept["micro_batch"] == 0:
            run.micro_batch = kept["micro_batch"]
            model.backbone.gradient_checkpointing |= bool(kept.get("recompute"))
            return _("as before")
    if config.micro_batch:
        run.micro_batch = max(size for size in range(1, min(config.micro_batch, mine) + 1) if mine % size == 0)
        return "" if run.micro_batch == config.micro_batch else _("a divisor of the rows")
    one = run.feeder.batch(0, run.processes.rank, run.processes.world).part(0, 1).to(device)
    frozen = trained < parameters
    reserved = 12 * trained // (run.processes.world if config.shard else 1)
    per_row = run.kept_row = fit.kept_bytes(model, one, run.autocast)
    if config.deterministic:
        run.micro_batch = fit.fixed_rows(per_row, mine, run.plan.length, device, reserved, parameters, frozen)
        return _("the same on every run")
    chosen = fit.choose_rows(per_row, mine, run.plan.length, device, reserved, parameters, frozen)
    if not chosen and config.checkpointing == "auto":
        model.backbone.gradient_checkpointing = True
        per_row = run.kept_row = fit.kept_bytes(model, one, run.autocast)
        chosen = fit.choose_rows(per_row, mine, run.plan.length, device, reserved, parameters, frozen)
    if not chosen:
        raise fit.nothing_fits(per_row, reserved, device)
    run.micro_batch = run.processes.least(chosen)
    return _("a row takes {row} of {free}").format(row=memory.text(per_row), free=memory.text(memory.left(device)))


def _finish(run: Run, result: Result) -> None:
    for tracker in run.trackers:
        tracker.close()
    if not run.processes.main:
        return
    if result.steps > run.done.step:
        run.folder.write_run({**run.folder.read_run(), "backends": backends_used()})
    metrics = read_metrics(run.folder.path)
    run.reporter.curve(
        [(row["step"], row["loss"]) for row in metrics if "loss" in row],
        [(row["step"], row["val_loss"]) for row in metrics if "val_loss" in row],
        _("loss (nats a token) over the steps"),
    )
