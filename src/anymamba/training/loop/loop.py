"""The steps of a run, from an open folder to the last checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from anymamba import printable
from anymamba.errors import ArgumentError
from anymamba.language import _
from anymamba.training.data.rows import Batch
from anymamba.training.loop import divergence, graphed_pass, matmulshare, optim
from anymamba.training.loop.evaluate import Score
from anymamba.training.loop.interrupt import Interrupt
from anymamba.training.loop.pace import Pace
from anymamba.training.loop.sample import write_sample
from anymamba.training.loop.timelimit import TimeLimit
from anymamba.training.loop.validation import Validation, score_line
from anymamba.training.machine import memory, parallel
from anymamba.training.run import checkpoint
from anymamba.training.run.continuing import schedule_of
from anymamba.training.run.parts import Result, Run
from anymamba.training.run.runfolder import read_metrics
from anymamba.training.show.report import progress_line

PROFILED_STEP = 8
"""After this many steps of this process matrix products are timed: kernels are compiled and the time of a step is known."""

EAGER_STEPS = 2
"""Steps before a CUDA graph is captured: the optimiser's moments must have their memory first."""

LOSSES_AT_ONCE = 10
"""Steps whose losses are fetched together from an accelerator, which would stand still for each."""


class Loop:
    """The state that moves from step to step; ``train`` runs them all."""

    def __init__(self, run: Run) -> None:
        self.run = run
        config, plan = run.config, run.plan
        self.optimizer = optim.adamw(
            run.model.named_parameters(), run.decaying, plan.lr, config.weight_decay, (config.beta1, config.beta2), run.processes.device
        )
        self.step, self.before = run.done.step, 0.0
        self.pace = Pace(config.max_minutes * 60, run.begin, run.step_seconds)
        self.score: Score | None = None
        self.loss = math.nan
        self.share: float | None = None
        self.saved: Path | None = None
        self._waiting: list[tuple[int, Tensor, Tensor, float]] = []
        alone = run.processes.world == 1 and run.wrapped is run.model
        self._graphed = graphed_pass.GraphedPass(run.model, run.autocast) if alone and graphed_pass.supports(run.model)[0] else None
        state = run.folder.resumed.state if run.folder.resumed is not None else {}
        self.validation = Validation(run, state)
        if run.folder.resumed is not None:
            self._resume()
        self.schedule = schedule_of(config, plan)
        self.limit = TimeLimit(run, self.pace, self.step)

    def _resume(self) -> None:
        saved = self.run.folder.resumed
        assert saved is not None
        checkpoint.restore(saved, self.run.model, self.optimizer)
        self.before, self.saved = saved.state["seconds"], saved.folder
        if self.run.processes.main:
            self.run.folder.forget_after(self.step)
            for gone in checkpoint.remove_newer(self.run.folder.path, self.step):
                self.run.reporter.note(_("{folder} lies ahead of this start and is removed").format(folder=gone))
        if self.validation.best_step > self.step:  # of a future that is gone
            self.validation = Validation(self.run, {})
        self.loss = next((row["loss"] for row in reversed(read_metrics(self.run.folder.path)) if "loss" in row), math.nan)

    def train(self, interrupt: Interrupt | None = None) -> Result:
        """Steps until the plan is done, time or patience is up or someone interrupts; then a last validation and a checkpoint."""
        run = self.run
        run.wrapped.train()
        with interrupt or Interrupt() as signals:
            self._steps(signals)
            code = signals.exit_code
        self._fetch()
        if self.saved is None or self.saved.name != checkpoint.step_name(self.step):
            self._save(finished=False)
        run.reporter.end_line()
        assert self.saved is not None
        best = run.folder.path / checkpoint.BEST
        return Result(
            self.saved, self.step, self.loss, self.score, code, self._tokens(self.step), self.seconds, self.pace.tokens_per_s, self.share,
            best if self.validation.best_step and best.is_dir() else None, self.validation.best_step,
        )  # fmt: skip

    def _steps(self, signals: Interrupt) -> None:
        run, plan = self.run, self.run.plan
        started_at = self.step
        while self.step < plan.steps:
            try:
                whole = self.one_step(lambda: bool(signals.asked) or self.pace.out_of_time)
            except ArgumentError as error:  # the ops look at their inputs, and the sizes of a batch are never wrong
                raise divergence.diverged(_("step {step} failed").format(step=self.step + 1), error.what) from error
            if whole:
                self.report()
                if self.step - started_at == PROFILED_STEP:
                    self._time_products()
                if self.pace.looks(self.step - started_at, run.processes.world == 1) and self.limit.fit(self.step):
                    self.schedule = schedule_of(run.config, plan)
            asked, late = self._any(bool(signals.asked)), self._any(self.pace.out_of_time)
            done = not asked and (late or self.step >= plan.steps)
            validated = False
            if done or (whole and self._validation_is_due()):
                self._validate(signals, self.step - started_at)
                validated = self.validation.best_step == self.step
                done = done or (not asked and self.validation.exhausted)
            asked = asked or self._any(bool(signals.asked))
            if plan.sample_every > 0 and not asked and ((whole and self.step % plan.sample_every == 0) or done):
                self._sample(signals)
            if done or asked or (whole and self.step % plan.save_every == 0 and self.limit.may_save()):
                self._save(finished=done)
            if validated:
                self._save_best()
            if done or asked:
                break

    def _validation_is_due(self) -> bool:
        plan = self.run.plan
        # shortly before the end the last one does, with the more rows
        near = not self.run.config.eval_every and plan.steps - self.step < plan.eval_every / 2
        return self.step % plan.eval_every == 0 and not near

    def _any(self, flag: bool) -> bool:
        return self.run.processes.any(flag) if self.run.processes.world > 1 else flag

    @property
    def seconds(self) -> float:
        return self.before + self.pace.elapsed

    def one_step(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Forward and backward of the step's rows, clipping, AdamW; True. Or, when ``stop`` says so between two micro-batches, False:
        then nothing of this step has happened to the weights."""
        run, plan, processes = self.run, self.run.plan, self.run.processes
        batch = run.feeder.batch(self.step, processes.rank, processes.world)
        counted = processes.sum(float(batch.counted))[0] if processes.world > 1 else float(batch.counted)
        total = torch.zeros((), dtype=torch.float32, device=processes.device)
        rows = batch.input_ids.shape[0]
        for first in range(0, rows, run.micro_batch):
            if run.thread_watch is not None:
                run.reporter.note(run.thread_watch.look())
            if first and self._stops_within(stop):
                self.optimizer.zero_grad(set_to_none=True)
                self.pace.pause("abandoned")
                return False
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
        if processes.world == 1 and processes.device.type == "cpu":
            divergence.refuse(run, self.step + 1, float(total), float(norm), rate, batch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._waiting.append((self.step, total, norm, rate))
        self.pace.add(plan.rows * plan.length)
        return True

    def _stops_within(self, stop: Callable[[], bool]) -> bool:
        """The same answer in all processes. On accelerators only a single process asks: a step is short there, and they would wait."""
        if self.run.processes.world == 1:
            return stop()
        return self.run.processes.device.type == "cpu" and self.run.processes.any(stop())

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
        parts = -(-run.plan.rows // (run.processes.world * run.micro_batch))
        if self.pace.limit and (step_seconds or 0.0) / parts > 0.01 * self.pace.limit:
            return  # a figure that is nice to know, and would take more than a hundredth of the time
        batch = run.feeder.batch(self.step, processes.rank, processes.world)
        part = batch.part(0, run.micro_batch).to(processes.device)
        with processes.accumulating(run.wrapped, last=True):
            seconds = matmulshare.product_seconds(lambda: self._loss(part, 1.0).backward(), processes.device)
        self.optimizer.zero_grad(set_to_none=True)
        if step_seconds:
            self.share = min(1.0, seconds * (batch.input_ids.shape[0] // run.micro_batch) / step_seconds)
        self.pace.pause("profile")

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
        for (step, __, norm, rate), loss in zip(self._waiting, losses):
            divergence.refuse(run, step, loss, float(norm), rate)
            row = {
                "step": step,
                "loss": loss,
                "lr": rate,
                "grad_norm": float(norm),
                "tokens": self._tokens(step),
                "tokens_per_s": round(self.pace.tokens_per_s, 1),
                "matmul_share": None if self.share is None else round(self.share, 3),
                "memory": memory.used(run.processes.device),
                "threads": torch.get_num_threads(),
                "seconds": round(self.seconds, 3),
            }
            if run.processes.main:
                run.folder.add_metrics(**row)
                for tracker in run.trackers:
                    tracker.log(step, {"loss": loss, "lr": rate, "grad_norm": float(norm), "tokens_per_s": self.pace.tokens_per_s})
        self.loss = losses[-1]
        self._waiting.clear()
        run.reporter.progress(progress_line(row, run.plan.steps, self.pace.left(run.plan.steps - self.step)), step >= run.plan.steps)

    def _tokens(self, step: int) -> int:
        """Tokens read up to this step, over all processes and parts of the run."""
        plan, done = self.run.plan, self.run.done
        return done.tokens + (step - done.step) * plan.rows * plan.length

    def _validate(self, signals: Interrupt, steps_done: int) -> None:
        run = self.run
        self._fetch()
        score = self.validation.score(self.step, self.pace, steps_done, lambda: self._any(bool(signals.asked)))
        if score is None or run.held_out is None:
            return
        self.score = score
        values = {"val_loss": score.loss, "perplexity": score.perplexity}
        if score.bits_per_byte is not None:
            values["bits_per_byte"] = score.bits_per_byte
        if run.processes.main:
            run.folder.add_metrics(step=self.step, **values)
            for tracker in run.trackers:
                tracker.log(self.step, values)
        run.reporter.note(score_line(self.step, score, run.held_out.count))
        if self.validation.exhausted:
            run.reporter.note(
                _("no better validation since step {best_step}: stopping early (--patience {patience})").format(
                    best_step=self.validation.best_step, patience=run.config.patience
                )
            )

    def _sample(self, signals: Interrupt) -> None:
        """Only where one process has all of the model: a shard cannot generate alone."""
        run = self.run
        self._fetch()
        if run.processes.main and not (run.config.shard and run.processes.world > 1):
            text = write_sample(
                run.model, run.tokenizer, run.config.sample_prompt, run.config.seed, run.config.instruct,
                question=run.question, seconds=self.limit.sample_seconds, stop=lambda: bool(signals.asked),
            )  # fmt: skip
            run.folder.add_sample(self.step, text)
            line = printable.shown(" ".join(text.split()), run.reporter.stream)
            run.reporter.note(_("  sample: ") + (line if len(line) <= 200 else line[:200] + " ..."))
        self.pace.pause("sample")

    def _save(self, finished: bool) -> None:
        run, plan = self.run, self.run.plan
        self._fetch()
        state = {
            "steps": plan.steps,
            "planned": run.done.planned,
            "warmup": plan.warmup,
            "lr": plan.lr,
            "rows": plan.rows,
            "row": run.done.row + (self.step - run.done.step) * plan.rows,
            "tokens": self._tokens(self.step),
            "finished": finished,
            "micro_batch": run.micro_batch,
            "recompute": run.model.backbone.gradient_checkpointing,
            "threads": torch.get_num_threads(),
            "seconds": self.seconds,
            **self.validation.state(),
        }
        self.saved = checkpoint.save(
            run.folder.path, self.step, run.model, self.optimizer, run.tokenizer, state, run.processes.main, run.base
        )
        if run.processes.main:
            checkpoint.remove_older(run.folder.path, run.config.keep)
        run.processes.any(False)  # nobody reads or removes a folder that is still being written
        self.pace.pause("checkpoint")

    def _save_best(self) -> None:
        run = self.run
        about = {"step": self.step, "val_loss": self.validation.best_loss}
        checkpoint.save_best(run.folder.path, run.model, run.tokenizer, about, self.saved, run.processes.main, run.base)
        run.processes.any(False)
        self.pace.pause("best")
