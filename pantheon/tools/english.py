"""The English that is in names: words of an identifier, which of them is a verb, plurals, articles, acronyms.

Pure data and small functions. What is not known stays as it is written, so that nothing is made up.
"""

from __future__ import annotations

import re


def vocabulary(text: str) -> frozenset[str]:
    """The words of a text, for lists that are read by people."""
    return frozenset(text.split())


_PARTS = re.compile(r"[A-Z]+(?![a-z])s?(?=[A-Z_0-9]|$)|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+")

# Imperatives that functions are named with. A word that is more often a noun in names (name, size, file, index) is no
# verb here; `run` and `check` are.
_VERB_TEXT = """
abort accept acquire activate adapt add adjust advance align allocate allow analyze analyse announce append apply
approve archive assemble assert assign associate attach authenticate authorize await balance begin bind blend
bootstrap broadcast browse build calculate call cancel capitalize capture cast change check choose chop clamp clean
clear click clip clone close collapse collect combine commit compare compile complete compose compress compute concat
concatenate configure confirm connect consume construct contain continue convert coerce copy correct count crawl create
crop cut debug decide declare decode decompress decorate decrease decrement decrypt deduce deduplicate delete deliver
deploy dequeue derive describe deserialize destroy detach detect determine diff disable discard disconnect discover
dispatch display distribute divide download drain draw drop dump duplicate edit eliminate emit enable encode encrypt
end enqueue ensure enter enumerate erase escape estimate evaluate evict examine exclude execute exit expand expect
expire explain explode export expose extend extract fail fetch fill filter finalize find finish fire fit fix flatten
flip flush fold follow force forget format forward freeze generate get give grab grant group grow guess halt handle hash
help hide highlight identify ignore implement import include increase increment indent infer inflate inform inherit
init initialize inject insert inspect install instantiate interpolate interpret interrupt intersect invalidate
invert invoke issue iterate join jump keep kill label launch leave limit link list listen load locate lock log login
logout lookup lower make mangle map mark mask match measure merge migrate mock modify monitor mount move multiply
mutate navigate negate normalise normalize notify obtain open optimize order override overwrite pack pad paint
parse partition paste patch pause peek perform persist pick pickle ping play plot poll pop populate post predict
prepare prepend preprocess present preserve press prettify prevent print process produce prompt propagate provide
prune publish pull purge push put query queue quit quote raise randomize read rebuild receive recognize record recover
redirect reduce refresh refuse register reject release reload remove rename render reopen reorder repair repeat replace
reply report request require reset reshape resize resolve respond restart restore restrict resume retain retrieve
retry return reverse revert rewind rewrite rotate round run sample sanitize save scale scan schedule scrape scroll seal
search seek select send separate serialize serve set setup shift show shrink shuffle shutdown sign simplify skip sleep
slice smooth solve sort spawn split squash stack start stop store stream strip submit subscribe substitute subtract
suggest sum summarize suppress swap switch sync synchronize tag take teardown tell terminate test throw tidy toggle
tokenize touch trace track train transform translate transpose traverse trigger trim truncate try tune turn undo
unescape unfold uninstall unite unload unlink unlock unmount unpack unquote unregister unset unsubscribe unwrap update
upgrade upload uppercase use validate verify visit wait walk warn watch wipe wrap write yield zip
"""
VERBS = vocabulary(_VERB_TEXT)
# Verbs that are also nouns: with one more word in front of nothing they name a thing ("list_prices", "price_list").
_NOUNS_TOO = vocabulary(
    """
    call cast change check clean clear click close complete copy correct count cut diff display draw dump edit end
    estimate exit export filter fit fix format forward group hash help import index issue join jump label limit link
    list load lock log login lookup lower map mark mask match measure mock mount move open order patch pause plot
    poll post present press print process prompt query queue quote record release repair reply report request reset
    return reverse round run sample scale scan schedule scroll seal search separate set setup shift show sign slice
    smooth sort split stack start stop store stream sum switch sync tag test tidy trace track train transform
    trigger try turn update upgrade upper use visit wait walk watch wrap zip
    """
)
PREPOSITIONS = vocabulary(
    """
    about after against around as at before between by during for from if in into like of on onto over per since
    than through to under until using via when where while with within without
    """
)
ADVERBS = vocabulary(
    """
    again alone async asynchronously automatically away back directly forever immediately later lazily now once only
    recursively safely soon sync synchronously together twice
    """
)
PARTICLES = frozenset({"up", "down", "out", "off"})
# What a verb takes before its object, and verbs that take none.
WITH = {
    "wait": "for",
    "listen": "for",
    "iterate": "over",
    "subscribe": "to",
    "respond": "to",
    "reply": "to",
    "connect": "to",
    "search": "for",
    "navigate": "to",
    "look": "for",
    "switch": "to",
    "jump": "to",
    "log": "",
    "issue": "",
}
ALONE = vocabulary(
    """
    abort balance begin cast contain continue descend do end exit expect expire fail fit follow force give guess
    halt keep label leave login logout play put quit respond sleep take tell terminate try turn use walk
    """
)
_PHRASAL = {
    "checkout": "check out",
    "cleanup": "clean up",
    "lookup": "look up",
    "rollback": "roll back",
    "setup": "set up",
    "shutdown": "shut down",
    "startup": "start up",
    "teardown": "tear down",
}
_SHORT = {
    "addr": "address",
    "arg": "argument",
    "args": "arguments",
    "attr": "attribute",
    "attrs": "attributes",
    "auth": "authentication",
    "calc": "calculate",
    "cb": "callback",
    "cfg": "configuration",
    "char": "character",
    "chars": "characters",
    "cls": "class",
    "cmd": "command",
    "cmds": "commands",
    "cnt": "count",
    "col": "column",
    "cols": "columns",
    "conf": "configuration",
    "config": "configuration",
    "conn": "connection",
    "coord": "coordinate",
    "coords": "coordinates",
    "ctx": "context",
    "cur": "current",
    "curr": "current",
    "db": "database",
    "def": "definition",
    "defs": "definitions",
    "del": "delete",
    "dest": "destination",
    "dict": "dictionary",
    "dir": "directory",
    "dirs": "directories",
    "dst": "destination",
    "elem": "element",
    "elems": "elements",
    "env": "environment",
    "err": "error",
    "exc": "exception",
    "ext": "extension",
    "filepath": "file path",
    "fileobj": "file object",
    "fmt": "format",
    "hostname": "host name",
    "username": "user name",
    "abbr": "abbreviation",
    "codespan": "code span",
    "codec": "codec",
    "fn": "function",
    "fname": "file name",
    "filename": "file name",
    "filenames": "file names",
    "func": "function",
    "funcs": "functions",
    "gen": "generate",
    "idx": "index",
    "info": "information",
    "init": "initialize",
    "int": "integer",
    "iter": "iterate",
    "kwarg": "keyword argument",
    "kwargs": "keyword arguments",
    "lang": "language",
    "len": "length",
    "lib": "library",
    "max": "maximum",
    "mem": "memory",
    "metadata": "metadata",
    "min": "minimum",
    "msg": "message",
    "msgs": "messages",
    "num": "number",
    "obj": "object",
    "objs": "objects",
    "op": "operation",
    "ops": "operations",
    "opt": "option",
    "opts": "options",
    "param": "parameter",
    "params": "parameters",
    "pkg": "package",
    "pos": "position",
    "pred": "prediction",
    "prev": "previous",
    "prop": "property",
    "props": "properties",
    "proc": "process",
    "pwd": "password",
    "ref": "reference",
    "refs": "references",
    "regex": "regular expression",
    "regexp": "regular expression",
    "req": "request",
    "res": "result",
    "resp": "response",
    "ret": "result",
    "rev": "revision",
    "seq": "sequence",
    "spec": "specification",
    "specs": "specifications",
    "src": "source",
    "stmt": "statement",
    "str": "string",
    "sub": "substitute",
    "temp": "temporary",
    "timestamp": "timestamp",
    "tmp": "temporary",
    "toc": "table of contents",
    "val": "value",
    "vals": "values",
    "var": "variable",
    "vars": "variables",
    "ver": "version",
    "vec": "vector",
}
_ACRONYMS = vocabulary(
    """
    abi acl ai api ascii asgi ast aws bom cidr cli cpu crc crlf css csv cve dag dbus dhcp dns dom dpi dsl dtd eof
    fft fifo fips ftp gc gcd gid gmt gpg gpu gui hex hmac html http https iam icmp id ide imap inet io ip iso jpeg
    jpg json jvm jwt kml ldap lfs lru lxml mac md md5 mime ml mp3 mp4 mtime nan nlp ntp oauth ocr oid orm os oss pdf
    pem pgp php pid pip png posix ppm psd pypi qr ram rdf rest rfc rgb rgba rpc rpm rsa rss rst s3 sdk sha sha1
    sha256 smtp soap sql ssh ssl stderr stdin stdout svg svn tcp tls toml tsv ttl tty udp ui uid uri url usb utc utf
    uuid vcs vm vpn wav wsgi xhtml xls xlsx xml xpath xsd xslt yaml yml zip
    """
)
_AS_WRITTEN = {
    "ids": "IDs",
    "urls": "URLs",
    "uris": "URIs",
    "apis": "APIs",
    "uuids": "UUIDs",
    "pdfs": "PDFs",
    "ips": "IPs",
    "stdin": "standard input",
    "stdout": "standard output",
    "stderr": "standard error",
    "mtime": "modification time",
    "ctime": "change time",
    "zip": "ZIP",
    "lru": "LRU",
    "unicode": "Unicode",
    "python": "Python",
    "git": "Git",
    "github": "GitHub",
    "markdown": "Markdown",
    "latex": "LaTeX",
    "unix": "Unix",
    "linux": "Linux",
    "windows": "Windows",
    "django": "Django",
    "flask": "Flask",
    "numpy": "NumPy",
    "english": "English",
    "oauth": "OAuth",
    "none": "None",
    "true": "True",
    "false": "False",
    "lf": "LF",
    "hex": "hexadecimal",
    "mac": "MAC",
    "rest": "rest",
    "os": "OS",
    "html5": "HTML5",
    "pypi": "PyPI",
}
_VOWEL = re.compile(r"[aeiou]|hour|honest", re.IGNORECASE)
_CONSONANT_VOWELS = re.compile(r"u(?:ni|se|ti|r[il]|ui)|eu|one\b|once", re.IGNORECASE)
_SPELLED = re.compile(r"[AEFHILMNORSX][A-Z0-9]{1,5}s?\b")  # FTP, HTML, SVG are spoken letter by letter
_SPOKEN = frozenset(
    {"NUMPY", "RAM", "SOAP", "NASA", "RFID", "LATEX", "MAC", "ROM", "REST", "LAN", "HEX", "LIFO", "FIFO"}
)
_MASS = vocabulary(
    """
    access advice arithmetic authentication cache code configuration content css csv data debris documentation
    equipment feedback garbage hardware help history html information input io json knowledge latex logic markdown
    math memory metadata money music news noise output progress python software state status stdin stdout storage
    text time toml traffic unicode work xml yaml
    """
)
_NOT_PLURAL = re.compile(r"(?:ss|us|is|ous|ics|as)$")
_SINGULAR_S = frozenset({"alias", "bus", "basis", "axis", "canvas", "lens", "status", "class", "address", "process"})
_IRREGULAR = {
    "axis": "axes",
    "basis": "bases",
    "child": "children",
    "datum": "data",
    "index": "indices",
    "matrix": "matrices",
    "person": "people",
    "vertex": "vertices",
}
_DETERMINED = vocabulary(
    """
    a all an any both each every its my no one other some that the their this to what whether which
    """
)


