"""The steps of a run, from an open folder to the last checkpoint."""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anymamba import printable
from anymamba.errors import AnymambaError, ArgumentError
from anymamba.language import say
from anymamba.models import graphed_pass
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer
from anymamba.training import checkpoint, matmulshare, memory, optim, parallel
from anymamba.training.config import TrainConfig
from anymamba.training.derive import Plan, set_intervals
from anymamba.training.evaluate import Score, evaluate
from anymamba.training.interrupt import Interrupt
from anymamba.training.pace import Pace
from anymamba.training.packing import Batch, Feeder, Rows
from anymamba.training.parallel import Processes
from anymamba.training.report import Reporter, progress_line
from anymamba.training.runfolder import RunFolder
from anymamba.training.sample import write_sample
from anymamba.training.schedule import Schedule
from anymamba.training.threads import ThreadWatch
from anymamba.training.trackers import Tracker

PROFILED_STEP = 8
"""After this many steps of this process matrix products are timed: kernels are compiled and the time of a step is known."""

EAGER_STEPS = 2
"""Steps before a CUDA graph is captured: the optimiser's moments must have their memory first."""

LOSSES_AT_ONCE = 10
"""Steps whose losses are fetched together from an accelerator, which would stand still for each."""


@dataclass
class Run:
    """Everything the loop works with. model: bare; wrapped: what is called. held_out: rows of validation, or None."""

    config: TrainConfig
    plan: Plan
    folder: RunFolder
    processes: Processes
    reporter: Reporter
    trackers: list[Tracker]
    tokenizer: Tokenizer
    model: LanguageModel
    wrapped: nn.Module
    feeder: Feeder
    held_out: Rows | None
    bytes_per_token: float | None
    micro_batch: int
    dtype: torch.dtype | None
    decaying: set[str]
    thread_watch: ThreadWatch | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, dtype=self.dtype)


@dataclass(frozen=True)
class Result:
    """checkpoint: the last step folder. score: of the last validation, None when nothing is held out. exit_code: 0, or 130
    after Ctrl-C. tokens, seconds: of the whole run, parts before a resume included. tokens_per_s: of this part's steps."""

    checkpoint: Path
    steps: int
    loss: float
    score: Score | None
    exit_code: int
    tokens: int
    seconds: float
    tokens_per_s: float
    matmul_share: float | None


