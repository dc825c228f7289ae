"""The demo: a small byte-level Mamba on the documentation text inside every Python, against the clock.

The text of ``pydoc_data.topics`` repeats itself: many topics are parts of longer ones. Paragraphs that were seen before are left
out first, so that nothing of the held-out text is trained on.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from anymamba.backends import dispatch
from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import load_tokenizer
from anymamba.training.loop.loop import Result
from anymamba.training.loop.sample import write_sample
from anymamba.training.machine.parallel import Processes
from anymamba.training.machine.precision import choose_precision
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.train import backends_used, train
from anymamba.training.show.report import Reporter

SECTION = 3000
"""Characters of a document, at least: topics are cut at paragraphs into parts of this size, and some parts are held out."""

SLICE = 32
"""Tokens in a row of the slice on which the two ways to scan are compared: the same on every machine, for the ratio grows with it."""

SLICE_SECONDS = 10.0
"""For the comparison; a machine that needs longer makes the fewer repetitions."""

REPETITIONS = (3, 5)


@dataclass(frozen=True)
class Comparison:
    """One forward and backward pass of the model of the demo over the same rows, on one thread, with the chosen backends and with the
    reference (plain PyTorch, whose scan goes token by token in Python), in turn. One thread, since that loop uses hardly more however many
    there are: with all of them the figure would tell the number of cores. seconds, sequential_seconds: medians of the repetitions."""

    rows: int
    length: int
    repetitions: int
    seconds: float
    sequential_seconds: float

    @property
    def times_faster(self) -> float:
        return self.sequential_seconds / self.seconds


@dataclass(frozen=True)
class Demo:
    """What the demo shows."""

    result: Result
    paragraph: str
    backends: dict[str, dict[str, str]]
    comparison: Comparison
    seconds: float


def sections() -> list[str]:
    """The corpus: every paragraph of ``pydoc_data.topics`` once, in parts of about SECTION characters.

    Raises AnymambaError where a distribution has left the module out of its Python.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise AnymambaError(
            "data",
            _("this Python has no pydoc_data.topics, the text of the demo"),
            why=str(error),
            fix=_("train on a text of your own: anymamba train FILE"),
        ) from error
    earlier: set[str] = set()
    parts: list[str] = []
    paragraphs: list[str] = []
    # long topics first: what they contain is dropped from the short ones that repeat it, not the other way round
    for __, topic in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        for paragraph in topic.split("\n\n"):
            key = " ".join(paragraph.split())
            if key and key not in earlier:
                earlier.add(key)
                paragraphs.append(paragraph.strip("\n"))
            if sum(map(len, paragraphs)) >= SECTION:
                parts.append("\n\n".join(paragraphs) + "\n")
                paragraphs = []
    return [*parts, "\n\n".join(paragraphs) + "\n"]


def run_demo(out: Path, minutes: float, size: str, seed: int, reporter: Reporter) -> Demo:
    """Trains into ``out`` for about ``minutes`` and writes a paragraph. Raises what ``train`` raises."""
    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    corpus = out / "topics.jsonl"
    corpus.write_text("".join(json.dumps({"text": part}, ensure_ascii=False) + "\n" for part in sections()), "utf-8")
    config = demo_config(corpus, out, minutes, size, seed)
    processes = Processes(config.device)
    result = train(config, "", reporter, processes)
    model = hub.load(result.checkpoint, device=processes.device)
    tokenizer = load_tokenizer(result.checkpoint)
    paragraph = _paragraph(write_sample(model, tokenizer, PROMPT, seed, chat=False, tokens=500))
    used = backends_used()
    reporter.note(_("comparing with a scan that goes token by token ..."))
    return Demo(result, paragraph, used, compare(model, processes.device, config), time.perf_counter() - begin)


PROMPT = "The "
STEPS = 450


def demo_config(corpus: Path, out: Path, minutes: float, size: str, seed: int) -> TrainConfig:
    """Settings found by trying. Bits per byte held out with the text of Python 3.11: 300 steps 1.77, 450 steps 1.69; later steps
    learn the text by heart. A machine too slow for STEPS in the time makes fewer, and still brings its rate down in full.
    """
    return TrainConfig(
        data=[str(corpus)],
        out=str(out),
        size=size,
        length=256,
        batch_tokens=2048,
        steps=STEPS,
        max_minutes=minutes,
        lr=4e-3,
        warmup=20,
        floor=0.02,
        weight_decay=0.1,
        eval_every=100,
        eval_tokens=0,
        sample_every=-1,
        save_every=100_000,
        keep=1,
        validation=0.05,
        seed=seed,
    )


def compare(model: LanguageModel, device: torch.device, config: TrainConfig) -> Comparison:
    """Rows at once and precision are those of training; the rows are cut to SLICE tokens for both sides.

    The loop's time grows at least in proportion to the length, so longer rows would not flatter it.
    """
    rows = max(1, config.batch_tokens // config.length)
    dtype, _ = choose_precision(config.precision, device)

    def seconds(backend: str | None, length: int = SLICE) -> float:
        ids = torch.randint(0, 256, (rows, length), device=device)
        with dispatch.use_backend(backend):
            begin = time.perf_counter()
            with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                loss = model(ids, targets=ids).loss
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - begin

    model.train()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds(None)  # what happens only once is not counted
        seconds("reference", 2)
        fewest, most = REPETITIONS
        begin = time.perf_counter()
        pairs: list[tuple[float, float]] = []
        while len(pairs) < fewest or (len(pairs) < most and time.perf_counter() - begin < SLICE_SECONDS):
            pairs.append((seconds(None), seconds("reference")))
    finally:
        torch.set_num_threads(threads)
        model.zero_grad(set_to_none=True)
    ours, sequential = (statistics.median(side) for side in zip(*pairs))
    return Comparison(rows, SLICE, len(pairs), ours, sequential)


def _paragraph(text: str) -> str:
    """Up to the end of a sentence or paragraph, so that it does not stop in a word."""
    ends = [text.rfind(mark) for mark in (".\n", ". ", "\n\n")]
    end = max(ends)
    return text[: end + 1] if end > len(text) // 2 else text


def document(demo: Demo) -> dict[str, Any]:
    """The demo as one JSON document."""
    score = demo.result.score
    return {
        "bits_per_byte": score.bits_per_byte if score else None,
        "loss": demo.result.loss,
        "steps": demo.result.steps,
        "tokens_per_s": round(demo.result.tokens_per_s, 1),
        "comparison": {**asdict(demo.comparison), "threads": 1, "times_faster": round(demo.comparison.times_faster, 1)},
        "paragraph": demo.paragraph,
        "backends": {op: sorted(names) for op, names in sorted(demo.backends.items())},
        "seconds": round(demo.seconds, 1),
        "checkpoint": str(demo.result.checkpoint),
    }
