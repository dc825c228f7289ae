"""English or Chinese: every sentence that a user reads is written once in each, side by side, where it is used.

``say("3 files read", "已读取 3 个文件")`` returns the one for the current language. Standard library only.
"""

from __future__ import annotations

import locale
import os
from typing import Optional

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


def say(en: str, zh: str) -> str:
    """The sentence in the current language."""
    return zh if current_language() == "zh" else en
