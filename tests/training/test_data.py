"""Files to documents to token files: what is read, what is skipped and named, what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anymamba.errors import AnymambaError
from anymamba.models.tokenizer import byte_tokenizer
from anymamba.training.data import corpus
from anymamba.training.data.readers import BLOCK, check, documents, sources
from anymamba.training.data.skips import Skips, open_list
from anymamba.training.data.tokenfile import open_tokens


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
    (tmp_path / ".git").mkdir()
    for name in ("b/two.md", "a.txt", "b/one.txt", "c.py", ".hidden.txt", ".git/config"):
        (tmp_path / name).write_text(name)
    assert [Path(name).name for name, _ in sources([str(tmp_path)])] == ["a.txt", "one.txt", "two.md", "c.py"]


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
    assert "1 not utf-8 text at byte 2: " in skips.summary() and "bad.txt (invalid start byte)" in skips.summary()
    assert f"1 the file is empty: {tmp_path / 'none.txt'}" in skips.summary()


def test_bad_records_are_counted_by_kind_and_the_first_of_each_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = ['{"text": "fine"}', "{not json", '{"body": "x"}', '{"text": 5}', "[1]", '{"text": ""}', "", '{"text": "also"}']
    path.write_text("\n".join(lines + ["{"] * 12), "utf-8")
    found, skips = read(path)
    assert found == ["fine", "also"] and (skips.total, skips.count) == (19, 17)
    summary = skips.summary()
    assert f"17 of 19 records skipped: 13 not JSON: {path}:2 (" in summary and "and 10 more" in summary
    assert f"1 has no field 'text': {path}:3 (it has: body)" in summary
    assert f"1 the field 'text' is no text: {path}:4 (int)" in summary
    assert f"1 not a JSON object: {path}:5 (list)" in summary and f"1 the field 'text' is empty: {path}:6" in summary
    assert f"{path}:11" not in summary and "--bad-records FILE lists all of them" in summary


def test_all_bad_records_are_listed_on_request(tmp_path: Path) -> None:
    path, target = tmp_path / "a.jsonl", tmp_path / "bad.tsv"
    path.write_text('{"text": "fine"}\n' + "{\n" * 5 + '{"body": "x"}\n')
    with open_list(str(target)) as listed:  # type: ignore[union-attr]
        for _ in documents([str(path)], Skips(list_file=listed)):
            pass
    rows = [line.split("\t") for line in target.read_text("utf-8").splitlines()]
    assert [row[0] for row in rows] == [f"{path}:{number}" for number in range(2, 8)]
    assert rows[0][1] == "not JSON" and rows[-1][1:] == ["has no field 'text'", "it has: body"]
    with pytest.raises(AnymambaError, match="--bad-records"):
        open_list(str(tmp_path / "no" / "bad.tsv"))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "two"]}), path)
    found, skips = read(path)
    assert found == ["one", "two"] and skips.summary().endswith(f"1 the field 'text' is no text: {path}:2 (NoneType)")
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(AnymambaError, match="Parquet"):
        read(path)


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnymambaError, match="does not exist"):
        sources([str(tmp_path / "nowhere.txt")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnymambaError, match="holds no"):
        sources([str(tmp_path / "empty")])


TEXT = 'print("你好")\n# a comment\n' * 40


@pytest.mark.parametrize("name", ["a.py", "a.md", "README", "a.log", "a.tex", "a.html", "a.c", "a.yaml", "a.jsonc"])
def test_any_plain_text_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TEXT, "utf-8")
    assert read(tmp_path / name)[0] == [TEXT]
    assert read(tmp_path)[0] == [TEXT]


RECORDS = [{"text": "one\nline"}, {"text": "zwei, \"quoted\""}, {"text": "三"}]


@pytest.mark.parametrize("form", ["array", "indented", "lines", "under a name"])
def test_json(tmp_path: Path, form: str) -> None:
    text = {
        "array": json.dumps(RECORDS), "indented": json.dumps(RECORDS, indent=2, ensure_ascii=False),
        "lines": "\n".join(map(json.dumps, RECORDS)), "under a name": json.dumps({"version": 1, "data": RECORDS}),
    }[form]  # fmt: skip
    (tmp_path / "a.json").write_text(text, "utf-8")
    assert read(tmp_path / "a.json")[0] == [record["text"] for record in RECORDS]


def test_a_large_json_array_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anymamba.training.data import recordfiles

    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "汉字 " * n} for n in range(1, 80)], indent=1, ensure_ascii=False), "utf-8")
    for size in (1, 7, 100):
        monkeypatch.setattr(recordfiles, "_BLOCK", size)
        assert read(path)[0] == ["汉字 " * n for n in range(1, 80)]


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n {"text": "a"},\n {"text": oops}\n]')
    with pytest.raises(AnymambaError, match=f"{path}:3: not JSON"):
        read(path)
    path.write_text('[\n {"text": "a"},\n {"body": "b"}, 7\n')
    with pytest.raises(AnymambaError, match="cut short"):
        read(path)
    path.write_text('[\n {"text": "a"},\n {"body": "b"}, 7\n]')
    found, skips = read(path)
    assert found == ["a"] and skips.count == 2 and f"{path}:3 (it has: body)" in skips.summary()


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"one\nline"\n2,"zwei, ""quoted"""\n3\n4,三\n', "utf-8")
    found, skips = read(path)
    assert found == [record["text"] for record in RECORDS]
    assert f"1 not as many fields as the first line: {path}:5 (1, 2)" in skips.summary()
    (tmp_path / "b.tsv").write_text("text\tid\none\t1\n")
    (tmp_path / "c.csv").write_text("text;id\na,b;1\n")
    (tmp_path / "d.csv").write_bytes("text,id\n你好,1\n".encode("gb18030"))
    assert read(tmp_path / "b.tsv")[0] == ["one"] and read(tmp_path / "c.csv")[0] == ["a,b"]
    assert read(tmp_path / "d.csv", encoding="gb18030")[0] == ["你好"]
    with pytest.raises(AnymambaError, match="--encoding gb18030"):
        read(tmp_path / "d.csv")


