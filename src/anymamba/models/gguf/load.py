"""A model from a GGUF file: matrices stay in the mapped file as they lie where products read them so, all else is unpacked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from anymamba import announce
from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.config import Config
from anymamba.models.gguf import architectures, values
from anymamba.models.gguf.architectures import Place
from anymamba.models.gguf.file import GGUFFile, TensorInfo
from anymamba.models.gguf.vocabulary import has_tokenizer, tokenizer_of
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer
from anymamba.models.trunk.stored_linear import StoredEmbedding, StoredLinear
from anymamba.reference import blocks

HEAD, TABLE = "lm_head.weight", "backbone.embeddings.weight"
Kind = TypeVar("Kind", bound=LanguageModel)


def load_as(kind: type[Kind], file: GGUFFile, dtype: torch.dtype | None, device: torch.device) -> Kind:
    """The file's model, of a class that is made like LanguageModel, in eval mode.

    dtype: None: on the CPU matrices are used as they lie, with everything else in float32; elsewhere all is unpacked to bfloat16. Else
    everything is unpacked to it. What is unpacked though it might have been used as it lies, for want of a kernel, is said in one line.
    Raises AnymambaError naming the tensor and its place in the file.
    """
    config = architectures.config_of(file)
    wanted = architectures.places(config)
    for name in [name for name in wanted if _absent(name, config)]:
        del wanted[name]
    _check_names(file, wanted)
    with torch.device("meta"):
        model = kind(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    lies = dtype is None and device.type == "cpu"
    target = torch.float32 if lies else dtype or torch.bfloat16
    unpacked: Counter[str] = Counter()
    for name, place in wanted.items():
        info = file.tensors[place.name]
        path, _dot, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if lies and _stays(owner, name, info):
            _check_shape(file, info, info.shape, shapes[name])
            kind_of_layer = StoredLinear if isinstance(owner, nn.Linear) else StoredEmbedding
            _replace(model, path, kind_of_layer(values.as_it_lies(file, info), info.shape[-1]))
            continue
        if lies and isinstance(owner, nn.Linear) and info.type.name not in (*values.PLAIN, *values.AS_THEY_LIE):
            unpacked[info.type.name] += info.bytes
        tensor = place.read(values.unpacked(file, info))
        _check_shape(file, info, tuple(tensor.shape), shapes[name])
        _check_finite(file, info, name, tensor)
        setattr(owner, leaf, _parameter(getattr(owner, leaf), tensor.to(device, target)))
    if HEAD not in wanted:
        _tie(model, file, file.tensors[wanted[TABLE].name], lies)
    if unpacked:
        announce.once(_sentence(file.path, unpacked))
    return model.eval()


def _absent(name: str, config: Config) -> bool:
    return (name == HEAD and config.tie_word_embeddings) or (name.endswith("conv1d.bias") and not config.use_conv_bias)


def _stays(owner: nn.Module, name: str, info: TensorInfo) -> bool:
    """Whether the matrix is used from the file: one of a linear layer, in a type that products read, or an embedding in blocks. dt_proj is
    small, and mixers read its weight themselves."""
    if isinstance(owner, nn.Embedding):
        return info.type.name.lower() in blocks.BYTES
    return isinstance(owner, nn.Linear) and info.type.name in values.AS_THEY_LIE and not name.endswith("dt_proj.weight")


def _tie(model: LanguageModel, file: GGUFFile, info: TensorInfo, lies: bool) -> None:
    """The head is the embedding's matrix: in the file where it stays there, else the unpacked one."""
    if lies and info.type.name in values.AS_THEY_LIE:
        model.lm_head = StoredLinear(values.as_it_lies(file, info), info.shape[-1])  # type: ignore[assignment]
    else:
        model.lm_head.weight = model.backbone.embeddings.weight


def _parameter(old: Tensor, values_: Tensor) -> nn.Parameter:
    new = nn.Parameter(values_.contiguous(), requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__)  # marks such as _no_weight_decay
    return new


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _dot, leaf = path.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)


def _check_names(file: GGUFFile, wanted: dict[str, Place]) -> None:
    names = {place.name for place in wanted.values()}
    for name in sorted(names - file.tensors.keys()):
        raise architectures.missing(file, name)
    for name in sorted(file.tensors.keys() - names):
        info = file.tensors[name]
        raise AnymambaError(
            "gguf",
            _("{path}: tensor {name} (byte {offset}) belongs to no part of the model").format(
                path=file.path, name=repr(name[:80])[1:-1], offset=info.offset
            ),
            why=_("the metadata describe a {architecture} without it").format(architecture=file.metadata["general.architecture"]),
        )


def _check_shape(file: GGUFFile, info: TensorInfo, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise AnymambaError(
            "gguf",
            _("{path}: tensor {name} (byte {offset}) is {shape}, and the metadata ask for {expected}").format(
                path=file.path, name=info.name, offset=info.offset, shape=shape, expected=expected
            ),
        )


def _check_finite(file: GGUFFile, info: TensorInfo, name: str, tensor: Tensor) -> None:
    """Of A, whose logarithm we have: a positive number would be none."""
    if name.endswith("A_log") and bool(tensor.isnan().any()):
        raise AnymambaError(
            "gguf",
            _("{path}: tensor {name} (byte {offset}) has numbers above 0, and A is negative").format(
                path=file.path, name=info.name, offset=info.offset
            ),
        )


def _sentence(path: Path, unpacked: Counter[str]) -> str:
    parts = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in unpacked.items())
    return _("{path}: unpacked to float32, for no kernel reads them as they lie: {parts}").format(path=path.name, parts=parts)


def load(
    kind: type[Kind], path: Path, dtype: torch.dtype | None, device: torch.device, *, a_activation: str | None = None,
    vocabulary: bool = True,
) -> tuple[Kind, Tokenizer | None]:  # fmt: skip
    """``load_as`` of a path, and the file's tokenizer; None where it has none or nobody wants the ``vocabulary``."""
    file = GGUFFile(path)
    if a_activation is not None:
        architectures.config_of(file).choose_activation(a_activation)  # raises: GGUF has no Mamba-3
    words = tokenizer_of(file) if vocabulary and has_tokenizer(file) else None
    return load_as(kind, file, dtype, device), words
