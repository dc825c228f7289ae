"""The C and C++ run-time libraries."""

from __future__ import annotations

import glob
import os
import platform
import re
import sys
from typing import Any, Dict, Optional


def gather() -> Dict[str, Any]:
    if not sys.platform.startswith("linux"):
        return {"glibc": None, "libstdcxx": None}
    name, version = platform.libc_ver()
    return {"glibc": version if name == "glibc" else None, "libstdcxx": _libstdcxx(), "libc": name or None}


def _libstdcxx() -> Optional[str]:
    """The newest GLIBCXX_3.4.x that the system's libstdc++ has."""
    for pattern in ("/usr/lib/*-linux-gnu/libstdc++.so.6", "/usr/lib64/libstdc++.so.6", "/usr/lib/libstdc++.so.6"):
        for path in glob.glob(pattern):
            try:
                with open(os.path.realpath(path), "rb") as file:
                    numbers = re.findall(rb"GLIBCXX_3\.4\.(\d+)", file.read())
            except OSError:
                continue
            if numbers:
                return "GLIBCXX_3.4.{}".format(max(int(number) for number in numbers))
    return None
