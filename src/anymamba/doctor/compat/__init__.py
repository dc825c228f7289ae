"""Which versions of torch, mamba-ssm and causal-conv1d go together, on this machine or another, and for a program that names some.

table.json       the facts with their sources; table.py reads it
host.py          the questions that the table is asked of a machine's facts
wheels.py        which published wheel fits, or why none does
building.py      whether a release can be compiled there, and what is known of that
trios.py         torch, mamba-ssm and causal-conv1d together, the best first
reasons.py       why they do, in sentences
commands.py      what to type, for the installer and the shell of the machine
program.py       the files of a program that tell which versions it takes
requirements.py  which mamba-ssm it was written for
page.py          the whole table as a page of the documentation
report.py        all that as text and as one JSON document

Standard library only, Python 3.8, like the rest of the doctor. The installer's plans read the same table.
"""
