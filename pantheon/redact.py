"""The secret scan: finds secrets in text, hides them in what is kept, names those that a change adds.

Owns the detectors: those of detect-secrets, configured here, and a few of ours in the same form. Only their patterns
and their arithmetic are used: nothing here asks a server whether a secret is valid, reads a baseline, or heeds a
comment that asks to be left alone. A secret's value never leaves this module: what it returns are places and kinds.
It stores nothing, and does not decide what happens to a change.

Detectors that know a secret by its form run on everything. Those that go by a name or by randomness run only on added
lines, because artifacts are full of digests and object ids. All of them are loaded with the first text that gives them
something to look at: the bare command has 100 ms.
"""

from __future__ import annotations

import base64
import bisect
import functools
import hashlib
import importlib
import json
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pantheon.records import Item, Run, Task

MARKER = "[pantheon:"  # a secret's place is taken by `[pantheon: redacted KIND]`
DEPTH = 4  # layers of JSON in JSON that are looked through
WINDOW = 2048  # characters that the patterns see at once: some of them are quadratic in what they see
BEFORE = 256  # of those, in front of the hint
TAIL = 8192  # of a token, beyond what its pattern asks for
KNOWN = 1000  # values of one run that are looked for elsewhere
LINE = 4096  # characters of an added line that are looked at together
# Kinds that are treated in a way of their own, as detect-secrets calls them.
ARTIFACTORY, BASIC_AUTH, IBM_IAM = "Artifactory Credentials", "Basic Auth Credentials", "IBM Cloud IAM Key"
JWT, PRIVATE_KEY = "JSON Web Token", "Private Key"


@dataclass(frozen=True, order=True)
class Secret:
    """Where a secret stands and what kind it is. `line` and `column` count from 1, `length` is in characters."""

    line: int
    column: int
    length: int
    kind: str


Finds = tuple[tuple[str, Secret], ...]  # (the file's path, where in it)


@dataclass(frozen=True, order=True)
class _Span:
    """A secret's characters in the text that was searched."""

    start: int
    end: int
    kind: str


# --- the detectors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Detector:
    """A kind of secret and its patterns. A group called `secret` is the part to hide."""

    kind: str
    patterns: tuple[re.Pattern[str], ...]


_PLUGINS = (  # of detect-secrets; the one for IP addresses is left out, they are no secrets
    *("artifactory.ArtifactoryDetector", "aws.AWSKeyDetector", "azure_storage_key.AzureStorageKeyDetector"),
    *("basic_auth.BasicAuthDetector", "cloudant.CloudantDetector", "discord.DiscordBotTokenDetector"),
    *("github_token.GitHubTokenDetector", "gitlab_token.GitLabTokenDetector", "ibm_cloud_iam.IbmCloudIamDetector"),
    *("ibm_cos_hmac.IbmCosHmacDetector", "jwt.JwtTokenDetector", "mailchimp.MailchimpDetector", "npm.NpmDetector"),
    *("openai.OpenAIDetector", "private_key.PrivateKeyDetector", "pypi_token.PypiTokenDetector"),
    *("sendgrid.SendGridDetector", "slack.SlackDetector", "softlayer.SoftlayerDetector"),
    *("square_oauth.SquareOAuthDetector", "stripe.StripeDetector", "telegram_token.TelegramBotTokenDetector"),
    "twilio.TwilioKeyDetector",
)
_GAP = r"\s+[-+]?\s*"  # between words that may stand on lines of a patch

