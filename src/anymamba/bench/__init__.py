"""Speed of this machine against the alternatives: one registry of cases, one runner, and a correctness gate before every time.

    cases/    what a case is, the three kinds, and all of them by name
    gate      is what we are about to time right
    timing    medians of interleaved runs
    peers     what others run: transformers' sequential path, mambapy; official holds mamba-ssm's times on an H100
    floor     a model's matrix products, and nothing else
    runner, report     runs the cases; prints the table or the one JSON document
"""
