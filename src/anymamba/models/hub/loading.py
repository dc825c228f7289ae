"""A model from a checkpoint: a Hugging Face folder, a name on the hub, or one of the original forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from anymamba.errors import AnymambaError, UnsupportedError
from anymamba.language import _, ngettext
from anymamba.models import FAMILIES, families
from anymamba.models.config import Config
from anymamba.models.family import Family
from anymamba.models.hub import files, original, quantized, weights
from anymamba.models.hub.names import TensorNames
from anymamba.models.hub.stacks import Stacks
from anymamba.models.lm import LanguageModel
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

    Reads folders of transformers' Mamba, Mamba2, FalconMamba, GraniteMoeHybrid, Bamba, FalconH1, NemotronH, Zamba2 and Jamba
    (...ForCausalLM), of mamba_ssm (state-spaces/mamba-*, mamba2-*, mamba3-*) and of Codestral. dtype: of the parameters; by default as
    saved. device: by default the CPU.
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
    mapped: bool = False,
) -> Kind:
    """``load`` into a subclass of LanguageModel that is made like it. mapped: weights that need no change are used where the file lies in
    memory, without a copy: nobody may write into the file while the model lives."""
    folder = find(source)
    config = load_config(folder)
    if a_activation is not None:
        config.choose_activation(a_activation)
    with torch.device("meta"):
        model = kind(config)
    _fill(model, folder, dtype, torch.device(device or "cpu"), _is_rounded(folder), mapped)
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
        config = _config(values, folder / "config.json")
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
        names = [form.name for family in families.every_family() for form in family.originals if form.file == "config.json"]
        original.refuse("ssm_cfg.layer", original.layer_of(values), names)
    raise AnymambaError(
        "checkpoint",
        _("{folder} is no checkpoint: it has no config.json").format(folder=folder),
        why=_("it has: ") + files.listing(folder),
        fix=_("name the folder that has config.json and the weights"),
    )


def _config(values: dict[str, Any], file: Path) -> Config:
    """From a Hugging Face config.json. Errors name the file."""
    kind: type[Config] = family_named(values.get("model_type"), file).config
    try:
        return kind.from_dict(values)
    except AnymambaError as error:
        raise type(error)(error.code, f"{file}: {error.what}", error.why, error.fix) from error
    except (TypeError, ValueError, ZeroDivisionError, KeyError) as error:  # a number that is a word, a list that is null
        raise AnymambaError(
            "checkpoint",
            _("{file} is no configuration of a {model_type}").format(file=file, model_type=kind.model_type),
            why=f"{type(error).__name__}: {error}",
        ) from error


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


def _is_rounded(folder: Path) -> bool:
    values = files.read_json(folder / "config.json", missing={})
    return isinstance(values, dict) and quantized.is_rounded(values, folder / "config.json")


def _fill(
    model: LanguageModel, folder: Path, dtype: torch.dtype | None, device: torch.device, rounded: bool, mapped: bool
) -> None:
    """Replaces the meta parameters by those of the folder. rounded: it has matrices in fewer bits. mapped: as of ``load_as``."""
    wanted = dict(model.named_parameters(remove_duplicate=False))
    tied = model.config.tie_word_embeddings
    if tied:
        del wanted[HEAD]
    shared = wanted.keys() - dict(model.named_parameters()).keys()
    unexpected: list[str] = []
    misshaped: list[str] = []
    family = families.family_of(model.config)
    names = TensorNames(family, model.config)
    stacks = Stacks(dtype, device)
    parts: dict[str, Tensor] = {}
    for saved_name, tensor in weights.read(folder):
        name = names.ours(saved_name)
        if rounded and quantized.is_part(name, tensor):
            parts[name] = tensor
            wanted.pop(name, None)
            continue
        place = names.place(saved_name)
        if place is not None and name in wanted:
            misshape, whole = stacks.put(name, saved_name, tensor, wanted[name], *place)
            misshaped += misshape
            if whole is not None:
                wanted.pop(name)
                _assign(model, name, whole)
            continue
        if name not in wanted:
            if not (tied and name == HEAD) and name not in shared and not saved_name.startswith(family.ignored):
                unexpected.append(saved_name)
            continue
        parameter = wanted.pop(name)
        for other in [other for other, same in wanted.items() if same is parameter]:  # of a module that several blocks share
            del wanted[other]
        if tensor.shape != parameter.shape:
            if name in (TABLE, HEAD) and tensor.shape[1:] == parameter.shape[1:]:
                raise _vocabulary_mismatch(folder, saved_name, tensor, model.config)
            misshaped.append(
                _("{name} {shape}, expected {expected}").format(
                    name=saved_name, shape=tuple(tensor.shape), expected=tuple(parameter.shape)
                )
            )
        else:
            # else a copy, aligned and not tied to the file, which may be replaced while the model lives
            _assign(model, name, tensor.to(device=device, dtype=_dtype(parameter, dtype), copy=not mapped))
    if wanted or unexpected or misshaped:
        raise _key_mismatch(folder, sorted(wanted), unexpected, misshaped)
    quantized.place(model, parts, device, folder)
    if tied and not quantized.tie(model):
        model.lm_head.weight = model.backbone.embeddings.weight


def _dtype(parameter: nn.Parameter, dtype: torch.dtype | None) -> torch.dtype | None:
    """In which a parameter is loaded: some would choose otherwise after rounding."""
    return torch.float32 if dtype is not None and getattr(parameter, "always_float32", False) else dtype


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