_OWN: tuple[tuple[str, ...], ...] = (  # what detect-secrets does not know, or knows too narrowly
    ("Anthropic Token", r"sk-ant-[A-Za-z0-9_-]{16,}"),
    ("OpenAI Token", r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,}"),
    ("Hugging Face Token", r"(?:hf|api_org)_[A-Za-z0-9]{30,}"),
    ("Google API Key", r"AIza[0-9A-Za-z_-]{35}"),
    ("Google OAuth Secret", r"GOCSPX-[A-Za-z0-9_-]{20,}", r"ya29\.[0-9A-Za-z_-]{20,}"),
    ("age Secret Key", r"AGE-SECRET-KEY-(?:PQ-)?1[0-9A-Z]{50,}", r"age-secret-key-(?:pq-)?1[0-9a-z]{50,}"),
    ("GitHub Token", r"github_pat_[A-Za-z0-9_]{22,}"),
    ("GitLab Token", r"gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas|ffct|wt)-[A-Za-z0-9_-]{20,}"),
    ("Slack Token", r"(?:xox[a-z]|xapp)-[A-Za-z0-9.-]{10,}"),
    ("Stripe Access Key", r"[rs]k_(?:live|test)_[0-9A-Za-z]{16,}", r"whsec_[A-Za-z0-9+/=]{24,}"),
    ("Square OAuth Secret", r"sq0(?:atp|csp)-[0-9A-Za-z_-]{22,}"),
    ("NPM tokens", r"npm_[A-Za-z0-9]{30,}", r":_(?:authToken|auth|password)=\s*(?P<secret>[^\s\"'\\]{8,})"),
    ("Artifactory Credentials", r"AKCp[0-9A-Za-z]{32,}"),
    ("PyPI Token", r"pypi-AgE[A-Za-z0-9_-]{40,}"),
    ("Vault Token", r"hv[sbr]\.[A-Za-z0-9_-]{24,}"),
    ("DigitalOcean Token", r"do[opr]_v1_[a-f0-9]{40,}"),
    ("Shopify Token", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    ("Databricks Token", r"dapi[a-f0-9]{32}"),
    ("Azure Storage Account access key", r"SharedAccessKey=(?P<secret>[A-Za-z0-9+/=]{32,})"),
    ("JSON Web Token", r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}"),
    ("Authorization Header", r"uthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:Bearer|Basic|[tT]oken)\s{1,4}"
            r"(?P<secret>[A-Za-z0-9._~+/=-]{16,})"),
    ("netrc Password", rf"(?:machine{_GAP}[^\s\"\\]{{1,256}}|default){_GAP}login{_GAP}[^\s\"\\]{{1,256}}"
            rf"(?:{_GAP}account{_GAP}[^\s\"\\]{{1,256}})?{_GAP}password{_GAP}(?P<secret>[^\s\"\\]+)"),
    (BASIC_AUTH, r"://[^\s/:@\"'\\]{0,128}:[^\s/?#\"'\\()<>\[\],]{3,256}@[A-Za-z0-9]"),
    (PRIVATE_KEY, r"b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/=]*"),
)  # fmt: skip


@functools.cache
def _detectors() -> tuple[_Detector, ...]:
    """Every detector of a form. Of detect-secrets' plugins nothing but the name and the patterns is kept."""
    plugins = [_plugin(name)() for name in _PLUGINS]
    own = [_Detector(kind, tuple(re.compile(pattern) for pattern in patterns)) for kind, *patterns in _OWN]
    return (*(_Detector(plugin.secret_type, tuple(plugin.denylist)) for plugin in plugins), *own)


def _plugin(name: str) -> Any:
    module, _, attribute = name.partition(".")
    return getattr(_module(f"plugins.{module}"), attribute)


def _module(name: str) -> Any:
    """A module of detect-secrets, loaded without the HTTP client that its verifying half wants: nothing here asks a
    server, and that client opens an IPv6 socket when it is imported, where a night has only Unix sockets."""
    client = sys.modules.get("requests")
    if client is None:
        stand_in = types.ModuleType("requests")
        stand_in.Response = object  # type: ignore[attr-defined] # named in annotations
        sys.modules["requests"] = stand_in
    try:
        return importlib.import_module(f"detect_secrets.{name}")
    finally:
        if client is None:
            del sys.modules["requests"]


# Where a detector's secret can be, found cheaply and in linear time. Most secrets lie in a long run of such characters
# and hold one of these beginnings; the others follow a name, or stand in a form of their own.
_RUN = re.compile(r"[A-Za-z0-9_=+/.:@~-]{16,}")
_IN_RUN = re.compile(
    r"AKC|AP[0-9A-F]|A3T|A[BS]IA|ACCA|AKIA|AC[a-z0-9]{32}|SK[a-z0-9]{32}|AccountKey=|SharedAccessKey=|eyJ"
    r"|[MNO][\w-]{23,25}\.[\w-]{6}\.|gh[opusr]_|github_pat_|gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas|ffct|wt)-"
    r"|GR1348941|-us\d|:_|npm_|T3BlbkFJ|sk-(?:ant|proj|svcacct|admin|None)-|b3BlbnNzaC1rZXktdjE|pypi-Ag|SG\."
    r"|[xX][oO][xX]|xapp-|[sS][lL][aA][cC][kK]\.|[sS][oO][aA][pP]/|sq0|[rs]k_(?:live|test)_|whsec_|\d:[\w-]{35}|hf_"
    r"|api_org_|AIza|GOCSPX-|ya29|AGE-SECRET|age-secret|hv[sbr]\.|do[opr]_v1_|shp[a-z]{2}_|dapi[a-f0-9]"
)
_NAMED = re.compile(r"[kKpPtT](?:[eE][yY]|[wW]|[aA][sS][sS]|[oO][kK][eE][nN])[^\n]{0,32}?[0-9A-Za-z/+_-]{24}")
_FORMS = (
    ("://", re.compile(r"://[^\s:/]{0,512}:[^\s/]{1,1024}@")),
    ("login", re.compile(r"login\s")),
    (":_", re.compile(r":_(?:auth|password)")),
    ("sq0csp-", re.compile(r"sq0csp-")),
    ("uthorization", re.compile(r"uthorization[\"']?\s{0,4}[:=]")),
    ("PRIVATE KEY", re.compile(r"BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY")),
)
_TAIL = re.compile(r"[A-Za-z0-9_=-]*")  # what a token may have beyond the length that its pattern asks for
_JWT_TAIL = re.compile(r"[A-Za-z0-9_=.-]*")
_KEEPS_ITS_END = {BASIC_AUTH, "netrc Password", "Authorization Header"}

# A private key as a block, its line ends as they are or escaped. Without a last line: as far as it looks like one.
_BEGIN = re.compile(r"-{4,5} ?BEGIN ([A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?) ?-{4,5}|PuTTY-User-Key-File-\d")
_BREAK = r"(?:\s|\\+[nrt])+(?:[-+>|#*][ \t]*)?"
_BODY = re.compile(
    rf"(?:{_BREAK}(?:[A-Za-z0-9+/=]{{16,}}|[A-Za-z-]{{4,24}}: [^\s\"\\][^\n\"\\]{{0,80}}))*"
    rf"(?:{_BREAK}[A-Za-z0-9+/]{{0,15}}={{1,2}})?"
)
_MAC = re.compile(r": ?[0-9a-fA-F]{0,128}")
BLOCK = 1 << 16  # characters that a private key has at most
_LEAD = re.compile(r"(?:\+|-(?!-{3,4} ?END))?[ \t>|#*]*")  # stays of each line of a block: a patch must stay a patch

_ESCAPE = re.compile(r'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])')
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


# --- finding ---------------------------------------------------------------------------------------------------------


def find(data: str | bytes) -> tuple[Secret, ...]:
    """The secrets in a text that are known by their form, in their order. Bytes that are not UTF-8 are looked over."""
    text = data if isinstance(data, str) else _text(data)
    return _placed(text, _spans(text))


def scan(files: Iterable[tuple[str, bytes]], max_bytes: int) -> tuple[Finds, bool]:
    """The secrets in named files, as (name, where), and whether all were read: none is asked for past `max_bytes`.

    For what was stored before there was a scan, or by somebody else. Files may be read as they are asked for.
    """
    found: list[tuple[str, Secret]] = []
    left = max_bytes
    for name, data in files:
        found += [(name, secret) for secret in find(data[: max(left, 0)])]
        left -= len(data)
        if left < 0:
            return tuple(found), False
    return tuple(found), True


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _placed(text: str, spans: Sequence[_Span]) -> tuple[Secret, ...]:
    found = []
    for span in spans:
        line_start = text.rfind("\n", 0, span.start) + 1
        line = text.count("\n", 0, span.start) + 1
        found.append(Secret(line, span.start - line_start + 1, span.end - span.start, span.kind))
    return tuple(found)


def _spans(text: str, depth: int = DEPTH) -> list[_Span]:
    """The secrets of a text, and of the same text with its JSON escapes read, which may hold JSON once more."""
    found = [*_blocks(text), *_tokens(text)]
    if depth and "\\" in text:
        plain, starts, shifts = _unescaped(text)
        if starts:
            for span in _spans(plain, depth - 1):
                found.append(_Span(_raw(span.start, starts, shifts), _raw(span.end, starts, shifts), span.kind))
    return _merged(found)


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """Spans without overlap; of two that overlap, the first gives the kind."""
    merged: list[_Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = _Span(last.start, max(last.end, span.end), last.kind)
        elif span.end > span.start:
            merged.append(span)
    return merged


def _unescaped(text: str) -> tuple[str, list[int], list[int]]:
    """The text with its JSON escapes read; the places behind each in it, and how far the raw text is ahead there."""
    parts: list[str] = []
    starts: list[int] = []
    shifts: list[int] = []
    done = length = 0
    for match in _ESCAPE.finditer(text):
        code = match[0][1:]
        parts += (text[done : match.start()], chr(int(code[1:], 16)) if len(code) > 1 else _PLAIN.get(code, code))
        length += match.start() - done + 1
        done = match.end()
        starts.append(length)
        shifts.append(done - length)
    parts.append(text[done:])
    return "".join(parts), starts, shifts


def _raw(place: int, starts: Sequence[int], shifts: Sequence[int]) -> int:
    """The place in the raw text of a place in the unescaped one."""
    index = bisect.bisect_right(starts, place) - 1
    return place + (shifts[index] if index >= 0 else 0)


def _blocks(text: str) -> Iterator[_Span]:
    if "PRIVATE KEY" not in text and "PuTTY-User-Key-File" not in text:
        return
    done = 0
    for begin in _BEGIN.finditer(text):
        if begin.start() < done:
            continue
        body = _BODY.match(text, begin.end())
        done = body.end() if body else begin.end()
        last = f"END {begin[1]}" if begin[1] else "Private-MAC"
        end = text.find(last, begin.end(), begin.end() + BLOCK)
        if end >= 0 and '"' not in text[begin.end() : end]:
            tail = (re.compile(r" ?-{0,5}") if begin[1] else _MAC).match(text, end + len(last))
            done = tail.end() if tail else end
        yield _Span(begin.start(), done, PRIVATE_KEY)


def _tokens(text: str) -> Iterator[_Span]:
    for low, high in _windows(text):
        window = text[low:high]
        for detector in _detectors():
            for pattern in detector.patterns:
                for match in pattern.finditer(window):
                    part = _secret_part(detector.kind, match)
                    if part is not None:
                        end = _end(text, low + part[1], detector.kind)
                        yield _Span(low + part[0], end, detector.kind)


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """The parts of a text, each within WINDOW characters, where the patterns have to look."""
    known: dict[str, bool] = {}
    places = []
    for match in _RUN.finditer(text):
        run = match[0]
        if run not in known:
            known[run] = _IN_RUN.search(run) is not None
        if known[run]:
            places += [match.start() + hit.start() for hit in _IN_RUN.finditer(run)]
    places += [match.start() for match in _NAMED.finditer(text)]
    for word, form in _FORMS:
        if word in text:
            places += [match.start() for match in form.finditer(text)]
    seen = -1
    for place in sorted(places):
        if place < seen:
            continue
        low = max(0, place - BEFORE)
        yield low, low + WINDOW
        seen = low + WINDOW - 1024  # what begins later than this has a window of its own


def _secret_part(kind: str, match: re.Match[str]) -> tuple[int, int] | None:
    """Which characters of a match are the secret; None when they only look like one."""
    if "secret" in match.re.groupindex:
        return None if match["secret"].startswith((MARKER, "{", "$", "<", "%")) else match.span("secret")
    if kind == BASIC_AUTH:
        start, end = match.start() + 3, match.start() + match[0].rindex("@")
        return None if set('"\\') & set(match[0]) else (start, end)
    groups = [match.span(number) for number in range(1, match.re.groups + 1)]
    start, end = max((span for span in groups if span[1] - span[0] >= 16), default=match.span(), key=lambda s: s[1])
    while start < end and match.string[start] in " \t\r\n\"'=:":
        start += 1
    while start < end and match.string[end - 1] in " \t\r\n\"'":
        end -= 1
    return (start, end) if _plausible(kind, match.string[start:end]) else None


def _plausible(kind: str, value: str) -> bool:
    """Whether a value that fits a wide pattern can be a secret: words fit some of them too."""
    if kind == ARTIFACTORY:
        return any(c.isdigit() for c in value[3:]) and any(c.isalpha() for c in value[3:])
    if kind == IBM_IAM:
        return any(c.isdigit() for c in value) and any(c.isupper() for c in value) and any(c.islower() for c in value)
    if kind == JWT:
        return _is_json(value.split(".")[0])
    return True


def _is_json(part: str) -> bool:
    try:
        json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:
        return False
    return True


def _end(text: str, end: int, kind: str) -> int:
    if kind in _KEEPS_ITS_END:
        return end
    tail = (_JWT_TAIL if kind == JWT else _TAIL).match(text, end, end + TAIL)
    return tail.end() if tail else end


# --- hiding ----------------------------------------------------------------------------------------------------------


class Scrubber:
    """Hides the secrets of several texts in each of them.

    A secret that is known by what stands around it is so hidden where that was lost, say in a name made from a title.
    """

    def __init__(self, texts: Iterable[bytes] = ()) -> None:
        self._found: dict[str, list[_Span]] = {}
        self._known: dict[str, str] = {}  # a secret's value -> its kind
        for data in texts:
            for text in [body for _, body in _frames(data)] or [_text(data)]:
                self._look(text)

    def _look(self, text: str) -> list[_Span]:
        if text not in self._found:
            self._found[text] = _spans(text)
            for span in self._found[text]:
                for value in _values(text[span.start : span.end], span.kind):
                    if len(self._known) < KNOWN:
                        self._known[value] = span.kind
        return self._found[text]

    def text(self, text: str) -> tuple[str, tuple[str, ...]]:
        """The text with a marker for each secret, and the kinds that were hidden, each once and sorted."""
        spans = _merged([*self._look(text), *_repeats(text, self._known)])
        parts: list[str] = []
        done = 0
        for span in spans:
            parts += (text[done : span.start], _marked(text[span.start : span.end], span.kind))
            done = span.end
        return "".join((*parts, text[done:])), tuple(sorted({span.kind for span in spans}))

    def scrub(self, data: bytes) -> tuple[bytes, tuple[str, ...]]:
        """The same for bytes.

        JSON stays JSON, lines stay lines, a patch stays a patch, a record of prompts stays readable, bytes that are
        not UTF-8 stay as they are. Data without a secret comes back as it is.
        """
        frames = _frames(data)
        if not frames:
            clean, kinds = self.text(_text(data))
            return (_bytes(clean), kinds) if kinds else (data, ())
        parts: list[bytes] = []
        hidden: set[str] = set()
        for head, body in frames:
            clean, kinds = self.text(body)
            hidden.update(kinds)
            parts += (_framed(head, _bytes(clean), len(kinds)) if kinds else head, _bytes(clean), b"\n")
        return (b"".join(parts), tuple(sorted(hidden))) if hidden else (data, ())


def scrub(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The data with a marker for each of its secrets, and the kinds that were hidden; see `Scrubber.scrub`."""
    return Scrubber().scrub(data)


def scrub_text(text: str) -> str:
    """A text for people with a marker for each secret."""
    return Scrubber().text(text)[0]


def _values(secret: str, kind: str) -> list[str]:
    """What of a secret to look for elsewhere: a key's lines, a password without its user; no words, nothing short."""
    if kind == PRIVATE_KEY:
        return re.findall(r"[A-Za-z0-9+/=]{24,}", secret)
    parts = [secret, secret.partition(":")[2]] if kind == BASIC_AUTH else [secret]
    return [part for part in parts if len(part) >= 20 or re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z]).{8,}", part)]


def _repeats(text: str, known: Mapping[str, str]) -> Iterator[_Span]:
    for value, kind in known.items():
        start = text.find(value)
        while start >= 0:
            yield _Span(start, start + len(value), kind)
            start = text.find(value, start + len(value))


def _marked(value: str, kind: str) -> str:
    """The marker of a secret, once per line."""
    first, *more = value.split("\n")
    marker = f"{MARKER} redacted {kind}]"
    leads = [(_LEAD.match(line) or [""])[0] for line in more]
    ends = ["\r" if line.endswith("\r") else "" for line in (first, *more)]
    return "\n".join(lead + marker + end for lead, end in zip(["", *leads], ends, strict=True))


_PROMPT = re.compile(rb"prompt (\d+) bytes=(\d+) sha256=[0-9a-f]{64}[^\n]*\n")


def _frames(data: bytes) -> list[tuple[bytes, str]]:
    """The prompts of a record, each with its header; none when the data is no record."""
    frames: list[tuple[bytes, str]] = []
    place = 0
    while place < len(data):
        head = _PROMPT.match(data, place)
        end = head.end() + int(head[2]) if head else 0
        if head is None or data[end : end + 1] != b"\n":
            return []
        frames.append((head[0], _text(data[head.end() : end])))
        place = end + 1
    return frames


def _framed(head: bytes, body: bytes, hidden: int) -> bytes:
    """The header of a changed prompt: length and digest of what is kept, and how many kinds of secrets are not."""
    digest = hashlib.sha256(body).hexdigest().encode()
    return b"prompt %s bytes=%d sha256=%s redacted=%d\n" % (head.split()[1], len(body), digest, hidden)


def clean_run(run: Run, scrubber: Scrubber | None = None) -> Run:
    """A run's record with its texts scrubbed; ids and paths stay exact, because they are looked up."""
    clean = scrubber or Scrubber()

    def text(found: str) -> str:
        return clean.text(found)[0]

    verdicts = tuple(
        one.model_copy(
            update={
                "reason": text(one.reason),
                "criteria": tuple(c.model_copy(update={"reason": text(c.reason)}) for c in one.criteria),
            }
        )
        for one in run.verdicts
    )
    checks = tuple(one.model_copy(update={"detail": text(one.detail)}) for one in run.checks)
    update = {"reason": text(run.reason), "item": clean_item(run.item), "verdicts": verdicts, "checks": checks}
    return run.model_copy(update=update)


def clean_item(item: Item) -> Item:
    """An item's record with its texts scrubbed; the same one where there is nothing to hide, as nearly always."""
    messages = [_clean_line(each.message) for each in item.findings]
    hint = _clean_line(item.hint)
    if hint == item.hint and all(text == one.message for text, one in zip(messages, item.findings, strict=True)):
        return item
    pairs = zip(item.findings, messages, strict=True)
    findings = tuple(each.model_copy(update={"message": text}) for each, text in pairs)
    return item.model_copy(update={"findings": findings, "hint": hint})


@functools.lru_cache(maxsize=4096)
def _clean_line(text: str) -> str:
    """`scrub_text`, of what is said of one file after the other."""
    return scrub_text(text)


def clean_task(task: Task) -> Task:
    return task.model_copy(update={"title": scrub_text(task.title), "body": scrub_text(task.body)})


# --- what a change adds ----------------------------------------------------------------------------------------------

_NAMES = re.compile(r"key|pass|pwd|secret|contrase", re.IGNORECASE)
_SECRET_NAME = re.compile(r"key|pass|pwd|secret|token|credential|contrase|bearer|auth(?!or)", re.IGNORECASE)
_DIGEST_NAME = re.compile(r"sha|commit|digest|hash|checksum|oid|integrity|revision|etag|uuid|tree|blob", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+|")
DIGESTS = {7, 8, 10, 12, 16, 20, 32, 40, 56, 64, 96, 128}  # hexadecimal digits of digests and object ids


class Edit(Protocol):
    """One file of a diff: its path and content; `base` or `new` is None where there is none, `old_path` on a rename."""

    @property
    def path(self) -> str: ...
    @property
    def old_path(self) -> str | None: ...
    @property
    def base(self) -> bytes | None: ...
    @property
    def new(self) -> bytes | None: ...


def added(edits: Sequence[Edit]) -> Finds:
    """The secrets that a change brings in, as (path, where); line 0 is the path itself.

    Moving one is not bringing it in: the base of the same file held it, or a line that some file lost.
    """
    gone = "\n".join(line for edit in edits for line in _lost(edit))
    found: list[tuple[str, Secret]] = []
    for edit in edits:
        if edit.new is None:
            continue
        if edit.base is None or edit.old_path is not None:
            names = [s for s in _spans(edit.path) if edit.path[s.start : s.end] not in (edit.old_path or "")]
            found += [(edit.path, Secret(0, 0, span.end - span.start, span.kind)) for span in names]
        base, text = _text(edit.base), _text(edit.new)
        known = _spans(text)
        loose = _loose(text, set(base.split("\n")), edit.path)
        spans = _merged([*known, *(s for s in loose if not any(s.start < k.end and k.start < s.end for k in known))])
        fresh = [s for s in spans if not _stood(text[s.start : s.end], base, gone)]
        found += [(edit.path, secret) for secret in _placed(text, fresh)]
    return tuple(found)


def _stood(value: str, *texts: str) -> bool:
    """Whether a value stands in one of the texts; a short one as a word, because it is part of many others."""
    whole = re.compile(re.escape(value) if len(value) >= 16 else rf"(?<!\w){re.escape(value)}(?!\w)")
    return any(value in text and whole.search(text) for text in texts)


def _lost(edit: Edit) -> list[str]:
    kept = set(_text(edit.new).split("\n"))
    return [line for line in _text(edit.base).split("\n") if line not in kept]


def _loose(text: str, before: set[str], path: str) -> Iterator[_Span]:
    """What looks like a secret by its name or its randomness, in the lines that were not there before."""
    place = 0
    for line in text.split("\n"):
        if line not in before:
            for low in range(0, len(line), LINE):
                part = line[low : low + LINE + 512]
                for value, kind in (*_random(part), *_named(part, path)):
                    start = part.index(value)
                    yield _Span(place + low + start, place + low + start + len(value), kind)
        place += len(line) + 1


@functools.cache
def _judges() -> _Judges:
    names = ("plugins.keyword", "filters.heuristic", "util.filetype")
    keyword, heuristic, filetype = (_module(name) for name in names)
    base64_strings = _plugin("high_entropy_strings.Base64HighEntropyString")(limit=4.5)
    hex_strings = _plugin("high_entropy_strings.HexHighEntropyString")(limit=3.0)
    return _Judges((base64_strings, hex_strings), keyword.KeywordDetector(), keyword, heuristic, filetype)


@dataclass(frozen=True)
class _Judges:
    """The parts of detect-secrets that go by randomness and by names, and its filters of false alarms."""

    entropy: tuple[Any, ...]
    keyword: Any
    forms: Any
    heuristic: Any
    filetype: Any


def _random(line: str) -> Iterator[tuple[str, str]]:
    """The quoted values of a line that look random."""
    if '"' not in line and "'" not in line:
        return
    for detector in _judges().entropy:
        for value in detector.analyze_string(line):
            if (
                detector.calculate_shannon_entropy(value) > detector.entropy_limit
                and not _harmless(value, line, detector)
                and not _is_digest(value, line)
                and not _is_words(value)
            ):
                yield value, detector.secret_type


def _named(line: str, path: str) -> Iterator[tuple[str, str]]:
    """The values of a line whose names say that they are secret."""
    if not _NAMES.search(line):
        return
    judges = _judges()
    quoted = judges.forms.QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP
    forms = judges.forms.REGEX_BY_FILETYPE.get(judges.filetype.determine_file_type(path), quoted)
    for value in judges.keyword.analyze_string(line, denylist_regex_to_group=forms):
        if not _harmless(value, line, judges.keyword) and not judges.heuristic.is_indirect_reference(line):
            yield value, judges.keyword.secret_type
    if forms is quoted:  # front matter, and what people paste: no quotes needed, but then it must not be a word
        loose = judges.forms.CONFIG_DENYLIST_REGEX_TO_GROUP
        for value in judges.keyword.analyze_string(line, denylist_regex_to_group=loose):
            if re.fullmatch(r"(?=.*\d)\S{8,}", value) and not _harmless(value, line, judges.keyword):
                yield value, judges.keyword.secret_type


def _harmless(value: str, line: str, detector: Any) -> bool:
    """detect-secrets' own filters: ids, sequences, templates, references."""
    heuristic = _judges().heuristic
    return (
        heuristic.is_sequential_string(value)
        or heuristic.is_potential_uuid(value)
        or heuristic.is_likely_id_string(value, line, detector)
        or heuristic.is_templated_secret(value)
        or heuristic.is_prefixed_with_dollar_sign(value)
        or heuristic.is_not_alphanumeric_string(value)
        or MARKER in value
    )


def _is_digest(value: str, line: str) -> bool:
    """Whether a random-looking value is the digest or the object id that its line says or its length suggests."""
    name = line[: line.index(value)]
    if _SECRET_NAME.search(name):
        return False
    if _DIGEST_NAME.search(name):
        return True
    return len(value) in DIGESTS and re.fullmatch(r"[0-9a-f]+", value) is not None


def _is_words(value: str) -> bool:
    """Whether a value is a path or a slug: words and numbers with signs between them."""
    return all(_WORD.fullmatch(part) for part in re.split(r"[-_/+=]", value))
