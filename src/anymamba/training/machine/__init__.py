"""The machine under a run: threads, memory, disk, precision, processes, and how long a step takes on it."""
