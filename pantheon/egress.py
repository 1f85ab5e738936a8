"""The proof that nothing can leave: a sandboxed child tries every way out, and each must fail.

Owns the probe and its record; the sandbox itself is process.py's. The names of variables that look like credentials are
recorded, never their values.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Mapping

from pantheon.errors import SandboxError
from pantheon.process import Limits, run
from pantheon.records import Record
from pantheon.sandbox import Sandbox

CREDENTIAL = re.compile(
    r"(^|_)(API_?KEY|KEYS?|TOKENS?|SECRETS?|PASS(WORD|WD|PHRASE)?|CREDENTIALS?|AUTH|COOKIE|PAT|NETRC|ASKPASS|AUTH_SOCK)(_|$)"
    r"|^(AWS|AZURE|GOOGLE|GCP|KUBE|SSH|GPG|HF|OPENAI|ANTHROPIC)_|^KUBECONFIG$"
)


class Attempt(Record):
    """One try to reach something. `error` is empty when it was reached."""

    kind: str
    target: str
    error: str


class EgressProof(Record):
    """What happened when a sandboxed child tried to get out. `stripped` holds names only, never values."""

    attempts: tuple[Attempt, ...]
    interfaces: tuple[str, ...]
    closed: bool
    stripped: tuple[str, ...] = ()


def stripped_names(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Names of the variables that look like credentials; no child of ours gets them."""
    names = os.environ if environ is None else environ
    return tuple(sorted(name for name in names if CREDENTIAL.search(name.upper())))


_PROBE = r"""
import errno, json, socket, sys
port, abstract = int(sys.argv[1]), sys.argv[2]
def attempt(kind, target, family, type_, address, data=None, proto=0):
    try:
        with socket.socket(family, type_, proto) as s:
            s.settimeout(2)
            s.sendto(data, address) if data is not None else s.connect(address)
        error = ""
    except OSError as e:
        error = errno.errorcode.get(e.errno, "") or f"{type(e).__name__}"
    return {"kind": kind, "target": target, "error": error}
I, I6, U, T, D = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM
out = [
    attempt("tcp", "a listening port on the host's 127.0.0.1", I, T, ("127.0.0.1", port)),
    attempt("tcp", "203.0.113.1:443", I, T, ("203.0.113.1", 443)),
    attempt("tcp", "169.254.169.254:80", I, T, ("169.254.169.254", 80)),
    attempt("udp", "203.0.113.1:53", I, D, ("203.0.113.1", 53), b"x"),
    attempt("tcp6", "[2001:db8::1]:443", I6, T, ("2001:db8::1", 443)),
    attempt("abstract", "a listening abstract socket on the host", U, T, "\0" + abstract),
    attempt("raw", "icmp", I, socket.SOCK_RAW, ("203.0.113.1", 0), b"x", socket.IPPROTO_ICMP),
    attempt("vsock", "the host of a virtual machine", getattr(socket, "AF_VSOCK", 40), T, (2, 1)),
]
try:
    socket.getaddrinfo("example.com", 443)
    out.append({"kind": "dns", "target": "example.com", "error": ""})
except socket.gaierror as e:
    out.append({"kind": "dns", "target": "example.com", "error": "EAI_%d" % e.errno})
print(json.dumps({"attempts": out, "interfaces": [name for _, name in socket.if_nameindex()]}))
"""
_REFUSALS = {"ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EPERM", "EACCES"}


def probe_egress(environ: Mapping[str, str] | None = None) -> EgressProof:
    """Try to get out of the sandbox every way we know, while the host really listens on loopback and on an abstract
    socket. `closed` is true only when each try was refused by the kernel and `lo` is the only interface."""
    name = f"pantheon-probe-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_INET) as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(1)
        unix.bind("\0" + name)
        unix.listen(1)
        argv = [sys.executable, "-I", "-c", _PROBE, str(tcp.getsockname()[1]), name]
        done = run(argv, limits=Limits(wall_s=30.0, cpu_s=10), sandbox=Sandbox())
    if done.returncode != 0:
        why = done.stderr.decode("utf-8", "replace").strip()[-400:]
        raise SandboxError("cannot probe the sandbox", sys.executable, why, "git pantheon doctor")
    found = json.loads(done.stdout)
    attempts = tuple(Attempt(**one) for one in found["attempts"])
    refused = all(one.error in _REFUSALS or one.error.startswith("EAI_") for one in attempts)
    return EgressProof(
        attempts=attempts,
        interfaces=tuple(found["interfaces"]),
        stripped=stripped_names(environ),
        closed=refused and found["interfaces"] == ["lo"],
    )
