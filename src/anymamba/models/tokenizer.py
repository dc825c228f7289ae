"""Text to token ids and back, for every model: any ``tokenizer.json``, or the built-in byte tokenizer.

tokenizer = load_tokenizer("folder, tokenizer.json or hub name")     or     byte_tokenizer()
tokenizer.encode("text") -> list[int]         tokenizer.decode(ids) -> str
tokenizer.vocab_size, .eos_id, .bos_id, .pad_id, .chat_template
tokenizer.save(folder)                        transformers.AutoTokenizer.from_pretrained(folder) loads it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.hub import files

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

CHAT_TEMPLATE = (
    "{{ bos_token or eos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""For tokenizers that have CHAT_TOKENS: <|endoftext|><|user|>question<|end|><|assistant|>answer<|end|>. The first token stands there
because training puts it before every example, and others that render this template must read what was trained."""

Message = dict[str, str]


class Tokenizer:
    """A ``tokenizers.Tokenizer`` (``backend``), the names of its special tokens, and a chat template.

    eos, bos, pad: the tokens' text, or None. chat_template: Jinja source in transformers' dialect, or None; may be assigned.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        eos: str | None = None,
        bos: str | None = None,
        pad: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.backend = backend
        self.eos, self.bos, self.pad = eos, bos, pad
        self.chat_template = chat_template
        self._literal: tokenizers.Tokenizer | None = None
        self._special: list[str] | None = None
        self._turn_end: tuple[str, int | None] | None = None
        self._is_bytes = _ids_are_bytes(backend)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included: the least number of rows an embedding needs."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def eos_id(self) -> int | None:
        return self.token_id(self.eos)

    @property
    def bos_id(self) -> int | None:
        return self.token_id(self.bos)

    @property
    def pad_id(self) -> int | None:
        return self.token_id(self.pad)

    @property
    def end_of_turn_id(self) -> int | None:
        """The special token that the chat template writes after an answer (``<|end|>``, ``<|im_end|>``, ...), or None without one."""
        if not self.chat_template:
            return None
        if self._turn_end is None or self._turn_end[0] != self.chat_template:
            self._turn_end = self.chat_template, self._find_end_of_turn()
        return self._turn_end[1]

    @property
    def end_ids(self) -> list[int]:
        """Every token that ends a text or an answer, the end of a text first."""
        return list(dict.fromkeys(token for token in (self.eos_id, self.end_of_turn_id) if token is not None))

    def _find_end_of_turn(self) -> int | None:
        answer = "anymamba"
        try:
            rendered = self.render_chat([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}], False)
        except AnymambaError:  # a template that rejects so plain a conversation; its words come when somebody chats
            return None
        special = {token for token, added in self.backend.get_added_tokens_decoder().items() if added.special}
        after = self.encode(rendered.rpartition(answer)[2], special=True)
        return next((token for token in after if token in special), None)

    def token_id(self, token: str | None) -> int | None:
        """The id of a token given by its text (``"<|end|>"``), or None when there is no such token."""
        return None if token is None else self.backend.token_to_id(token)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of the text; nothing is added before or after.

        special: read ``<|endoftext|>`` and the like in the text as those tokens. By default they are ordinary characters, so
        that no document can forge the end of another one; only text made by ``render_chat`` should be read with True.
        """
        if special:
            return list(self.backend.encode(text, add_special_tokens=False).ids)
        if self._is_bytes:
            return list(text.encode("utf-8"))  # the same ids, 100 times faster
        # the copy of a large vocabulary takes longer than all else that stands before a prompt's first token
        backend = self.backend if self._has_no_special(text) else self._without_specials()
        return list(backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """``encode`` for many texts, on all cores."""
        if self._is_bytes and not special:
            return [self.encode(text) for text in texts]
        backend = self.backend if special else self._without_specials()
        return [list(encoding.ids) for encoding in backend.encode_batch(list(texts), add_special_tokens=False)]

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        """``encode_batch`` as unsigned integers, for text by the gigabyte: the bytes of a byte model are never Python numbers."""
        if self._is_bytes:
            return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]
        return [np.asarray(ids, dtype=np.uint32) for ids in self.encode_batch(texts)]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of the ids. An incomplete UTF-8 sequence at either end gives U+FFFD."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def add_special_tokens(self, tokens: Sequence[str]) -> int:
        """Adds those that are missing at the end of the vocabulary; the number added."""
        self._literal = self._special = None
        return int(
            self.backend.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in tokens])
        )

    def render_chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation by the chat template; encode it with ``special=True``.

        messages: ``{"role": "system" | "user" | "assistant", "content": text}``. Raises AnymambaError without a template, or
        when the template rejects the conversation.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if not self.chat_template:
            raise AnymambaError(
                "tokenizer",
                _("this tokenizer has no chat template"),
                fix=_("use a model that was tuned on instructions (`anymamba train --help`, stage 2)"),
            )
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            return environment.from_string(self.chat_template).render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos or "",
                eos_token=self.eos or "",
            )
        except TemplateError as error:
            raise AnymambaError(
                "tokenizer",
                _("the chat template rejects this conversation"),
                why=str(error),
            ) from error

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json into the folder (made if missing)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": int(1e30),  # transformers' number for "no limit": the state has no length
            "padding_side": "left",
        }
        for name, token in (("bos_token", self.bos), ("eos_token", self.eos), ("pad_token", self.pad)):
            if token is not None:
                config[name] = token
        if self.chat_template:
            config["chat_template"] = self.chat_template
        (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=False), encoding="utf-8")
        files.write_json(folder / "tokenizer_config.json", config)

    def _has_no_special(self, text: str) -> bool:
        """Whether no special token can be read in this text, so that nothing has to be kept from being one."""
        if self._special is None:
            special_tokens = [token for token in self.backend.get_added_tokens_decoder().values() if token.special]
            # where a normalizer runs first, the text does not show what is looked for in it: "" is in every text
            normalized = self.backend.normalizer is not None and any(token.normalized for token in special_tokens)
            self._special = [""] if normalized else [token.content for token in special_tokens]
        return not any(special in text for special in self._special)

    def _without_specials(self) -> tokenizers.Tokenizer:
        # a second object, because the switch is a property of the whole tokenizer and other threads may be encoding with it
        if self._literal is None:
            self._literal = tokenizers.Tokenizer.from_str(self.backend.to_str())
            self._literal.encode_special_tokens = True
        return self._literal


