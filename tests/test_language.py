"""English in the code, Chinese in the catalog: nothing missing, unread or left over, and each sentence says the same values in both."""

from __future__ import annotations

import ast
import gettext
import io
import re
import shutil
import string
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from scripts import messages

from anymamba import language
from anymamba.catalog import compiled
from anymamba.language import N_, _, ngettext, pgettext, set_language

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "anymamba"
FUNCTIONS = {"_": 1, "N_": 1, "ngettext": 2, "pgettext": 2}
"""How many sentences (of ``pgettext``: context and sentence) each of them takes."""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return messages.read()


@pytest.fixture(autouse=True)
def language_of_the_environment() -> Iterator[None]:
    yield
    set_language(None)


def test_the_catalog_is_what_the_code_says(catalog: Catalog) -> None:
    """`python dev.py messages` adds what is missing and removes what is obsolete; a person writes the Chinese."""
    said = {(entry.context, entry.id) for entry in messages.extracted() if entry.id}
    translated = {(entry.context, entry.id) for entry in catalog if entry.id}
    assert sorted(map(str, said - translated)) == [], "missing in the catalog: run `python dev.py messages`"
    assert sorted(map(str, translated - said)) == [], "said nowhere any more: run `python dev.py messages`"
    assert not catalog.obsolete, "said nowhere any more: run `python dev.py messages`"
    assert messages.unfinished(catalog) == [], "empty, or fuzzy: translate it and remove the mark"


def placeholders(sentence: str) -> set[tuple[str | None, ...]]:
    """Name, format and conversion of each ``{name:format}``; a lone brace is text, in sentences that are not formatted."""
    try:
        return {(name, form, conversion) for text, name, form, conversion in string.Formatter().parse(sentence) if name is not None}
    except ValueError:
        return set()


def differing(catalog: Catalog) -> list[str]:
    """The sentences whose Chinese shows other values than their English."""
    result = []
    for entry in catalog:
        english = messages.strings(entry.id) if entry.id else ()
        wanted = set().union(*(placeholders(sentence) for sentence in english)) if english else set()
        if any(placeholders(chinese) != wanted for chinese in messages.strings(entry.string) if english):
            result.append(str(entry.id))
    return result


def test_both_languages_show_the_same_values(catalog: Catalog) -> None:
    assert differing(catalog) == []


@pytest.mark.parametrize(
    ("english", "chinese", "same"),
    [
        ("{count} files in {folder}", "{folder} 中有 {count} 个文件", True),
        ("{count} files in {folder}", "{folder} 中有文件", False),
        ("{count} files", "{number} 个文件", False),
        ("{share:.0%} read", "已读取 {share:.2%}", False),
        ("{name!r} read", "已读取 {name}", False),
        (("{count} file", "{count} files"), ("{count} 个文件",), True),
        (("{count} file", "{count} files"), ("文件",), False),
        ("a lone { brace", "单个 { 括号", True),
    ],
)
def test_values_that_differ_are_noticed(english: str | tuple[str, str], chinese: str | tuple[str], same: bool) -> None:
    catalog = Catalog(locale="zh")
    catalog.add(english, chinese)
    assert (differing(catalog) == []) is same


