"""Front matter is edited byte for byte: properties first, then the shapes real files come in."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pantheon.errors import InputError, TaskError
from pantheon.frontmatter import BOM, MAX_FILE, Document, parse, remove_field, set_field

KEYS = ("uuid", "title", "status", "tags", "labels", "note", "created_at")
ORDER = ("uuid", "title", "slug", "status", "tags", "created_at")

YAML_SIGNS = "-a:[]{}&*!|>'\"# \n\t\r\x85\u2028\u00e9?"
chars = st.characters(codec="utf-8", exclude_categories=["Cs"])
texts = st.text(chars, max_size=30)
lists = st.lists(texts, max_size=4)
plains = st.sampled_from(["4930e12", "0123", "12:30", "yes", "2026-01-01", "a b", "", "~", "x#y", "é", "a:b"])


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A file with front matter in mixed styles, with comments, blank lines, nesting, either newline, maybe a BOM."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines = ["---"]
    for key in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=6)):
        lines += draw(st.sampled_from([[], ["# about"], [""], ["", "# far", "", "# near"]]))
        plain = draw(plains)
        comment = draw(st.sampled_from(["", "  # why", " #"]))
        lines += draw(
            st.sampled_from(
                [
                    [f"{key}: {plain}{comment}"],
                    [f'"{key}": "{plain}"{comment}'],
                    [f"{key} : '{plain}'{comment}"],
                    [f"{key}: [a, 'b, c',{comment if not comment else ''} é]{comment}"],
                    [f"{key}: [a,", f"  b]{comment}"],
                    [f"{key}:{comment}", "  - a", "  # inside", "  - 'b'", "  # after"],
                    [f"{key}:", "- a", "-", "- c"],
                    [f"{key}: |+", "  é line", "", "  # text", "", ""],
                    [f"{key}: >-{comment}", "    folded", "", "    on"],
                    [f"{key}:{comment}", "  inner: {a: [b], c: }", "  other:", "    - x: 1", "      y: 2"],
                    [f"{key}: {{a: b, # }}", f"  c: d}}{comment}"],
                    [f"{key}: !tag {plain or 'v'}{comment}"],
                    [f"{key}: two", f"   lines{comment}"],
                ]
            )
        )
    lines += draw(st.sampled_from([["---"], ["..."], ["", "# last", "---"]]))
    body = draw(st.sampled_from(["", "body", "body\n", "\n\n# é\n---\ntext\r\n"]))
    head = newline.join(lines) + draw(st.sampled_from([newline] if body else [newline, ""]))
    return draw(st.sampled_from([b"", BOM])) + (head + body).encode()


def spliced(before: bytes, after: bytes, doc: Document, start: int, end: int) -> bool:
    """Whether only the bytes from `start` to `end` of the file were replaced."""
    tail = len(before) - end
    return after[:start] == before[:start] and (tail == 0 or after[-tail:] == before[-tail:])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.sampled_from((*KEYS, "slug", "odd key: #")), st.one_of(texts, lists))
def test_set_field_changes_that_value_and_no_other_byte(raw: bytes, key: str, value: str | list[str]) -> None:
    doc = parse(raw, "a.md")
    after = set_field(doc, key, value, order=ORDER)
    again = parse(after, "a.md")
    assert again.mapping() == {**doc.mapping(), key: value}
    assert again.body == doc.body
    field = doc.field(key)
    if field is not None:
        assert spliced(raw, after, doc, field.colon, field.end)
    else:
        new = again.field(key)
        assert new is not None
        assert after[: new.end].endswith(doc.newline)
        line = after.rfind(b"\n", 0, new.colon) + 1
        assert after[:line] + after[new.end :] == raw or after[:line] + after[after.index(b"\n", line) + 1 :] == raw
    assert set_field(again, key, value, order=ORDER) == after


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.sampled_from(KEYS))
def test_remove_field_takes_its_lines_only(raw: bytes, key: str) -> None:
    doc = parse(raw, "a.md")
    after = remove_field(doc, key)
    kept = {k: v for k, v in doc.mapping().items() if k != key}
    # a blank line kept by `|+` may move to the value above it; the keys and the body never change
    assert list(parse(after, "a.md").mapping()) == list(kept)
    assert parse(after, "a.md").body == doc.body


@settings(max_examples=200, deadline=None)
@given(st.text(chars, max_size=60), texts)
def test_a_file_without_front_matter_gets_a_block_above_its_bytes(body: str, value: str) -> None:
    raw = body.encode()
    if raw.removeprefix(BOM).startswith(b"---"):
        return
    after = set_field(parse(raw, "a.md"), "title", value)
    assert parse(after, "a.md").mapping() == {"title": value}
    assert after.endswith(raw.removeprefix(BOM))
    assert after.startswith(BOM) == raw.startswith(BOM)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text(st.sampled_from(YAML_SIGNS), max_size=60)))
def test_any_input_is_parsed_or_refused_with_an_input_error(tail: bytes | str) -> None:
    raw = b"---\n" + (tail if isinstance(tail, bytes) else tail.encode())
    for data in (raw, raw + b"\n---\n"):
        try:
            doc = parse(data, "a.md")
        except InputError as error:
            assert error.path == "a.md"
            continue
        for field in doc.fields:
            assert field.start < field.colon <= field.end <= doc.block_end


def test_scalars_stay_text() -> None:
    raw = b"---\na: 4930e12\nb: 0123\nc: 12:30\nd: yes\ne: 2026-01-01\nf: null\ng:\nh: {i: 1.0}\n---\n"
    assert parse(raw, "a.md").mapping() == {
        "a": "4930e12", "b": "0123", "c": "12:30", "d": "yes", "e": "2026-01-01", "f": "", "g": "", "h": {"i": "1.0"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "why", "line"),
    [
        (b"---\ntitle: x\n", "never closed", 1),
        (b"---\na: 1\nb: \xff\n---\n", "not UTF-8 at byte 12", 3),
        (b"---\na: 1\nb: 'x\n---\n", "not YAML", 0),
        (b"---\na: 1\nb: 2\na: 3\n---\n", "twice", 4),
        (b"---\na: 1\nb: {c: 1, c: 2}\n---\n", "twice", 3),
        (b"---\na: &x 1\nb: *x\n---\n", "aliases", 2),
        (b"---\n- a\n---\n", "not a mapping", 2),
        (b"---\n\njust text\n\n---\n", "not a mapping", 3),
        (b"---\n{a: 1}\n---\n", "one field per line", 2),
        (b"---\n? a\n: b\n---\n", "without a colon", 2),
        (b"---\na: " + b"[" * 20 + b"]" * 20 + b"\n---\n", "nested deeper", 2),
        (b"---\na: " + b"[" * 90_000 + b"\n---\n", "nested deeper", 2),
        (b"---\na: \x01\n---\n", "not allowed", 0),
        ("---\na: 1\u2028b: 2\n---\n".encode(), "", 0),
        (b"---\na: " + b"x" * 300_000 + b"\n---\n", "front matter of", 1),
        (b"x" * (MAX_FILE + 1), "more than", 0),
    ],
)
def test_bad_front_matter_is_refused_with_its_line(raw: bytes, why: str, line: int) -> None:
    with pytest.raises(InputError) as caught:
        parse(raw, "notes/a.md")
    assert caught.value.path == "notes/a.md"
    assert why in caught.value.why
    assert line in (0, caught.value.line)


def test_the_caller_names_the_error() -> None:
    with pytest.raises(TaskError):
        parse(b"---\n", "task.md", error=TaskError)


def test_a_new_field_goes_where_the_order_says() -> None:
    doc = parse(b'---\ntitle: "t"\nfoo: "x"\n# when\ncreated_at: "c"\n---\n', "a.md")
    assert set_field(doc, "uuid", "u", order=ORDER).startswith(b'---\nuuid: "u"\ntitle')
    assert b'title: "t"\nslug: "s"\nfoo' in set_field(doc, "slug", "s", order=ORDER)
    assert set_field(doc, "zzz", "z", order=ORDER).endswith(b'created_at: "c"\nzzz: "z"\n---\n')


def test_the_style_of_the_file_is_kept() -> None:
    assert set_field(parse(b"---\na: one\n---\n", "a.md"), "b", "two") == b"---\na: one\nb: two\n---\n"
    assert set_field(parse(b"---\na: one\n---\n", "a.md"), "b", "yes") == b'---\na: one\nb: "yes"\n---\n'
    assert set_field(parse(b"---\na: 'one'\n---\n", "a.md"), "b", "two") == b"---\na: 'one'\nb: 'two'\n---\n"
    block = parse(b"---\r\ntags:  # t\r\n  - a\r\n---\r\n", "a.md")
    assert set_field(block, "tags", ["x", "y z"]) == b"---\r\ntags:  # t\r\n  - x\r\n  - y z\r\n---\r\n"
    assert set_field(block, "tags", []) == b"---\r\ntags: []  # t\r\n---\r\n"
    assert set_field(parse(b"---\nt: []  # t\n---\n", "a.md"), "t", ["x"]) == b'---\nt: ["x"]  # t\n---\n'


def test_a_thousand_notes_are_read_in_two_seconds() -> None:
    fields = "".join(f'field_{n}: "value {n} é"\n' for n in range(15))
    raw = f"---\n{fields}tags:\n  - a\n  - b\n---\n".encode() + b"# Title\n\ntext\n" * 300
    start = time.perf_counter()
    for _ in range(1000):
        parse(raw, "a.md")
    assert time.perf_counter() - start < 2


def test_many_fields_are_read_in_linear_time() -> None:
    raw = b"---\n" + b"".join(b"k%d: \xc3\xa9\n" % n for n in range(15_000)) + b"---\n"
    start = time.perf_counter()
    assert len(parse(raw, "a.md").fields) == 15_000
    assert time.perf_counter() - start < 3
