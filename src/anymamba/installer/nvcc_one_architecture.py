"""Stands for nvcc in a build: passes everything on, but compiles for the GPUs of this machine instead of the package's own list.

torch takes the compiler's name from PYTORCH_NVCC. ANYMAMBA_NVCC names the real nvcc, ANYMAMBA_ARCH the architectures (89, or 86,120).
"""

import os
import subprocess
import sys


def narrowed(words: list, architectures: str) -> list:
    options, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in ("-gencode", "--generate-code", "-arch", "--gpu-architecture", "-code", "--gpu-code"):
            skip = True
        elif not word.startswith(
            ("-gencode=", "--generate-code=", "-arch=", "--gpu-architecture=", "-code=", "--gpu-code=")
        ):
            options.append(word)
    for architecture in architectures.split(","):
        options += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
    return options


if __name__ == "__main__":
    sys.exit(subprocess.call([os.environ["ANYMAMBA_NVCC"]] + narrowed(sys.argv[1:], os.environ["ANYMAMBA_ARCH"])))
