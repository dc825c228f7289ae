"""English or Chinese: the code holds English sentences, ``locale/zh/LC_MESSAGES/anymamba.po`` their Chinese.

``_("{count} files read").format(count=3)`` is that sentence in the current language. The language is looked up at every call, so a
table that is made at import holds ``N_("...")``, and whoever shows it writes ``_(entry)``. Standard library only, Python 3.8.
"""

from __future__ import annotations

import locale
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from gettext import NullTranslations

LANGUAGES = ("en", "zh")

_chosen: Optional[str] = None


def set_language(language: Optional[str]) -> None:
    """Fixes the language ("en", "zh"); None goes back to ANYMAMBA_LANG and the locale."""
    global _chosen
    if language is not None and language not in LANGUAGES:
        raise ValueError("language must be one of {}, not {!r}".format(LANGUAGES, language))
    _chosen = language


def current_language() -> str:
    """The --lang flag, then ANYMAMBA_LANG, then the locale decides; English when none of them says."""
    if _chosen:
        return _chosen
    for name in ("ANYMAMBA_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    # Windows sets none of these variables; its locale is named like Chinese (Simplified)_China
    system = locale.getlocale()[0] or ""
    return "zh" if system.lower().startswith(("zh", "chinese")) else "en"


def _(message: str) -> str:
    """The sentence in the current language; the English one where the catalog has none."""
    return _catalog().gettext(message) if current_language() == "zh" else message


def N_(message: str) -> str:  # gettext's own name for it
    """The sentence as it is: marks it for the catalog where it stands, while ``_(...)`` translates it where it is shown."""
    return message


def ngettext(singular: str, plural: str, count: float) -> str:
    """One of two English sentences, by the count; Chinese has one for both."""
    if current_language() == "zh":
        return _catalog().ngettext(singular, plural, count)  # type: ignore[arg-type]
    return singular if count == 1 else plural


def pgettext(context: str, message: str) -> str:
    """The sentence in the current language, where one English word needs several in Chinese; ``context`` says which is meant."""
    return _catalog().pgettext(context, message) if current_language() == "zh" else message


@lru_cache(maxsize=None)
def _catalog() -> NullTranslations:
    """The Chinese catalog: compiled in an installed package; in a source tree its text is read, so that an edit shows at once."""
    import gettext
    import io
    import pkgutil

    from anymamba.catalog import compiled

    folder = "locale/zh/LC_MESSAGES/anymamba"
    for suffix, compile_catalog in ((".po", compiled), (".mo", bytes)):
        try:
            # beside this file: the doctor's own distribution has another name
            data = pkgutil.get_data(__name__.rpartition(".")[0], folder + suffix)
        except OSError:
            continue
        return gettext.GNUTranslations(io.BytesIO(compile_catalog(data or b"")))
    return gettext.NullTranslations()  # a copy of the Python files alone speaks English