@pytest.mark.parametrize("packed", [gzip, bz2, lzma], ids=["gz", "bz2", "xz"])
def test_compressed_files_are_what_is_inside(tmp_path: Path, packed: Any) -> None:
    ending = {gzip: "gz", bz2: "bz2", lzma: "xz"}[packed]
    lines = "\n".join(map(json.dumps, RECORDS)).encode()
    for name, content, expected in (
        (f"a.txt.{ending}", TEXT.encode(), [TEXT]), (f"b.jsonl.{ending}", lines, [record["text"] for record in RECORDS]),
        (f"c.csv.{ending}", b"text\none\n", ["one"]), ("no-ending", TEXT.encode(), [TEXT]),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(packed.compress(content))
        assert read(tmp_path / name)[0] == expected
    whole = packed.compress(bytes(range(32, 127)) * 2000)
    (tmp_path / f"cut.txt.{ending}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AnymambaError, match="damaged or cut short"):
        read(tmp_path / f"cut.txt.{ending}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"%PDF-1.7\n%text", "PDF"), (b"PK\x03\x04" + b"a" * 50, "docx"), (b"\x89PNG\r\n", "PNG"), (b"{\\rtf1 text", "RTF"),
        (bytes(range(1, 9)) * 30, "control characters"), (b"text" * 64 + b"\x00" * 3, "byte 256 is zero"),
        (gzip.compress(b"\x7fELF" + b"\x01" * 99, mtime=0), "ELF"), (b"\x28\xb5\x2f\xfd" + b"a" * 99, "Zstandard"),
    ],
)  # fmt: skip
def test_binary_files_are_refused_by_what_they_are(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    for refused in (lambda: read(path), lambda: check([str(path)], "utf-8")):
        with pytest.raises(AnymambaError, match=says) as caught:
            refused()
        assert str(path) in caught.value.what and "binary file" in caught.value.what
    (tmp_path / "good.txt").write_text("good")
    found, skips = read(tmp_path)
    assert found == ["good"] and skips.count == 1


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


def held_back(folder: Path, *names: Path, share: float = 0.05) -> tuple[list[str], list[str], str]:
    """(documents trained on, documents held out, how), from a mixture."""
    skips = Skips()
    pieces = documents([str(name) for name in names], skips, with_sources=True)
    corpus.prepare(pieces, byte_tokenizer(), folder, share, 0, skips, "mixture")
    made = corpus.open_corpus(folder)
    parts = []
    for part in (made.train, made.held_out):
        ends = [*part.starts[1:], len(part.tokens)]
        parts.append([bytes(t for t in part.tokens[s:e].tolist() if t < 256).decode() for s, e in zip(part.starts, ends)])
    assert len(parts[0]) + len(parts[1]) > 0
    return parts[0], parts[1], made.notes[0]


def json_lines(path: Path, mark: str, count: int, words: int = 30) -> Path:
    path.write_text("".join(json.dumps({"text": f"{mark}{number} " * words}) + "\n" for number in range(count)))
    return path


def test_a_mixture_holds_out_documents_of_every_file(tmp_path: Path) -> None:
    files = [json_lines(tmp_path / f"{mark}.jsonl", mark, count) for mark, count in (("a", 400), ("b", 40), ("c", 12), ("d", 25))]
    trained, held, how = held_back(tmp_path / "data", *files)
    assert {text[0] for text in held} == set("abcd") and not set(trained) & set(held)
    assert len(trained) + len(held) == 477 and "of 477 documents are held out" in how
    assert 0.04 < sum(map(len, held)) / sum(map(len, trained + held)) < 0.08


def test_a_mixture_of_books_holds_out_the_end_of_each(tmp_path: Path) -> None:
    files = [tmp_path / f"{mark}.txt" for mark in "abc"]
    for mark, path in zip("abc", files):
        path.write_text("".join(f"{mark}{number:05d} " for number in range(1000)))
    trained, held, how = held_back(tmp_path / "data", *files)
    assert [text[0] for text in trained] == list("abc") and how == "the last 5% of each of 3 files is held out"
    assert all(text.endswith(f"{mark}00999 ") and 340 < len(text) < 360 for mark, text in zip("abc", held))


def test_a_book_beside_records_holds_out_both(tmp_path: Path) -> None:
    book = tmp_path / "z.txt"
    book.write_text("".join(f"z{number:05d} " for number in range(3000)))
    trained, held, how = held_back(tmp_path / "data", book, json_lines(tmp_path / "a.jsonl", "a", 60))
    ends = [text for text in held if text.endswith("z02999 ")]
    assert len(ends) == 1 and len(ends[0]) < 1200 and len(held) > 1
    assert "documents and the last 5% of 1 large file are" in how


def test_a_folder_of_short_files_holds_out_whole_files(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text(f"file {number} " * 20)
    trained, held, how = held_back(tmp_path / "data", folder)
    assert len(trained) + len(held) == 60 and all(text.count("file") == 20 for text in trained + held) and len(held) in (3, 4)


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
    with pytest.raises(AnymambaError, match="from 262"):
        corpus.train_bpe(iter([text]), 100)