def words(name: str) -> list[str]:
    """The words of an identifier, lower case but for acronyms that it writes in capitals: `parseHTTPHeader`."""
    found = []
    for part in _PARTS.findall(name):
        plain = part.lower()
        known = plain in _ACRONYMS or plain in _AS_WRITTEN
        if plain.startswith("iter") and plain[4:] in ("keys", "values", "items"):
            found += ["iter", plain[4:]]
        else:
            constant = name.isupper() and "_" in name
            found.append(part if part.isupper() and len(part) > 1 and not known and not constant else plain)
    return found


def is_word(text: str) -> bool:
    """Whether a word of a sentence can be one: something to pronounce, or capitals."""
    return not text.islower() or len(text) < 2 or re.search(r"[aeiouy\d]", text) is not None


def spoken(parts: list[str]) -> str:
    """Words as they are written in a sentence: acronyms in capitals, short forms in full."""
    text = " ".join(_written(part) for part in parts)
    return re.sub(r"\b(number|num) (?!of\b)(?=\w+s\b)", "number of ", text)


def _written(word: str) -> str:
    if word in _AS_WRITTEN:
        return _AS_WRITTEN[word]
    if word in _ACRONYMS:
        return word.upper()
    return _SHORT.get(word, word)


def is_verb(word: str) -> bool:
    """Whether a word is an imperative."""
    return word in _PHRASAL or verb(word) in VERBS


