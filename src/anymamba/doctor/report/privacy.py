"""Takes user names, home folders, tokens, host names and addresses out of a text that is meant for the public."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
from typing import List, Set, Tuple

# accounts of images and services, which say nothing about a person
_COMMON = frozenset(
    ("root", "runner", "user", "users", "ubuntu", "admin", "administrator", "public", "default", "home", "name", "you")
    + ("appuser", "jovyan", "codespace", "vscode", "conda", "username")
)

_FOLDERS = (
    re.compile(r"(?<=[\\/]home[\\/])([^\\/\s'\":;,)\]]+)"),
    re.compile(r"(?<=[\\/]Users[\\/])([^\\/\s'\":;,)\]]+(?: [^\\/\s'\":;,)\]]+)?)(?=[\\/])"),
    re.compile(r"(?<=[\\/]Users[\\/]{2})([^\\/\s'\":;,)\]]+)"),
    re.compile(r"(?<=[\\/]Documents and Settings[\\/])([^\\/\s'\":;,)\]]+)"),
    re.compile(
        r"(?<=/data/home/)([^/\s'\":;,)\]]+)|(?<=/public/home/)([^/\s'\":;,)\]]+)"
        r"|(?<=/mnt/petrelfs/)([^/\s'\":;,)\]]+)|(?<=/scratch/)([^/\s'\":;,)\]]+)"
    ),
)
_SECRETS = (
    (re.compile(r"\b(?:hf|gh[pousr]|glpat|pypi|sk|xox[abp]|npm)[-_][A-Za-z0-9_-]{16,}"), "<token>"),
    (re.compile(r"\bgithub_pat_\w{20,}|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}"), "<token>"),
    (
        re.compile(
            r"(?i)\b((?:api[_-]?key|token|password|passwd|secret"
            r"|authorization)[\"']?\s*[:=]\s*(?:bearer\s+)?[\"']?)[^\s\"',;&]{4,}"
        ),
        r"\1<secret>",
    ),
    (re.compile(r"(?i)(bearer\s+)[\w.~+/-]{12,}"), r"\1<token>"),
    (re.compile(r"(\w+://)[^/\s:@]+:[^/\s@]+@"), r"\1<user>:<secret>@"),
    (re.compile(r"(\w+://)[^/\s:@]+@"), r"\1<user>@"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*[A-Za-z]{2,}"), "<email>"),
    (
        re.compile(
            r"(?<![\d.=<>~v-])(?:10|127|169|172|192|(?:1?\d?\d|2[0-4]\d|25[0-5]))(?:\.(?:1?\d?\d|2[0-4]\d"
            r"|25[0-5])){3}(?![\d.]|-\w|\+)"
        ),
        "<address>",
    ),
    (re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.I), "<address>"),
    (re.compile(r"GPU-[0-9a-f]{8}-[0-9a-f-]{20,}"), "<uuid>"),
)
# shell prompts: user@host:dir$ and (env) user@host
_PROMPT = re.compile(r"(?m)(^|[\s(\[])([\w.-]+)@([\w-]+)(?=[:\s][^\n]{0,80}[#$%>]|[\s\]])")
_PUBLIC_HOSTS = re.compile(
    r"(?:^|\.)(?:github\.com|githubusercontent\.com|pypi\.org|pythonhosted\.org|pytorch\.org|nvidia\.com"
    r"|huggingface\.co|anaconda\.(?:com|org)|python\.org|docker\.(?:com|io)"
    r"|nvcr\.io|astral\.sh|ubuntu\.com|debian\.org|microsoft\.com|tuna\.tsinghua\.edu\.cn|aliyun\.com|ustc\.edu\.cn"
    r"|hf-mirror\.com|setuptools\.pypa\.io|pypa\.io|readthedocs\.io|llvm\.org|gnu\.org)$"
)
_URL_HOST = re.compile(r"(?<=://)([A-Za-z0-9.-]+)(:\d+)?(?=[/\s'\")\]]|$)")
_INTERNAL_HOST = re.compile(
    r"\b[a-z][\w-]*(?:\.[\w-]+)*\.(?:local|internal|lan|corp|intra|intranet|home\.arpa)\b", re.I
)


def scrub(text: str) -> str:
    """The text without private data; the same person is <user> everywhere in it."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    names = _names(text)
    text = _PROMPT.sub(r"\1<user>@<host>", text)
    for pattern in _FOLDERS:
        text = pattern.sub("<user>", text)
    text = _URL_HOST.sub(_host, text)
    text = _INTERNAL_HOST.sub("<host>", text)
    for name, mark in names:
        text = re.sub(r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])".format(re.escape(name)), mark, text)
    return text


def _host(found: "re.Match[str]") -> str:
    host = found.group(1)
    if _PUBLIC_HOSTS.search(host) or host in ("HOST", "example.com"):
        return found.group(0)
    return "<host>"


def _names(text: str) -> List[Tuple[str, str]]:
    """Names of people and machines that appear in the text, the longest first."""
    people: Set[str] = set()
    hosts: Set[str] = set()
    for pattern in _FOLDERS:
        for found in pattern.finditer(text):
            people.add(next(group for group in found.groups() if group))
    for found in _PROMPT.finditer(text):
        people.add(found.group(2))
        hosts.add(found.group(3))
    # no such account: nothing to hide
    with contextlib.suppress(OSError, KeyError, ImportError):
        people.add(getpass.getuser())
    hosts.add(socket.gethostname())
    pairs = [(name, "<user>") for name in people] + [(name, "<host>") for name in hosts]
    pairs = [
        (name, mark)
        for name, mark in pairs
        if len(name) > 2 and name.lower() not in _COMMON and not name.startswith("<")
    ]
    return sorted(pairs, key=lambda pair: -len(pair[0]))
