"""Files that are cut short, damaged or made to harm: an error that says where, and never more memory than the file's size explains."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.models.gguf.files import model_of, write

from anymamba.errors import AnymambaError
from anymamba.models.gguf.file import GGUFFile
from anymamba.models.gguf.load import load
from anymamba.models.gguf.write import write as write_whole
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.tokenizer import byte_tokenizer

NUMBERS = [0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with a tokenizer."""
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    model = model_of("mamba", MambaConfig(vocab_size=264, hidden_size=32, num_hidden_layers=1))
    write_whole(model, model.state_dict(), byte_tokenizer(), path, "Q8_0")
    return path.read_bytes()


def opened(content: bytes, path: Path) -> str:
    """What the file's reader says to it; "" if nothing. Any other exception than ours is a fault."""
    path.write_bytes(content)
    try:
        load(LanguageModel, path, None, torch.device("cpu"))
    except AnymambaError as error:
        assert str(path) in str(error) or "metadata" in str(error) or error.code in ("config", "tokenizer"), error
        return str(error)
    return ""


def test_cut_short_anywhere(whole: bytes, tmp_path: Path) -> None:
    for size in [0, 1, 3, 4, 7, 8, 15, 16, 23, 24, 40, *range(60, len(whole), len(whole) // 60), len(whole) - 1]:
        said = opened(whole[:size], tmp_path / "a.gguf")
        assert "cut short" in said and "byte" in said, (size, said)


def damaged(whole: bytes, seed: int) -> Iterator[bytes]:
    """Numbers of a header replaced by ones that matter, bytes by others, pieces taken out and put in twice."""
    chance = random.Random(seed)
    header = len(whole) - sum(info.bytes for info in _infos(whole).values())
    while True:
        content, place = bytearray(whole), chance.randrange(4, header)
        for _ in range(chance.choice((1, 1, 3))):
            kind = chance.randrange(5)
            if kind == 0:
                content[place : place + 8] = struct.pack("<Q", chance.choice(NUMBERS))
            elif kind == 1:
                content[place : place + 4] = struct.pack("<I", chance.choice(NUMBERS) % 2**32)
            elif kind == 2:
                content[place] = chance.randrange(256)
            elif kind == 3:
                del content[place : place + chance.randrange(1, 40)]
            else:
                content[place:place] = content[place : place + chance.randrange(1, 40)]
            place = chance.randrange(4, header)
        yield bytes(content)


def _infos(whole: bytes) -> dict:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(whole)
        file.flush()
        return GGUFFile(Path(file.name)).tensors


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_errors_or_models(seed: int, whole: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        for _, content in zip(range(120), damaged(whole, seed)):
            tracemalloc.reset_peak()
            opened(content, tmp_path / "a.gguf")
            assert tracemalloc.get_traced_memory()[1] < 40 * len(whole)
    finally:
        tracemalloc.stop()


def header(*tensors: tuple[str, tuple[int, ...], int, int], metadata: bytes = b"", entries: int = 0) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), entries), metadata]
    for name, shape, kind, offset in tensors:
        parts += [struct.pack("<Q", len(name)), name.encode(), struct.pack("<I", len(shape))]
        parts += [struct.pack("<Q", size) for size in shape] + [struct.pack("<IQ", kind, offset)]
    return b"".join(parts).ljust(256, b"\0") + bytes(256)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header(("w", (2**62, 2**62), 0, 0)), ("tensor w", "end after the file's 512")),
        (header(("w", (32,), 0, 0), ("w", (32,), 0, 128)), ("tensor w", "twice")),
        (header(("v", (32,), 0, 0), ("w", (32,), 0, 64)), ("tensor w", "within that of v")),
        (header(("w", (33,), 8, 0)), ("tensor w", "(33,)", "Q8_0")),
        (header(("w", (0,), 0, 0)), ("tensor w", "(0,)")),
        (header(("w", (1,) * 5, 0, 0)), ("tensor w", "5 dimensions")),
        (header(("w", (32,), 99, 0)), ("tensor w", "type 99", "byte 45")),
        (header(("w", (32,), 0, 3)), ("tensor w", "no multiple of 32")),
        (header(("a\x1b[2J", (32,), 0, 3)), ("a\\x1b[2J",)),
        (header(metadata=struct.pack("<Q1sIIQ", 1, b"k", 9, 4, 2**60), entries=1), ("metadata k", "1152921504606846976 entries")),
        (header(metadata=struct.pack("<Q1sI", 1, b"k", 77), entries=1), ("metadata k", "type 77")),
        (header(metadata=struct.pack("<Q1sI", 1, b"k", 9) + struct.pack("<IQ", 9, 1) * 9, entries=1), ("metadata k", "type 9")),
        (b"GGUF" + struct.pack(">I", 3) + bytes(64), ("big-endian",)),
        (b"GGUF" + struct.pack("<I", 1) + bytes(64), ("version 1",)),
        (b"PK\3\4" + bytes(64), ("GGUF",)),
        (header(), ("architecture None",)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(content: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    said = opened(content, tmp_path / "a.gguf")
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mamba.block_count": 10**9}, ("mamba.block_count", "1000000000")),
        ({"mamba.ssm.inner_size": 100}, ("ssm_in.weight", "byte", "asks for".replace("asks", "ask"))),
        ({"mamba.embedding_length": 2**24}, ("mamba.embedding_length",)),
        ({"mamba.ssm.state_size": 0}, ("mamba.ssm.state_size",)),
        ({"mamba.ssm.conv_kernel": 2**20}, ("ssm_conv1d.weight", "byte")),
        ({"general.architecture": "llama"}, ("architecture 'llama'",)),
    ],
)  # fmt: skip
def test_numbers_that_belong_to_other_tensors(
    change: dict[str, object], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(model_of("mamba"), tmp_path / "a.gguf", "F32")
    file = GGUFFile(tmp_path / "a.gguf")
    file.metadata.update(change)
    monkeypatch.setattr("anymamba.models.gguf.load.GGUFFile", lambda path: file)
    said = opened((tmp_path / "a.gguf").read_bytes(), tmp_path / "a.gguf")
    assert all(word in said for word in words), said


def test_a_tensor_too_few_and_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(model_of("mamba"), tmp_path / "a.gguf", "F32")
    content = (tmp_path / "a.gguf").read_bytes()
    file = GGUFFile(tmp_path / "a.gguf")
    monkeypatch.setattr("anymamba.models.gguf.load.GGUFFile", lambda path: file)
    lost = file.tensors.pop("blk.1.ssm_a")
    assert "has no tensor blk.1.ssm_a" in opened(content, tmp_path / "a.gguf")
    file.tensors.update({"blk.1.ssm_a": lost, "blk.7.ssm_a": lost})
    assert "tensor blk.7.ssm_a (byte" in opened(content, tmp_path / "a.gguf")
