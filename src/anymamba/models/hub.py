"""Checkpoints: Hugging Face folders and the original forms in, Hugging Face folders out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from anymamba.errors import AnymambaError, UnsupportedError
from anymamba.language import _, ngettext
from anymamba.models import FAMILIES, families, files, original, weights
from anymamba.models.config import Config
from anymamba.models.family import Family
from anymamba.models.lm import LanguageModel
from anymamba.models.names import TensorNames
from anymamba.models.tokenizer import Tokenizer, has_tokenizer, load_tokenizer

HEAD, TABLE = "lm_head.weight", "backbone.embeddings.weight"
SHARD_BYTES = 5 * 10**9


def load(
    source: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    a_activation: str | None = None,
) -> LanguageModel:
    """A model in eval mode from a checkpoint folder, or from the Hugging Face hub where no such folder exists.

    Reads folders of MambaForCausalLM, Mamba2ForCausalLM and FalconMambaForCausalLM, of mamba_ssm (state-spaces/mamba-*,
    mamba2-*, mamba3-*) and of Codestral. dtype: of the parameters; by default as saved. device: by default the CPU.
    a_activation: of a Mamba-3, instead of what its configuration says; where that says nothing, both are tried on a short text in the
    tokens of ``tokenizer`` (by default the folder's) and one line on stderr tells the choice.
    Raises AnymambaError that says which file, key or shape is wrong.
    """
    return load_as(LanguageModel, source, dtype, device, tokenizer=tokenizer, a_activation=a_activation)


Kind = TypeVar("Kind", bound=LanguageModel)


def load_as(
    kind: type[Kind],
    source: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    a_activation: str | None = None,
) -> Kind:
    """``load`` into a subclass of LanguageModel that is made like it."""
    folder = find(source)
    config = load_config(folder)
    if a_activation is not None:
        config.choose_activation(a_activation)
    with torch.device("meta"):
        model = kind(config)
    _fill(model, folder, dtype, torch.device(device or "cpu"))
    config.settle(model.eval(), lambda: tokenizer or (load_tokenizer(folder) if has_tokenizer(folder) else None))
    return model


def find(source: str | Path) -> Path:
    """The checkpoint's local folder; a hub name is downloaded if no such path exists."""
    path = Path(source).expanduser()
    if path.is_dir():
        return files.newest_step(path)
    if path.exists():
        raise AnymambaError(
            "checkpoint",
            _("{path} is a file").format(path=path),
            fix=_("name the folder of the checkpoint: {folder}").format(folder=path.parent),
        )
    if not files.looks_like_hub_name(str(source)):
        raise AnymambaError(
            "checkpoint",
            _("there is no folder {path}").format(path=path),
            why=_("{folder} has: ").format(folder=path.parent) + files.listing(path.parent),
        )
    return files.download(str(source), ["*.json", "*.safetensors", "pytorch_model*.bin", "tokenizer*", "*.jinja"])


def load_config(folder: Path) -> Config:
    """The configuration of a checkpoint folder, whatever its form."""
    values = files.read_json(folder / "config.json")
    if isinstance(values, dict) and not original.is_original(values):
        config: Config = family_named(values.get("model_type"), folder / "config.json").config.from_dict(values)
        # as transformers and vLLM do: where a text ends is what generation_config.json says, if it says anything
        ends = files.read_json(folder / "generation_config.json", missing={}).get("eos_token_id")
        config.eos_token_id = config.eos_token_id if ends is None else ends
        return config
    contents: dict[str, Any] = {}
    for form in (form for family in families.every_family() for form in family.originals):
        if form.file not in contents:
            contents[form.file] = files.read_json(folder / form.file)
        if isinstance(contents[form.file], dict) and form.recognises(contents[form.file]):
            return form.config(contents[form.file])
    if isinstance(values, dict):
        known = [form.name for family in families.every_family() for form in family.originals if form.file == "config.json"]
        original.refuse("ssm_cfg.layer", original.layer_of(values), known)
    raise AnymambaError(
        "checkpoint",
        _("{folder} is no checkpoint: it has no config.json").format(folder=folder),
        why=_("it has: ") + files.listing(folder),
        fix=_("name the folder that has config.json and the weights"),
    )


def family_named(model_type: Any, where: Path | str) -> Family[Any]:
    """The family of this ``model_type`` in a file. Raises UnsupportedError listing those there are."""
    if model_type not in FAMILIES and model_type not in families.names():
        raise UnsupportedError(
            "checkpoint",
            _("{where}: model_type {model_type!r} is not a model of anymamba").format(
                where=where, model_type=model_type
            ),
            fix=_("known: ") + ", ".join(families.names()),
        )
    return families.family(model_type)


def save(
    model: nn.Module,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    state: Mapping[str, Tensor] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a Hugging Face folder that transformers.AutoModelForCausalLM.from_pretrained loads, under a temporary name that
    becomes ``folder`` when all is written. Other files of an existing folder stay. Arguments as of ``write``."""
    with files.whole_folder(Path(folder), replaces=(*weights.PATTERNS, "params.json")) as temporary:
        write(model, temporary, tokenizer, state=state, shard_bytes=shard_bytes)


def write(
    model: nn.Module,
    folder: Path,
    tokenizer: Tokenizer | None = None,
    *,
    state: Mapping[str, Tensor] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """The files of ``save``, straight into an existing folder: config.json, generation_config.json, model.safetensors (shards
    above shard_bytes), the tokenizer's. state: the parameters by name, where the model's own are spread over processes.

    Every token that ends a text, or an answer by the chat template, stands in generation_config.json. A head that was tied and no longer is
    the embedding's table is written too. Raises AnymambaError for a model with adapters or parametrisations: their names are others.
    """
    config: Config = model.config  # type: ignore[assignment]
    tensors = {name: tensor.detach() for name, tensor in (model.state_dict() if state is None else state).items()}
    _check_names(tensors, config)
    tied = config.tie_word_embeddings and _same_table(tensors.get(HEAD), tensors[TABLE])
    if tied:
        tensors.pop(HEAD, None)
    values = {**config.to_dict(), "tie_word_embeddings": tied}
    dtype = str(tensors[TABLE].dtype).removeprefix("torch.")
    values.update(dtype=dtype, torch_dtype=dtype)  # the newer and the older name of the same field
    if tokenizer is not None:
        check_vocabulary(config, tokenizer)
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        values.update({name: value for name, value in ids.items() if value is not None})
        tokenizer.save(folder)
    files.write_json(folder / "config.json", values)
    special = {name: values[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    special["eos_token_id"] = _ends(config, tokenizer)
    files.write_json(folder / "generation_config.json", {"_from_model_config": True, **special})
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise AnymambaError(
            "disk",
            _("the weights need {needed:.2f} GB, {folder} has {free:.2f} GB free").format(
                needed=needed / 1e9, folder=folder, free=free / 1e9
            ),
            fix=_("free some space or choose another folder"),
        )
    names = TensorNames(families.family_of(config), config)
    weights.write({names.saved(name): tensor.to("cpu").contiguous() for name, tensor in tensors.items()}, folder, shard_bytes)


def _check_names(tensors: Mapping[str, Tensor], config: Config) -> None:
    """A folder that nothing could load is not written."""
    with torch.device("meta"):
        expected = LanguageModel(config).state_dict().keys()
    missing, other = sorted(expected - tensors.keys() - {HEAD}), sorted(tensors.keys() - expected)
    if missing or other:
        raise AnymambaError(
            "checkpoint",
            _("the model is not saved: it has {name}").format(name=other[0])
            if other
            else _("the model is not saved: it lacks {name}").format(name=missing[0]),
            why=_("adapters, wrappers or parametrisations gave its weights names that no program would load"),
            fix=_("merge them first (PEFT: merge_and_unload), or save the adapters alone (PEFT: save_pretrained)"),
        )


def _same_table(head: Tensor | None, table: Tensor) -> bool:
    return head is None or head.data_ptr() == table.data_ptr() or (head.shape == table.shape and torch.equal(head, table))


def _ends(config: Config, tokenizer: Tokenizer | None) -> int | list[int] | None:
    """Of generation_config.json: one id, or a list where an answer ends in another token than a text."""
    if tokenizer is None or not tokenizer.end_ids:
        return config.eos_token_id
    # a list was read from a generation_config.json; a single id may be no more than the configuration's default
    listed = config.eos_token_id if isinstance(config.eos_token_id, list) else []
    ends = list(dict.fromkeys([*tokenizer.end_ids, *listed]))
    return ends if len(ends) > 1 else ends[0]


def check_vocabulary(config: Config, tokenizer: Tokenizer) -> None:
    """Raises AnymambaError when the tokenizer has ids that the model's embedding has no row for."""
    if tokenizer.vocab_size > config.vocab_size:
        raise AnymambaError(
            "vocabulary",
            _("the tokenizer has {tokenizer_vocab_size} tokens, the model {config_vocab_size}").format(
                tokenizer_vocab_size=tokenizer.vocab_size, config_vocab_size=config.vocab_size
            ),
            fix=_("use the tokenizer that the model was trained with"),
        )


def _fill(model: LanguageModel, folder: Path, dtype: torch.dtype | None, device: torch.device) -> None:
    """Replaces the meta parameters by those of the folder."""
    wanted = dict(model.named_parameters(remove_duplicate=False))
    tied = model.config.tie_word_embeddings
    if tied:
        del wanted[HEAD]
    unexpected: list[str] = []
    misshaped: list[str] = []
    names = TensorNames(families.family_of(model.config), model.config)
    for saved_name, tensor in weights.read(folder):
        name = names.ours(saved_name)
        if name not in wanted:
            if not (tied and name == HEAD):
                unexpected.append(saved_name)
            continue
        parameter = wanted.pop(name)
        if tensor.shape != parameter.shape:
            if name in (TABLE, HEAD) and tensor.shape[1:] == parameter.shape[1:]:
                raise _vocabulary_mismatch(folder, saved_name, tensor, model.config)
            misshaped.append(
                _("{name} {shape}, expected {expected}").format(
                    name=saved_name, shape=tuple(tensor.shape), expected=tuple(parameter.shape)
                )
            )
        else:
            # a copy, aligned and not tied to the file, which may be replaced while the model lives
            _assign(model, name, tensor.to(device=device, dtype=dtype, copy=True))
    if wanted or unexpected or misshaped:
        raise _key_mismatch(folder, sorted(wanted), unexpected, misshaped)
    if tied:
        model.lm_head.weight = model.backbone.embeddings.weight


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__)  # marks such as _no_weight_decay
    setattr(module, leaf, new)


def _vocabulary_mismatch(folder: Path, name: str, tensor: Tensor, config: Config) -> AnymambaError:
    return AnymambaError(
        "vocabulary",
        ngettext(
            "{folder}: {name} has {rows} row, config.json says vocab_size {vocab_size}",
            "{folder}: {name} has {rows} rows, config.json says vocab_size {vocab_size}",
            tensor.shape[0],
        ).format(folder=folder, name=name, rows=tensor.shape[0], vocab_size=config.vocab_size),
        why=_("weights and configuration come from different models"),
    )


def _key_mismatch(folder: Path, missing: list[str], unexpected: list[str], misshaped: list[str]) -> AnymambaError:
    parts = [
        (_("missing"), missing),
        (_("unexpected"), unexpected),
        (_("of another shape"), misshaped),
    ]
    why = "; ".join(f"{title} ({len(names)}): {_some(names)}" for title, names in parts if names)
    return AnymambaError(
        "checkpoint",
        _("the weights in {folder} are not those of its configuration").format(folder=folder),
        why=why,
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
