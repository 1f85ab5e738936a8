"""What a change did, as facts that can be computed: for reviewers, and shared with the checks.

Pure: bytes before and after. It states; whether a change is good is the reviewers' and the gate's business.
"""

from __future__ import annotations

from collections.abc import Mapping

from pantheon.errors import InputError
from pantheon.frontmatter import Document, Value, parse
from pantheon.records import Record
from pantheon.tools import links, prose
from pantheon.tools.repair import undamage
from pantheon.tools.rules import Rules
from pantheon.tools.words import stem, tag_of

TEXT = 900  # characters of the whole, as JSON


class Evidence(Record):
    """The facts of one note's change. None: the field did not change, so there is nothing to say."""

    target: str
    renamed_from: str = ""
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    title_words_in_text: str | None = None
    description_is_from_text: bool | None = None
    tags_in_text: dict[str, bool] | None = None
    body_unchanged: bool
    links_ok: bool
    before: str = ""
    after: str = ""


def evidence(before: tuple[str, bytes], after: tuple[str, bytes], rules: Rules, tree: links.Tree) -> Evidence:
    """Compare a note as (path, bytes) before and after; `tree` is the base tree."""
    (old_path, old_raw), (new_path, new_raw) = before, after
    old, new = _document(old_path, old_raw), _document(new_path, new_raw)
    had = old.mapping() if old else {}
    has = new.mapping() if new else {}
    moved = {old_path: new_path} if old_path != new_path else {}
    body = body_of(new_path, new_raw)
    fresh = {key: value for key, value in has.items() if had.get(key) != value}
    now = links.Tree(tuple((tree.files - {old_path}) | {new_path})) if moved else tree
    bad = {target for _, target in links.broken(new_path, new_raw, now)}
    found = Evidence(
        target=new_path,
        renamed_from=old_path if moved else "",
        added=tuple(key for key in fresh if key not in had),
        changed=tuple(key for key in fresh if key in had),
        removed=tuple(key for key in had if key not in has),
        title_words_in_text=_title_words(fresh.get("title"), new_path, body),
        description_is_from_text=_from_text(fresh.get("description"), body),
        tags_in_text=_tags(fresh.get("tags"), new_path, body),
        body_unchanged=body in expected_bodies(old_path, old_raw, moved, tree, rules),
        links_ok=bad <= {target for _, target in links.broken(old_path, old_raw, tree)},
        before=_front_matter(old),
        after=_front_matter(new),
    )
    over = len(found.to_json()) - TEXT
    if over > 0:  # the facts stay whole, the quoted front matter gives way
        found = found.model_copy(update={"before": _cut(found.before, max(0, len(found.before) - over))})
        over = len(found.to_json()) - TEXT
    if over > 0:
        found = found.model_copy(update={"after": _cut(found.after, max(0, len(found.after) - over))})
    return found


def expected_bodies(
    path: str, raw: bytes, moved: Mapping[str, str], tree: links.Tree, rules: Rules
) -> tuple[bytes, bytes]:
    """What the body below the front matter may be: links following the moves, without and with damage undone."""
    kept = links.rewrite(raw, path, moved, tree)
    repaired, _ = undamage(path, raw, rules)
    return body_of(path, kept), body_of(path, links.rewrite(repaired, path, moved, tree))


def body_of(path: str, raw: bytes) -> bytes:
    """The bytes below the front matter; the whole file where it cannot be parsed."""
    doc = _document(path, raw)
    return raw if doc is None else doc.body


def _document(path: str, raw: bytes) -> Document | None:
    try:
        return parse(raw, path)
    except InputError:
        return None


def _front_matter(doc: Document | None) -> str:
    return doc.raw[doc.block_start : doc.block_end].decode("utf-8", "replace").strip() if doc else ""


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(0, length - 2)].rstrip() + "…" if length > 2 else ""


def _title_words(title: Value | None, path: str, body: bytes) -> str | None:
    if not isinstance(title, str):
        return None
    text = prose.body_stems(body) | prose.stems(path.replace("-", " ").replace("_", " "))
    wanted = [stem(tag_of(w)) for w in prose.words(title)]
    return f"{sum(w in text for w in wanted)} of {len(wanted)}"


def _from_text(description: Value | None, body: bytes) -> bool | None:
    if not isinstance(description, str):
        return None
    return prose.folded(description) in prose.folded(" ".join(b.text for b in prose.blocks(body)))


def _tags(tags: Value | None, path: str, body: bytes) -> dict[str, bool] | None:
    if not isinstance(tags, list):
        return None
    named = [stem(tag_of(w)) for w in prose.words(path.replace("-", " ").replace("_", " "))]
    text = f" {' '.join([*prose.stemmed(body), *named])} "
    whole = prose.folded(text)
    return {str(t): f" {stem(tag_of(str(t)))} " in text or prose.folded(str(t)) in whole for t in tags}
