"""Which models GGUF files hold that are ours: their configuration from the metadata, their tensors' names, and what llama.cpp changed in
the values (llama.cpp's ``convert_hf_to_gguf.py`` and ``src/models/mamba.cpp``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymamba.errors import AnymambaError, UnsupportedError
from anymamba.language import _, ngettext
from anymamba.models.config import Config
from anymamba.models.falcon_mamba import FalconMambaConfig
from anymamba.models.gguf.file import GGUFFile
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba2 import Mamba2Config


@dataclass(frozen=True)
class Place:
    """Where a tensor of our model is in a file. read: from the file's values to ours; write: back."""

    name: str
    read: Callable[[Tensor], Tensor] = lambda values: values
    write: Callable[[Tensor], Tensor] = lambda values: values


def _flat(values: Tensor) -> Tensor:
    return values.flatten()


def _column(values: Tensor) -> Tensor:
    return values[:, None]


_A = Place("ssm_a", lambda a: torch.log(-a.float()), lambda log: -torch.exp(log.float()))
_A_OF_HEADS = Place("ssm_a", lambda a: torch.log(-a.float()).flatten(), lambda log: -torch.exp(log.float())[:, None])
_OUTSIDE = {
    "backbone.embeddings.weight": "token_embd.weight", "backbone.norm_f.weight": "output_norm.weight", "lm_head.weight": "output.weight",
}  # fmt: skip
_BLOCK = {
    "norm.weight": Place("attn_norm.weight"),
    "mixer.in_proj.weight": Place("ssm_in.weight"),
    "mixer.conv1d.weight": Place("ssm_conv1d.weight", lambda taps: taps[:, None], lambda weight: weight[:, 0]),
    "mixer.conv1d.bias": Place("ssm_conv1d.bias"),
    "mixer.out_proj.weight": Place("ssm_out.weight"),
}
_BY_CHANNEL = {
    **_BLOCK, "mixer.A_log": _A, "mixer.D": Place("ssm_d"), "mixer.x_proj.weight": Place("ssm_x.weight"),
    "mixer.dt_proj.weight": Place("ssm_dt.weight"), "mixer.dt_proj.bias": Place("ssm_dt.bias"),
}  # fmt: skip


def _by_head(config: Mamba2Config) -> dict[str, Place]:
    groups = config.n_groups
    norm = Place("ssm_norm.weight", _flat, lambda weight: weight.reshape(groups, -1))
    return {
        **_BLOCK, "mixer.A_log": _A_OF_HEADS, "mixer.D": Place("ssm_d", _flat, _column), "mixer.dt_bias": Place("ssm_dt.bias"),
        "mixer.norm.weight": norm,
    }  # fmt: skip


def places(config: Config) -> dict[str, Place]:
    """Of every tensor of a model with this configuration: our name -> where it is in the file."""
    block = _by_head(config) if isinstance(config, Mamba2Config) else _BY_CHANNEL
    result = {ours: Place(theirs) for ours, theirs in _OUTSIDE.items()}
    for index in range(config.num_hidden_layers):
        for name, place in block.items():
            theirs = Place(f"blk.{index}.{place.name}", place.read, place.write)
            result[f"backbone.layers.{index}.{name}"] = theirs
    return result


