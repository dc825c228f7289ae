"""Step folders: a Hugging Face checkpoint with what training needs beside it, there whole or not at all.

    step-000500/  config.json model.safetensors tokenizer.json ...   what transformers and ``anymamba.load`` read
                  optimizer.safetensors                              AdamW's two moments of every parameter, by name
                  trainer_state.json                                 step, derived sizes, random generators
    best/         the weights of the best validation, and in validation.json when that was; nothing to continue from
    last.txt      the name of the newest one (a file, since Windows has no links for everyone)
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models import hub, lora
from anymamba.models.hub import adapter_files, files
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer
from anymamba.training.machine import disk, parallel

BEST = "best"

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """A step folder; state: what ``trainer_state.json`` holds."""

    folder: Path
    state: dict[str, Any]


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def save(
    run: Path, step: int, model: LanguageModel, optimizer: torch.optim.Optimizer, tokenizer: Tokenizer, state: dict[str, Any], main: bool,
    base: str = "",
) -> Path:
    """Writes the step folder of this run, then last.txt. Every process must call it; the main one writes. base: of a model with adapters,
    of which these alone are written: where it can be found.

    Raises AnymambaError when the disk is full; older checkpoints are as they were.
    """
    target = run / step_name(step)
    weights = _written(model)
    moments: dict[str, Tensor] = {}
    count = 0.0
    for name, parameter in model.named_parameters():
        kept = optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            if moment in kept:
                moments[f"{name}.{moment}"] = parallel.full(kept[moment]).cpu().contiguous()
                count = float(kept["step"])
    if not main:
        return target
    with disk.full_disk_is_named(run), files.whole_folder(target) as temporary:
        _write_weights(model, temporary, tokenizer, weights, base)
        save_file(moments, temporary / "optimizer.safetensors", {"format": "pt"})
        files.write_json(
            temporary / "trainer_state.json",
            {**state, "step": step, "optimizer_step": count, "random": _random_state()},
        )
    write_whole(run / "last.txt", target.name + "\n")
    return target


def save_best(
    run: Path, model: LanguageModel, tokenizer: Tokenizer, about: dict[str, Any], saved: Path | None, main: bool, base: str = ""
) -> None:
    """Writes the weights to ``best``, whole or not at all. Every process must call it; the main one writes.

    saved: the newest step folder; where it is of this very step, its weights file gets a second name instead of a copy.
    """
    same = saved is not None and saved.name == step_name(about["step"])
    weights = {} if same else _written(model)
    if not main:
        return
    with disk.full_disk_is_named(run), files.whole_folder(run / BEST) as temporary:
        if same:
            assert saved is not None
            for file in saved.iterdir():
                if file.name in ("optimizer.safetensors", "trainer_state.json"):
                    continue
                if not (file.name.endswith(".safetensors") and _linked(file, temporary / file.name)):
                    shutil.copy2(file, temporary / file.name)
        else:
            _write_weights(model, temporary, tokenizer, weights, base)
        files.write_json(temporary / "validation.json", about)


def _written(model: LanguageModel) -> dict[str, Tensor]:
    """What a checkpoint keeps of the model, whole: all of it, or its adapters alone. Every process must ask."""
    only = lora.adapter_names(model)
    state = model.state_dict()
    return {name: parallel.full(tensor) for name, tensor in state.items() if not only or ".adapters." in name}


def _write_weights(model: LanguageModel, folder: Path, tokenizer: Tokenizer, weights: dict[str, Tensor], base: str) -> None:
    if lora.adapter_names(model):
        adapter_files.write(model, folder, base, tensors=weights)
        tokenizer.save(folder)
    else:
        hub.write(model, folder, tokenizer, state=weights)


def _linked(file: Path, name: Path) -> bool:
    """Gives a file a second name; False where the file system has no such thing, and a copy must do."""
    try:
        os.link(file, name)
    except OSError:
        return False
    return True


def write_whole(path: Path, text: str) -> None:
    """Replaces a small file so that a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.partial")
    with disk.full_disk_is_named(path.parent):
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def newest(run: Path) -> Checkpoint | None:
    """The newest step folder of a run, or None. Folders appear by renaming, so each that has its name is whole."""
    folders = []
    if (run / "last.txt").is_file():
        folders.append(run / (run / "last.txt").read_text("utf-8").strip())
    steps = sorted((entry for entry in run.glob("step-*") if re.fullmatch(r"step-\d+", entry.name)), key=_step_of, reverse=True)
    for folder in [*steps, *folders]:
        if (folder / "trainer_state.json").is_file():
            return open_checkpoint(folder)
    return None


