"""Files to documents to token files: what is read, what is skipped and named, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anymamba.errors import AnymambaError
from anymamba.models.tokenizer import byte_tokenizer
from anymamba.training import corpus
from anymamba.training.readers import BLOCK, documents, sources
from anymamba.training.skips import Skips
from anymamba.training.tokenfile import open_tokens


def read(*names: Path, encoding: str = "utf-8") -> tuple[list[str], Skips]:
    """Whole documents."""
    skips, found, pieces = Skips(), [], []
    for piece in documents([str(name) for name in names], skips, encoding=encoding):
        if piece is None:
            found.append("".join(pieces))
            pieces = []
        else:
            pieces.append(piece)
    return found, skips


def test_text_is_read_whole_and_split_at_borders(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo 中文\n<|endoftext|>\nthree".encode())
    assert read(path)[0] == ["one\r\ntwo 中文\n", "three"]


def test_large_files_are_read_in_pieces_that_join_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.md"
    text = ("汉字 and latin, line %d\n" * 50 % tuple(range(50))) * 1500 + "x" * (BLOCK + 77) + "\nend"
    path.write_text(text, "utf-8", newline="")
    pieces = [piece for piece in documents([str(path)], Skips()) if piece]
    assert len(pieces) > 3 and "".join(pieces) == text


def test_folders_are_walked_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/two.md", "a.txt", "b/one.txt", "ignored.exe"):
        (tmp_path / name).write_text(name)
    assert [Path(name).name for name, _ in sources([str(tmp_path)])] == ["a.txt", "one.txt", "two.md"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"MZ\x90\x00\x03\x00\x00\x00", "binary file"),
        ("héllo ".encode() * 3 + b"caf\xe9 au lait", "at byte 24"),
        ("文字".encode("utf-16"), "byte 0"),
    ],
    ids=["empty", "binary", "latin1", "utf16"],
)
def test_a_bad_text_file_is_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(AnymambaError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_the_offset_of_a_wrong_byte_is_right_far_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"a" * (BLOCK + 8190) + "é".encode() + b"\xff tail")
    with pytest.raises(AnymambaError, match=f"at byte {BLOCK + 8192}"):
        read(path)


def test_the_encoding_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "gb.txt"
    path.write_bytes("你好，世界".encode("gb18030"))
    assert read(path, encoding="gb18030")[0] == ["你好，世界"]
    path.write_bytes("你好".encode("utf-16"))
    assert read(path, encoding="utf-16")[0] == ["你好"]
    with pytest.raises(AnymambaError, match="--encoding"):
        read(path, encoding="klingon")


def test_bad_files_in_a_folder_are_skipped_and_named(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    (tmp_path / "none.txt").write_bytes(b"")
    found, skips = read(tmp_path)
    assert found == ["good"] and skips.count == 2
    assert "bad.txt: not utf-8 text at byte 2" in skips.summary()


def test_bad_records_are_counted_and_the_first_three_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = ['{"text": "fine"}', "{not json", '{"body": "x"}', '{"text": 5}', "[1]", '{"text": ""}', "", '{"text": "also"}']
    path.write_text("\n".join(lines), "utf-8")
    found, skips = read(path)
    assert found == ["fine", "also"] and (skips.total, skips.count) == (7, 5)
    summary = skips.summary()
    assert f"{path}:2: not JSON" in summary and f"{path}:3: has no field 'text' (it has: body)" in summary
    assert f"{path}:4: the field 'text' is int" in summary
    assert f"{path}:5" not in summary and "and 2 more" in summary


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "two"]}), path)
    found, skips = read(path)
    assert found == ["one", "two"] and skips.first == [f"{path}:2: the field 'text' is NoneType, not a text"]
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(AnymambaError, match="Parquet"):
        read(path)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnymambaError, match="does not exist"):
        sources([str(tmp_path / "nowhere.txt")])
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(AnymambaError, match=r"kind \.docx"):
        sources([str(tmp_path / "a.docx")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnymambaError, match="holds no"):
        sources([str(tmp_path / "empty")])


def prepare(folder: Path, path: Path, share: float = 0.2) -> corpus.Corpus:
    skips = Skips()
    corpus.prepare(documents([str(path)], skips), byte_tokenizer(), folder, share, 0, skips, str(path))
    return corpus.open_corpus(folder)


def test_one_text_holds_out_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("0123456789" * 10, "ascii")
    made = prepare(tmp_path / "data", path)
    border = byte_tokenizer().eos_id
    assert made.train.tokens[0] == border and len(made.train.tokens) == 81 and len(made.held_out.tokens) == 20
    assert bytes(np.concatenate([made.train.tokens[1:], made.held_out.tokens]).astype(np.uint8)) == path.read_bytes()


def test_many_documents_hold_out_whole_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [f"document {number} " * (1 + number % 3) for number in range(50)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = prepare(tmp_path / "data", path)

    def split(part: object) -> list[str]:
        ends = [*part.starts[1:], len(part.tokens)]  # type: ignore[attr-defined]
        return [bytes(part.tokens[s + 1 : e].astype(np.uint8)).decode() for s, e in zip(part.starts, ends)]  # type: ignore[attr-defined]

    trained, held = split(made.train), split(made.held_out)
    assert sorted(trained + held) == sorted(texts) and 5 <= len(held) <= 20
    assert made.held_out.text_bytes == sum(map(len, held))


def test_nothing_to_train_on_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x"}\n')
    with pytest.raises(AnymambaError, match="nothing to train on") as caught:
        prepare(tmp_path / "data", path)
    assert "has no field 'text'" in str(caught.value)
    assert not (tmp_path / "data").exists(), "half a data folder would be taken for a whole one"


def test_a_cut_token_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text " * 20)
    prepare(tmp_path / "data", path)
    file = tmp_path / "data" / "train.bin"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(AnymambaError, match="damaged"):
        open_tokens(tmp_path / "data", "train")


def test_a_trained_bpe_keeps_the_text(tmp_path: Path, text: str) -> None:
    tokenizer = corpus.train_bpe(iter([text, None]), 400)
    assert tokenizer.vocab_size == 400 and tokenizer.eos_id is not None
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and len(ids) < 0.6 * len(text)
    with pytest.raises(AnymambaError, match="at least 262"):
        corpus.train_bpe(iter([text]), 100)