def config_of(file: GGUFFile) -> Config:
    """Raises UnsupportedError for a model that is none of ours, AnymambaError for a number that is missing or belongs to other tensors
    than the file's."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ("mamba", "mamba2"):
        raise UnsupportedError(
            "gguf",
            _("{path} holds a model of architecture {architecture!r}, which is not one of anymamba").format(
                path=file.path, architecture=architecture
            ),
            fix=_("known: ") + "mamba, mamba2",
        )
    values = _Metadata(file, architecture)
    tensors = file.tensors
    layers = values.whole("block_count")
    if layers > len(tensors):
        raise values.wrong("block_count", layers, _("the file has {count} tensors").format(count=len(tensors)))
    hidden, inner = values.whole("embedding_length"), values.whole("ssm.inner_size")
    table = tensors.get("token_embd.weight")
    if table is None:
        raise missing(file, "token_embd.weight")
    if table.shape[-1] != hidden or len(table.shape) != 2:
        raise values.wrong("embedding_length", hidden, _("token_embd.weight is {shape}").format(shape=table.shape))
    shared: dict[str, Any] = {
        "vocab_size": table.shape[0], "hidden_size": hidden, "num_hidden_layers": layers, "expand": inner / hidden,
        "state_size": values.whole("ssm.state_size"), "conv_kernel": values.whole("ssm.conv_kernel"),
        "layer_norm_epsilon": values.number("attention.layer_norm_rms_epsilon"), "use_bias": False,
        "use_conv_bias": "blk.0.ssm_conv1d.bias" in tensors, "tie_word_embeddings": "output.weight" not in tensors,
        **_special(file.metadata),
    }  # fmt: skip
    rank = values.whole("ssm.time_step_rank")
    if architecture == "mamba2":
        if inner % rank:
            raise values.wrong("ssm.time_step_rank", rank, _("ssm.inner_size {size} is no multiple of it").format(size=inner))
        groups = values.whole("ssm.group_count")
        config: Config = Mamba2Config(**shared, num_heads=rank, head_dim=inner // rank, n_groups=groups)
    elif file.metadata.get("mamba.ssm.dt_b_c_rms"):
        # the file has one epsilon, and llama.cpp takes it for these norms too
        config = FalconMambaConfig(**shared, time_step_rank=rank, mixer_rms_eps=shared["layer_norm_epsilon"])
    else:
        config = MambaConfig(**shared, time_step_rank=rank)
    if config.d_inner != inner:
        raise values.wrong("ssm.inner_size", inner, _("embedding_length is {size}").format(size=hidden))
    return config


def metadata_of(config: Config) -> tuple[str, dict[str, Any]]:
    """The architecture and the metadata of a file with such a model, numbers under the architecture's name. Raises UnsupportedError for a
    model that llama.cpp does not know."""
    rank = int(config.time_step_rank)
    numbers: dict[str, Any] = {
        "context_length": 2**20, "embedding_length": config.hidden_size, "feed_forward_length": 0, "attention.head_count": 0,
        "block_count": config.num_hidden_layers, "attention.layer_norm_rms_epsilon": float(config.layer_norm_epsilon),
        "ssm.conv_kernel": config.conv_kernel, "ssm.inner_size": config.d_inner, "ssm.state_size": config.state_size,
    }  # fmt: skip
    reason = ""
    if config.use_bias:
        reason = _("its projections have biases (use_bias), for which GGUF has no place")
    elif not config.use_conv_bias:
        reason = _("its convolution has no bias (use_conv_bias), and llama.cpp wants one")
    elif isinstance(config, Mamba2Config):
        if config.time_step_limit != (0.0, math.inf):
            reason = _("it limits its time steps (time_step_limit), which llama.cpp does not")
        numbers |= {"ssm.time_step_rank": config.num_heads, "ssm.group_count": config.n_groups}
        if not reason:
            return "mamba2", numbers
    elif isinstance(config, MambaConfig):
        if config.d_inner != 2 * config.hidden_size:
            reason = _("its expand is {expand}, and llama.cpp's mamba always has 2").format(expand=config.expand)
        numbers |= {"ssm.time_step_rank": rank, "ssm.dt_b_c_rms": isinstance(config, FalconMambaConfig)}
        if not reason:
            return "mamba", numbers
    else:
        reason = _("llama.cpp has no such model")
    raise UnsupportedError("gguf", _("a {kind} model cannot be written as GGUF: {reason}").format(kind=config.model_type, reason=reason))


def missing(file: GGUFFile, name: str) -> AnymambaError:
    return AnymambaError(
        "gguf",
        _("{path} has no tensor {name}").format(path=file.path, name=name),
        why=ngettext("it has {count} tensor", "it has {count} tensors", len(file.tensors)).format(count=len(file.tensors)),
        fix=_("copy or download it again"),
    )


class _Metadata:
    """Numbers of one architecture, each checked."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self._file, self._architecture = file, architecture

    def whole(self, key: str) -> int:
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**24:
            raise self.wrong(key, value, _("it must be a whole number above 0"))
        return value

    def number(self, key: str) -> float:
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise self.wrong(key, value, _("it must be a number from 0 to 1"))
        return float(value)

    def wrong(self, key: str, value: Any, why: str) -> AnymambaError:
        what = _("{path}: metadata {key} is {value!r}").format(path=self._file.path, key=f"{self._architecture}.{key}", value=value)
        return AnymambaError("gguf", what, why=why)

    def _value(self, key: str) -> Any:
        name = f"{self._architecture}.{key}"
        if name not in self._file.metadata:
            raise AnymambaError("gguf", _("{path} lacks the metadata {key}").format(path=self._file.path, key=name))
        return self._file.metadata[name]


def _special(metadata: Mapping[str, Any]) -> dict[str, int | None]:
    """bos_token_id and so on, where the file has them."""
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    values = {ours: metadata.get(f"tokenizer.ggml.{theirs}") for ours, theirs in names.items()}
    return {name: value if isinstance(value, int) else None for name, value in values.items()}
