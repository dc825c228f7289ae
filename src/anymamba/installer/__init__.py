"""The official packages, installed so that nothing else changes: plan -> run -> verify -> roll back.

releases.py  what each release needs and offers, as data           wheels.py    which prebuilt file fits a machine
machine.py   the doctor's facts as questions of a build            plan.py      facts -> Plan, a pure function
source.py    the steps of a build from source                      refusal.py   why a plan stops, and what to do
script.py    a Plan as a bash or PowerShell script or a Dockerfile  download.py  resumed downloads
run.py       carries a Plan out; undo/ puts the environment back   verify.py  does it compute rightly
"""
