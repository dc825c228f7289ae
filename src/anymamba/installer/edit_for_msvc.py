"""Edits unpacked sources of mamba-ssm so that MSVC compiles them; argument: the folder with the .tar.gz or the sources.

MSVC does not see a constexpr bool of the enclosing function in a lambda unless it is static, and its cmath has no M_LOG2E.
"""

import pathlib
import re
import sys
import tarfile

LOG2E = "#ifndef M_LOG2E\n#define M_LOG2E 1.4426950408889634074\n#endif\n"


def edit(text: str) -> str:
    text = re.sub(r"(?<!static )\bconstexpr bool (\w+) = ", r"static constexpr bool \1 = ", text)
    if "M_LOG2E" in text and "#ifndef M_LOG2E" not in text:
        text = text.replace("#pragma once\n", "#pragma once\n" + LOG2E, 1) if "#pragma once\n" in text else LOG2E + text
    return text


def main(folder: pathlib.Path) -> None:
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(str(archive)) as file:
            # the archive comes from the package index that pip trusts; only names inside the folder are taken
            members = [item for item in file.getmembers() if ".." not in pathlib.PurePosixPath(item.name).parts]
            file.extractall(str(folder), [item for item in members if not item.name.startswith("/")])
    count = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".h", ".cuh", ".cu") and "csrc" in path.parts:
            before = path.read_text("utf-8")
            after = edit(before)
            if after != before:
                path.write_text(after, "utf-8")
                count += 1
    print(f"{count} files edited")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