class Loop:
    """The state that moves from step to step; ``train`` runs them all."""

    def __init__(self, run: Run) -> None:
        self.run = run
        config, plan = run.config, run.plan
        self.optimizer = optim.adamw(
            run.model.named_parameters(), run.decaying, plan.lr, config.weight_decay, (config.beta1, config.beta2), run.processes.device
        )
        self.step = 0
        self.before = 0.0
        self.pace = Pace(config.max_minutes * 60)
        self.score: Score | None = None
        self.loss = math.nan
        self.share: float | None = None
        self.saved: Path | None = None
        self._waiting: list[tuple[int, Tensor, Tensor, float]] = []
        alone = run.processes.world == 1 and run.wrapped is run.model
        self._graphed = graphed_pass.GraphedPass(run.model, run.autocast) if alone and graphed_pass.supports(run.model)[0] else None
        if run.folder.resumed is not None:
            self._resume()
        self.schedule = self._schedule()

    def _resume(self) -> None:
        found = self.run.folder.resumed
        assert found is not None
        checkpoint.restore(found, self.run.model, self.optimizer)
        self.step, self.before = found.state["step"], found.state["seconds"]
        self.run.plan.steps, self.run.plan.warmup = found.state["steps"], found.state["warmup"]
        self.saved = found.folder
        if self.run.processes.main:
            self.run.folder.forget_after(self.step)
            for gone in checkpoint.remove_newer(self.run.folder.path, self.step):
                self.run.reporter.note(say(f"{gone} lies ahead of this start and is removed", f"{gone} 在此起点之后，已移除"))

    def _schedule(self) -> Schedule:
        config, plan = self.run.config, self.run.plan
        decay = max(1, round(config.decay_share * plan.steps))
        return Schedule(config.schedule, plan.lr, plan.steps, plan.warmup, decay, config.floor)

    def train(self) -> Result:
        """Steps until the plan is done, time is up or someone interrupts; then a checkpoint and a last validation."""
        run, plan = self.run, self.run.plan
        run.wrapped.train()
        with Interrupt() as interrupt:
            started_at = self.step
            while self.step < plan.steps:
                try:
                    self.one_step()
                except ArgumentError as error:  # the ops look at their inputs, and the sizes of a batch are never wrong
                    raise self._diverged(say(f"step {self.step + 1} failed", f"第 {self.step + 1} 步失败"), error.what) from error
                self.report()
                if self.step - started_at == PROFILED_STEP:
                    self._time_products()
                if self.pace.looks(self.step - started_at):
                    self._fit_time()
                stop = self._should_stop(interrupt)
                done = self.step >= plan.steps or (stop and not interrupt.asked)
                if self.step % plan.eval_every == 0 or done:
                    self._validate()
                if plan.sample_every > 0 and (self.step % plan.sample_every == 0 or done):
                    self._sample()
                if self.step % plan.save_every == 0 or done or stop:
                    self._save()
                if stop:
                    break
            code = interrupt.exit_code
        self._fetch()
        if self.saved is None or self.saved.name != checkpoint.step_name(self.step):
            self._save()
        run.reporter.end_line()
        assert self.saved is not None
        tokens = self.step * plan.rows * plan.length
        return Result(
            self.saved, self.step, self.loss, self.score, code, tokens, self.seconds, self.pace.tokens_per_s, self.share
        )

    @property
    def seconds(self) -> float:
        return self.before + self.pace.elapsed

    def one_step(self) -> None:
        """Forward and backward of the step's rows, clipping, AdamW."""
        run, plan, processes = self.run, self.run.plan, self.run.processes
        batch = run.feeder.batch(self.step, processes.rank, processes.world)
        counted = processes.sum(float(batch.counted))[0] if processes.world > 1 else float(batch.counted)
        total = torch.zeros((), dtype=torch.float32, device=processes.device)
        rows = batch.input_ids.shape[0]
        for first in range(0, rows, run.micro_batch):
            if run.thread_watch is not None:
                run.reporter.note(run.thread_watch.look())
            part = batch.part(first, first + run.micro_batch).to(processes.device)
            last = first + run.micro_batch >= rows
            loss = self._replayed(part, counted)
            if loss is None:
                with processes.accumulating(run.wrapped, last):
                    loss = self._loss(part, counted)
                    # DDP and FSDP2 divide the sum over processes by their number; the normalizer has counted every process already
                    (loss * processes.world if processes.world > 1 else loss).backward()
            total += loss.detach()
        norm = self._clip()
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._waiting.append((self.step, total, norm, rate))
        self.pace.add(plan.rows * plan.length)

    def _replayed(self, part: Batch, counted: float) -> Tensor | None:
        """Loss and gradients by a CUDA graph, where there is one for such a batch."""
        if self._graphed is None or part.seq_idx is not None or self.step < EAGER_STEPS:
            return None
        return self._graphed(part.input_ids, part.labels, max(counted, 1.0))

    def _loss(self, part: Batch, counted: float) -> Tensor:
        with self.run.autocast():
            return self.run.wrapped(
                part.input_ids, targets=part.labels, seq_idx=part.seq_idx, normalizer=max(counted, 1.0)
            ).loss

    def _time_products(self) -> None:
        """The share of matrix products in a step's time, from a forward and backward pass whose gradients are thrown away."""
        run, processes = self.run, self.run.processes
        self._fetch()
        step_seconds = self.pace.left(1)
        batch = run.feeder.batch(self.step, processes.rank, processes.world)
        part = batch.part(0, run.micro_batch).to(processes.device)
        with processes.accumulating(run.wrapped, last=True):
            seconds = matmulshare.product_seconds(lambda: self._loss(part, 1.0).backward(), processes.device)
        self.optimizer.zero_grad(set_to_none=True)
        if step_seconds:
            self.share = min(1.0, seconds * (batch.input_ids.shape[0] // run.micro_batch) / step_seconds)
        self.pace.pause()

    def _clip(self) -> Tensor:
        limit = self.run.config.clip or math.inf
        return parallel.full(torch.nn.utils.clip_grad_norm_(self.run.model.parameters(), limit))

    def report(self) -> None:
        """Writes down and shows the losses that can be had without making an accelerator wait too often."""
        every = 1 if self.run.processes.device.type == "cpu" else LOSSES_AT_ONCE
        if len(self._waiting) >= every:
            self._fetch()

    def _fetch(self) -> None:
        """Brings the losses of the waiting steps here, writes them down and shows the last."""
        if not self._waiting:
            return
        run = self.run
        losses = run.processes.sum(*(loss for _, loss, _, _ in self._waiting))
        self.pace.synchronised()
        for (step, _, norm, rate), loss in zip(self._waiting, losses):
            if not math.isfinite(loss):
                what = say(f"the loss of step {step} is {loss}", f"第 {step} 步的损失为 {loss}")
                raise self._diverged(what, say(f"the learning rate was {rate:.2g}", f"学习率为 {rate:.2g}"))
            row = {
                "step": step,
                "loss": loss,
                "lr": rate,
                "grad_norm": float(norm),
                "tokens": step * run.plan.rows * run.plan.length,
                "tokens_per_s": round(self.pace.tokens_per_s, 1),
                "matmul_share": None if self.share is None else round(self.share, 3),
                "memory": memory.used(run.processes.device),
                "seconds": round(self.seconds, 3),
            }
            if run.processes.main:
                run.folder.add_metrics(**row)
                for tracker in run.trackers:
                    tracker.log(step, {"loss": loss, "lr": rate, "grad_norm": float(norm), "tokens_per_s": self.pace.tokens_per_s})
        self.loss = losses[-1]
        self._waiting.clear()
        run.reporter.progress(progress_line(row, run.plan.steps, self.pace.left(run.plan.steps - self.step)), step >= run.plan.steps)

    def _diverged(self, what: str, why: str) -> AnymambaError:
        return AnymambaError(
            "diverged",
            what,
            why=why,
            fix=say("lower --lr, or raise --warmup; earlier checkpoints are whole", "请降低 --lr 或增大 --warmup；此前的检查点完好"),
        )

    def _fit_time(self) -> None:
        """Sets the number of steps to what the time allows; the learning rate comes down in full all the same."""
        plan, config = self.run.plan, self.run.config
        first = not self.pace.planned
        self.pace.planned = self.pace.planned or plan.steps
        fits = min(self.pace.planned, self.run.processes.least(self.step + self.pace.steps_that_fit()))
        if fits == plan.steps:
            return
        plan.steps = max(fits, self.step + 1)
        plan.warmup = min(plan.warmup, max(1, plan.steps // 10))
        self.schedule = self._schedule()
        if first:
            set_intervals(plan, config)

    def _should_stop(self, interrupt: Interrupt) -> bool:
        asked = bool(interrupt.asked) or self.pace.out_of_time
        return self.run.processes.any(asked) if self.run.processes.world > 1 else asked

    def _validate(self) -> None:
        run = self.run
        if run.held_out is None:
            return
        self._fetch()
        score = evaluate(
            run.wrapped, run.held_out, run.micro_batch, run.processes, run.autocast, run.bytes_per_token, run.config.eval_tokens
        )
        if score is None:
            return
        self.score = score
        values = {"val_loss": score.loss, "perplexity": score.perplexity}
        if score.bits_per_byte is not None:
            values["bits_per_byte"] = score.bits_per_byte
        if run.processes.main:
            run.folder.add_metrics(step=self.step, **values)
            for tracker in run.trackers:
                tracker.log(self.step, values)
        run.reporter.note(score_line(self.step, score))
        self.pace.pause()

    def _sample(self) -> None:
        """Only where one process has all of the model: a shard cannot generate alone."""
        run = self.run
        if run.processes.main and not (run.config.shard and run.processes.world > 1):
            text = write_sample(run.model, run.tokenizer, run.config.sample_prompt, run.config.seed, run.config.instruct)
            run.folder.add_sample(self.step, text)
            shown = printable.shown(" ".join(text.split()), run.reporter.stream)
            run.reporter.note(say("  sample: ", "  采样：") + (shown if len(shown) <= 200 else shown[:200] + " ..."))
        self.pace.pause()

    def _save(self) -> None:
        run = self.run
        self._fetch()
        state = {
            "steps": run.plan.steps,
            "warmup": run.plan.warmup,
            "micro_batch": run.micro_batch,
            "recompute": run.model.backbone.gradient_checkpointing,
            "threads": torch.get_num_threads(),
            "seconds": self.seconds,
            "tokens": self.step * run.plan.rows * run.plan.length,
        }
        self.saved = checkpoint.save(
            run.folder.path, self.step, run.model, self.optimizer, run.tokenizer, state, run.processes.main
        )
        if run.processes.main:
            checkpoint.remove_older(run.folder.path, run.config.keep)
        run.processes.any(False)  # nobody reads or removes a folder that is still being written
        self.pace.pause()


def score_line(step: int, score: Score) -> str:
    """``step 100  held out: loss 1.23, perplexity 3.4, 1.78 bits per byte``"""
    bits = "" if score.bits_per_byte is None else say(
        f", {score.bits_per_byte:.3f} bits per byte", f"，每字节 {score.bits_per_byte:.3f} 比特"
    )
    return say(
        f"  step {step}, held out: loss {score.loss:.4f}, perplexity {score.perplexity:.2f}{bits}",
        f"  第 {step} 步，验证：损失 {score.loss:.4f}，困惑度 {score.perplexity:.2f}{bits}",
    )
