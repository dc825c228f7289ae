"""python dev.py messages: brings the Chinese catalog up to what the code says.

New sentences come in with an empty translation, or with that of a similar sentence marked "fuzzy", for a person to read;
those that no code says any more go. Entries stand in the order of the files, without line numbers and dates: a change of
the code changes the entries of its own sentences alone.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "anymamba"
CATALOG = PACKAGE / "locale" / "zh" / "LC_MESSAGES" / "anymamba.po"
HEADER = """\
# The Chinese of every sentence that anymamba says. `python dev.py messages` adds what the code says anew.
msgid ""
msgstr ""
"Language: zh\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"

"""


def extracted() -> Catalog:
    """Every sentence that the code marks by _, N_, ngettext or pgettext, with the files that say it."""
    catalog = Catalog(locale="zh", fuzzy=False)
    for file, line, message, comments, context in extract_from_dir(PACKAGE, [("**.py", "python")]):
        catalog.add(message, locations=[(file, line)], auto_comments=comments, context=context)
    return catalog


def read(path: Path = CATALOG) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale="zh", abort_invalid=True)


def text(catalog: Catalog) -> str:
    """The catalog's file; what no code says any more is left out."""
    out = io.BytesIO()
    write_po(out, catalog, width=0, omit_header=True, sort_by_file=True, include_lineno=False, ignore_obsolete=True)
    return HEADER + out.getvalue().decode("utf-8").strip("\n") + "\n"


def unfinished(catalog: Catalog) -> list[str]:
    """The sentences without a Chinese one, and those whose Chinese nobody has read yet."""
    return [str(entry.id) for entry in catalog if entry.id and (entry.fuzzy or not all(strings(entry.string)))]


def strings(string: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    """One translation, or those of the plural forms."""
    return (string or "",) if string is None or isinstance(string, str) else tuple(string)


def main() -> None:
    catalog = read()
    catalog.update(extracted(), update_creation_date=False)
    CATALOG.write_text(text(catalog), "utf-8")
    for sentence in unfinished(catalog):
        print("to translate:", sentence, file=sys.stderr)


if __name__ == "__main__":
    main()