def byte_tokenizer() -> Tokenizer:
    """Every byte of UTF-8 is a token: id = byte value. 256 <|endoftext|> (also the beginning), 257 <|pad|>, then CHAT_TOKENS.

    It is a byte-level BPE without merges, so that a plain ``tokenizer.json`` expresses it.
    """
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = Tokenizer(backend, eos=END_OF_TEXT, bos=END_OF_TEXT, pad=PAD, chat_template=CHAT_TEMPLATE)
    tokenizer.add_special_tokens((END_OF_TEXT, PAD, *CHAT_TOKENS))
    return tokenizer


def load_tokenizer(source: str | Path) -> Tokenizer:
    """From a folder with tokenizer.json (a checkpoint, or a run, which stands for its newest), from a tokenizer.json, "bytes", or,
    where no such path exists, from a Hugging Face hub name (downloaded once). Raises AnymambaError that says what was found instead."""
    if str(source) == "bytes":
        return byte_tokenizer()
    path = Path(source).expanduser()
    if path.is_file():
        return _read(path, path.parent)
    path = files.newest_step(path)
    if not path.exists() and files.looks_like_hub_name(str(source)):
        path = files.download(
            str(source), ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]
        )
    if not (path / "tokenizer.json").is_file():
        raise AnymambaError(
            "tokenizer",
            _("no tokenizer.json in {source}").format(source=source),
            why=_("it has: ") + files.listing(path),
            fix=_where_it_is(path),
        )
    return _read(path / "tokenizer.json", path)


def _where_it_is(folder: Path) -> str:
    """What to do for a checkpoint folder without a tokenizer: the published models of mamba_ssm have none in theirs."""
    values = files.read_json(folder / "config.json", missing={})
    ssm = values.get("ssm_cfg") if isinstance(values, dict) else None
    if isinstance(ssm, dict) and ssm.get("layer") == "Mamba3":
        return _(
            "name the tokenizer with --tokenizer. state-spaces/mamba3-* were trained with that of Llama 3.1, gated by "
            "Meta: accept its licence at https://huggingface.co/meta-llama/Llama-3.1-8B, run `hf auth login`, then "
            "--tokenizer meta-llama/Llama-3.1-8B, or a folder that has its tokenizer.json"
        )
    return _("name the tokenizer with --tokenizer (state-spaces/mamba-* and mamba2-* use EleutherAI/gpt-neox-20b)")


def has_tokenizer(folder: str | Path) -> bool:
    """Whether ``load_tokenizer(folder)`` has something to load."""
    return (files.newest_step(Path(folder)) / "tokenizer.json").is_file()


def _read(file: Path, folder: Path) -> Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:
        raise AnymambaError(
            "tokenizer",
            _("{file} is not a tokenizer of the `tokenizers` library").format(file=file),
            why=str(error),
        ) from error
    # truncation and padding that a training script left in the file would silently cut long texts
    backend.no_truncation()
    backend.no_padding()
    config = files.read_json(folder / "tokenizer_config.json", missing={})
    special = files.read_json(folder / "special_tokens_map.json", missing={})
    names = {kind: _text(config.get(kind + "_token") or special.get(kind + "_token")) for kind in ("eos", "bos", "pad")}
    if names["eos"] is None and backend.token_to_id(END_OF_TEXT) is not None:
        names["eos"] = END_OF_TEXT
    return Tokenizer(backend, **names, chat_template=_chat_template(config, folder))


def _chat_template(config: dict[str, Any], folder: Path) -> str | None:
    separate = folder / "chat_template.jinja"
    if separate.is_file():
        return separate.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _ids_are_bytes(backend: tokenizers.Tokenizer) -> bool:
    """Whether this is ``byte_tokenizer()``, whatever special tokens were added to it."""
    if backend.get_vocab_size(with_added_tokens=False) != 256 or backend.normalizer is not None:
        return False
    return all(backend.token_to_id(character) == byte for byte, character in enumerate(_byte_characters()))


def _byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table): printable Latin-1 stands for itself,
    the others for the characters from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