def called(node: ast.expr) -> str:
    """``_`` of ``_(...)`` and of ``language._(...)``."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """The names of the module, and of every function and comprehension in it."""
    yield table
    for child in table.get_children():
        yield from tables(child)


def faults(source: str) -> list[str]:
    """What in this code would keep a sentence out of the catalog, or make it fail when it is said."""
    result = []
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node.func) in FUNCTIONS]
    for call in calls:
        for argument in call.args[: FUNCTIONS[called(call.func)]]:
            literal = isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value != ""
            from_table = called(call.func) == "_" and isinstance(argument, (ast.Name, ast.Attribute, ast.Subscript))
            if not literal and not from_table:
                result.append(f"line {call.lineno}: {ast.unparse(argument)} is no sentence that can be extracted")
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"):
            continue
        sentence = node.func.value
        if sentence in calls and isinstance(sentence, ast.Call) and isinstance(sentence.args[-1], (ast.Constant, ast.Call, ast.Name)):
            sentences = [part.value for part in sentence.args[: FUNCTIONS[called(sentence.func)]] if isinstance(part, ast.Constant)]
            wanted = {name for part in sentences for _, name, _, _ in string.Formatter().parse(part) if name is not None}
            named = {keyword.arg for keyword in node.keywords}
            if sentences and None not in named and (node.args or wanted != named):
                result.append(f"line {node.lineno}: {sorted(wanted)} are shown, {sorted(map(str, named))} given by name")
    for table in tables(symtable.symtable(source, "source", "exec")):
        if "_" in table.get_identifiers():
            name = table.lookup("_")
            if table.get_type() == "module":
                hidden = name.is_assigned() and not name.is_imported()
            else:
                hidden = name.is_free() or name.is_local() and name.is_referenced()
            if hidden:
                result.append(f"line {table.get_lineno()}: binds _ where the function of that name is called; call it __")
    return result


def test_sentences_can_be_extracted() -> None:
    paths = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "language.py")
    assert [f"{path.relative_to(PACKAGE)}, {fault}" for path in paths for fault in faults(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ('_("{count} files").format(count=3)', 0),
        ('_("in " "pieces")', 0),
        ("_(TABLE[name])", 0),
        ('_(f"{count} files")', 1),
        ('_(f"no value")', 1),
        ('_("{} files".format(3))', 1),
        ('_("%d files" % 3)', 1),
        ('_("a" + name)', 1),
        ('_("")', 1),
        ('ngettext("{count} file", f"{count} files", 3)', 1),
        ('N_(name)', 1),
        ('_("{count} files").format(number=3)', 1),
        ('_("{count} files of {total}").format(count=3)', 1),
        ('_("{} files").format(3)', 1),
        ('ngettext("{count} file", "{count} files", n).format(count=n)', 0),
        ('def f():\n    for _ in range(3):\n        print(_("a sentence"))', 1),
        ('def f(_):\n    return lambda: _("a sentence")', 1),
        ('def f():\n    return [_("a sentence") for _ in range(3)]', 1),
        ('def f():\n    return _("a sentence"), [0 for _ in range(3)]', 0),
        ('def f():\n    _, b = 1, 2\ndef g():\n    return _("a sentence")', 0),
    ],
)
def test_faults_are_noticed(code: str, number: int) -> None:
    assert len(faults(code)) == number


LOOKED_FOR = {"doctor", "training/show/fonts.py", "models/mamba3_activation.py"}
"""Words that logs are searched for, in the doctor beside its rules' own prose; letters that a font must have; text that a model reads."""
ANSWERS = {"是"}
"""What a user may type."""


def test_the_code_holds_english_alone() -> None:
    chinese = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text("utf-8")
        if any(path.is_relative_to(PACKAGE / place) for place in LOOKED_FOR):
            continue
        texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
        chinese_texts = (text for text in texts if isinstance(text, str) and text not in ANSWERS and re.search("[\u4e00-\u9fff]", text))
        chinese += [f"{path.relative_to(PACKAGE)}: {text}" for text in chinese_texts]
    assert chinese == []


def test_compiled_as_by_babel(catalog: Catalog) -> None:
    out = io.BytesIO()
    write_mo(out, catalog)
    out.seek(0)
    theirs = gettext.GNUTranslations(out)
    ours = gettext.GNUTranslations(io.BytesIO(compiled(messages.CATALOG.read_bytes())))
    for entry in catalog:
        if not entry.id:
            continue
        names = messages.strings(entry.id)
        for translation in (theirs, ours):
            if entry.context:
                assert translation.pgettext(entry.context, names[0]) == entry.string
            elif len(names) == 2:
                assert translation.ngettext(*names, 1) == translation.ngettext(*names, 5) == messages.strings(entry.string)[0]
            else:
                assert translation.gettext(names[0]) == entry.string