def verb(word: str) -> str:
    """The word with its short form in full (`init`: initialize)."""
    full = _SHORT.get(word, word)
    return _PHRASAL.get(word, full if full in VERBS else word)


def is_also_noun(word: str) -> bool:
    return word in _NOUNS_TOO


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase names several things, by its last word."""
    last = phrase.split(" ")[-1]
    if last in _IRREGULAR.values():
        return True
    return last.endswith("s") and len(last) > 2 and last not in _SINGULAR_S and not _NOT_PLURAL.search(last)


def is_mass(phrase: str) -> bool:
    return phrase.split(" ")[-1].lower() in _MASS


def plural(phrase: str) -> str:
    """The phrase for several: token kind, token kinds."""
    head, _, last = phrase.rpartition(" ")
    if is_plural(phrase) or is_mass(phrase):
        return phrase
    if last.lower() in _IRREGULAR:
        many = _IRREGULAR[last.lower()]
    elif last.endswith(("s", "x", "ch", "sh", "z")):
        many = last + "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        many = last[:-1] + "ies"
    else:
        many = last + "s"
    return f"{head} {many}" if head else many


def singular(phrase: str) -> str:
    """The phrase for one of several: entries, entry."""
    head, _, last = phrase.rpartition(" ")
    if not is_plural(phrase):
        return phrase
    back = {many: one for one, many in _IRREGULAR.items()}
    if last in back:
        one = back[last]
    elif last.endswith("ies"):
        one = last[:-3] + "y"
    elif last.endswith(("ches", "shes", "xes", "sses")):
        one = last[:-2]
    else:
        one = last[:-1]
    return f"{head} {one}" if head else one


def a(phrase: str) -> str:
    """The phrase with an indefinite article, where it takes one."""
    if is_plural(phrase) or is_mass(phrase) or phrase.split(" ")[0] in _DETERMINED:
        return phrase
    first = phrase.split(" ")[0]
    vowel = _VOWEL.match(phrase) is not None and not _CONSONANT_VOWELS.match(phrase)
    if _SPELLED.fullmatch(first):
        vowel = first not in _SPOKEN
    elif first.isupper():
        vowel = first[0] in "AEIO" and first[:2] != "EU"
    return f"{'an' if vowel else 'a'} {phrase}"


def the(phrase: str) -> str:
    """The phrase with its article."""
    return phrase if phrase.split(" ")[0] in _DETERMINED or phrase in ("None", "True", "False") else f"the {phrase}"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def third(word: str) -> str:
    """The third person of a verb: parse, parses."""
    if word.endswith(("s", "x", "ch", "sh", "z", "o")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else word + "s"


def sentence(text: str) -> str:
    """The text as a sentence."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def noun_phrase(parts: list[str]) -> str:
    """Words as a thing, with articles behind prepositions: user for id, user for the ID."""
    at = next((n for n, part in enumerate(parts) if part in PREPOSITIONS and 0 < n < len(parts) - 1), None)
    if at is None:
        return spoken(parts)
    behind = spoken(parts[at + 1 :])
    article = behind if parts[at] in ("by", "as", "per", "in", "if", "when") else the(behind)
    return f"{spoken(parts[:at])} {parts[at]} {article}"