def open_checkpoint(folder: Path) -> Checkpoint:
    """Raises AnymambaError when the folder is not one that training wrote."""
    state = files.read_json(folder / "trainer_state.json")
    if not isinstance(state, dict) or "step" not in state:
        raise AnymambaError(
            "checkpoint",
            _("{folder} holds no training state").format(folder=folder),
            why=_("it has: ") + files.listing(folder),
            fix=_("--resume continues a run of `anymamba train`; to start from a model use --from"),
        )
    return Checkpoint(folder, state)


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts AdamW's moments and the random generators back; the weights were read when the model was made.

    Raises AnymambaError when the file is cut short or belongs to another model.
    """
    path = checkpoint.folder / "optimizer.safetensors"
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            for name, parameter in model.named_parameters():
                if not {f"{name}.{moment}" for moment in MOMENTS} <= names:
                    continue
                state: dict[str, Any] = {}
                for moment in MOMENTS:
                    whole = file.get_tensor(f"{name}.{moment}")
                    if whole.shape != parameter.shape:
                        raise _damaged(path, f"{name}: {tuple(whole.shape)}, {tuple(parameter.shape)}")
                    state[moment] = parallel.like_shard(whole, parameter)
                state["step"] = torch.tensor(checkpoint.state["optimizer_step"], dtype=torch.float32)
                if optimizer.defaults.get("fused") and parameter.device.type != "cpu":
                    state["step"] = state["step"].to(parameter.device)
                optimizer.state[parameter] = state
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    _set_random_state(checkpoint.state["random"])


def remove_older(run: Path, keep: int) -> None:
    """All step folders but the newest ``keep``; 0: none is removed. A crash in the middle leaves a folder that is not used."""
    steps = sorted((entry for entry in run.glob("step-*") if re.fullmatch(r"step-\d+", entry.name)), key=_step_of)
    for folder in steps[:-keep] if keep else []:
        _remove(folder)


def remove_newer(run: Path, step: int) -> list[str]:
    """The names of the step folders beyond ``step``, which are removed: a run that goes back has one future, not two."""
    newer = [entry for entry in run.glob("step-*") if re.fullmatch(r"step-\d+", entry.name) and _step_of(entry) > step]
    if newer:
        write_whole(run / "last.txt", step_name(step) + "\n")
    for folder in newer:
        _remove(folder)
    return [folder.name for folder in newer]


def _remove(folder: Path) -> None:
    """At once for whoever looks, since the name goes first."""
    gone = folder.with_name("." + folder.name)
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(run: Path) -> None:
    """Removes what a killed process left half written."""
    for entry in run.glob(".*"):
        if entry.is_dir() and re.match(r"\.(step-\d+|data|val|best)(\.|$)", entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def room_needed(run: Path, parameters: int, keep: int, validates: bool) -> int:
    """Bytes that the checkpoints of a run will take beyond those that are there: one is written before the oldest is removed."""
    present = sum(1 for entry in run.glob("step-*") if re.fullmatch(r"step-\d+", entry.name))
    steps = max(1, keep + 1 - present) if keep else 1
    best = 4 * parameters if validates else 0
    return steps * size_on_disk(parameters) + best


def size_on_disk(parameters: int) -> int:
    """Bytes of a step folder: weights and two moments in float32."""
    return 12 * parameters


def _step_of(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _random_state() -> dict[str, str]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {name: base64.b64encode(state.numpy().tobytes()).decode("ascii") for name, state in states.items()}


def _set_random_state(kept: dict[str, str]) -> None:
    states = {name: torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8) for name, text in kept.items()}
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _damaged(path: Path, why: str) -> AnymambaError:
    return AnymambaError(
        "checkpoint",
        _("{path} is damaged, missing or belongs to another model").format(path=path),
        why=why,
        fix=_("continue from an older step folder: --resume PATH"),
    )