PO = r'''msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\n"
"Plural-Forms: nplurals=1; plural=0;\n"

#: one.py two.py
#, python-brace-format
msgid "{count} files"
msgstr "{count} 个文件"

msgid ""
"two\n"
"lines, a \"quote\" and a \\"
msgstr ""
"两\n"
"行"

#, fuzzy
msgid "a guess"
msgstr "猜测"

msgid "to do"
msgstr ""

msgctxt "of a bed"
msgid "spring"
msgstr "弹簧"

msgctxt "of the year"
msgid "spring"
msgstr "春天"

msgid "{count} row"
msgid_plural "{count} rows"
msgstr[0] "{count} 行"

#~ msgid "gone"
#~ msgstr "没了"
'''


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_catalog_text_compiles(newline: str) -> None:
    table = gettext.GNUTranslations(io.BytesIO(compiled(PO.replace("\n", newline).encode("utf-8"))))
    assert table.gettext("{count} files") == "{count} 个文件"
    assert table.gettext('two\nlines, a "quote" and a \\') == "两\n行"
    assert table.pgettext("of a bed", "spring") == "弹簧" and table.pgettext("of the year", "spring") == "春天"
    assert table.ngettext("{count} row", "{count} rows", 1) == table.ngettext("{count} row", "{count} rows", 7) == "{count} 行"
    for untranslated in ("a guess", "to do", "gone", "spring"):
        assert table.gettext(untranslated) == untranslated


def test_the_language_is_asked_for_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    table = gettext.GNUTranslations(io.BytesIO(compiled(PO.encode("utf-8"))))
    monkeypatch.setattr(language, "_catalog", lambda: table)
    entry = N_("{count} files")
    chinese = "3 个文件", "1 行", "弹簧"
    for word, (files, row, spring) in (("zh", chinese), ("en", ("3 files", "1 row", "spring")), ("zh", chinese)):
        set_language(word)
        assert _(entry).format(count=3) == files
        assert ngettext("{count} row", "{count} rows", 1).format(count=1) == row
        assert pgettext("of a bed", "spring") == spring
        assert _("a sentence of no catalog") == "a sentence of no catalog"
    set_language("en")
    assert ngettext("{count} row", "{count} rows", 2) == "{count} rows"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8", "ANYMAMBA_LANG": "zh"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "ANYMAMBA_LANG": "en"}, "en"),
    ],
)
def test_who_decides_the_language(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("ANYMAMBA_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("locale.getlocale", lambda: (None, None))
    assert language.current_language() == expected
    set_language("en" if expected == "zh" else "zh")
    assert language.current_language() != expected


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="de"):
        set_language("de")


def test_english_reads_no_catalog() -> None:
    code = "import sys\nfrom anymamba.language import _, set_language\nset_language('en')\n_('x')\nassert 'gettext' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_source_tree_needs_no_babel_to_speak_chinese() -> None:
    code = (
        "import sys\nsys.modules['babel'] = None\nfrom anymamba.language import _catalog\n"
        "print(_catalog().info()['language'])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "zh"


def test_a_package_of_another_name_reads_its_own_catalog(tmp_path: Path) -> None:
    """scripts/build_doctor.py copies these files, and rewrites their imports."""
    copy = tmp_path / "other"
    shutil.copytree(PACKAGE / "locale", copy / "locale")
    for name in ("__init__", "language", "catalog"):
        source = "" if name == "__init__" else (PACKAGE / f"{name}.py").read_text("utf-8")
        (copy / f"{name}.py").write_text(source.replace("from anymamba", "from other"), "utf-8")
    code = "import sys\nsys.modules['anymamba'] = None\nfrom other.language import _catalog\nprint(_catalog().info()['language'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "zh"
