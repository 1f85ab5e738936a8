"""First sentences for docstrings, computed: what names, signatures and bodies say, and nothing that they do not.

Pure. A small model only picks, so each sentence must be acceptable as it stands; where the facts carry none there is
none. Imperative mood for functions, noun phrases for classes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from pantheon.tools import english, outlines, pyfacts
from pantheon.tools.english import a, sentence, spoken, the
from pantheon.tools.pyfacts import Body
from pantheon.tools.pysource import Definition, Function, Source

_AUXILIARIES = {"can": "can", "should": "should", "must": "must", "may": "may", "will": "will", "needs": "needs"}
_ADJECTIVE = re.compile(r".+(?:ed|ing|able|ible|al|ive|ous|ful|ic|less|ent|ant|ary)$")
_ADJECTIVES = english.vocabulary(
    """
    active alive allowed available big blank busy clean closed complete current dark dead different dirty done dry
    due empty enabled equal even expired false finite first fixed free fresh full global greater hidden idle in
    infinite installed last late leaf less light local lower main mutable negative new null numeric odd ok old
    online open own parallel plain positive primary prime private public raw ready real remote right rooted safe
    same secure set short similar simple single small sorted sparse square stale static strict subset superset sure
    true unique unsafe up upper valid visible wrong zero
    """
)
_RELATIONAL = english.vocabulary(
    """
    age area average body class code color colour count date degree depth description digest distance duration end
    extension hash head height id index kind label language length level maximum mean median minimum mode name
    number offset order parent path position prefix rank ratio root score shape similarity size speed start status
    suffix sum tail title total type url value version weight width
    """
)
_MAKERS = frozenset(
    {"add", "append", "build", "construct", "create", "draw", "emit", "generate", "insert", "make", "raise"}
)
_INTO = frozenset({"add", "append", "enqueue", "insert", "push", "put", "write"})
_OUT_OF = frozenset({"delete", "discard", "drop", "pop", "remove", "unregister"})
_SOURCES = frozenset({"import", "load", "parse", "read"})
_SINKS = frozenset({"dump", "export", "save", "write"})
_PLACES = frozenset(
    {"path", "file", "file name", "file path", "file object", "directory", "stream", "URL", "URI", "address", "folder"}
)
_CHECKS = frozenset({"assert", "check", "ensure", "require", "validate", "verify"})
_OWNER = english.vocabulary(
    """
    clear clone close configure copy disable draw enable execute finalize finish flush freeze initialize lock open
    paint pause play prepare print refresh reload render reset restart resume run save shutdown start stop unlock
    update
    """
)
_GENERIC = english.vocabulary(
    """
    argument arguments async callback class context data debug default dry encoding event first flag force function
    indent index item key keyword kind left mode object offset option options other parameters position recursive
    reference result right run second sep separator settings start stop strict timeout type value verbose x y
    """
)
_ORDERS = english.vocabulary(
    """
    check close dump format list load open print read reset return set split start stop test update
    """
)
_ROLES = english.vocabulary(  # a function with such a name is one, and gives none
    "callback command decorator factory filter handler helper hook job listener middleware plugin task test validator "
    "view wrapper"
)
_GLUED = re.compile(r"(?:get|set|pop|mk|rm|iter|is|has|str|un|re|de|i|l|r|n)(?=[a-z]{3})")


def sentences(path: str, source: Source, definition: Definition) -> list[str]:
    """First sentences for a definition's docstring, the best first; none where nothing can be said."""
    node = definition.node
    found: list[str] = []
    comment = pyfacts.comment_above(source, definition)
    if comment:
        found.append(sentence(imperative(comment) if isinstance(node, Function) else comment))
    found += [imperative(text) for text in pyfacts.inherited(source, definition)]
    if isinstance(node, ast.Module):
        found += outlines.of_module(path, source)
    elif isinstance(node, ast.ClassDef):
        found += outlines.of_class(source, node)
    else:
        found += _of_function(source, definition, node)
    return [text for text in dict.fromkeys(found) if _is_sound(text)]


def imperative(text: str) -> str:
    """A sentence with its verb as an order: `Returns the name`, `Return the name`."""
    first, _, rest = text.partition(" ")
    for base in (first[:-1].lower(), first[:-2].lower(), f"{first[:-3].lower()}y"):
        if base in english.VERBS and english.third(base) == first.lower() and rest:
            return f"{base[:1].upper()}{base[1:]} {rest}"
    return text


def _is_sound(text: str) -> bool:
    """Whether a sentence reads like one: several words, none twice in a row, no lone letters."""
    parts = [part.strip(".,;:`").lower() for part in text.split()]
    twice = any(one == two for one, two in pairwise(part for part in parts if part not in ("the", "a", "an")))
    lone = any(len(part) == 1 and part != "a" and not part.isdigit() for part in parts)
    odd = twice or lone or not all(english.is_word(part) for part in text.strip(".").split())
    return len(parts) > 1 and not odd and text.isprintable() and "  " not in text


# --- functions -------------------------------------------------------------------------------------------------------


def _of_function(source: Source, definition: Definition, node: Function) -> Iterator[str]:
    parts = english.words(node.name)
    if not parts or any(part.isdigit() for part in parts) or "def" in parts[:-1]:
        return
    body = pyfacts.body_of(node)
    owner = _owner(definition)
    marks = pyfacts.decorators(node)
    if any(mark.endswith("property") for mark in marks):
        yield from _property(parts, owner, node, body)
        return
    if "contextmanager" in marks or "asynccontextmanager" in marks:
        yield from _context(definition, parts)
        return
    phrases = list(_phrases(source, definition, parts, body, owner))
    if body.unwritten:
        yield from (f"{phrase[:-1]}; subclasses implement this." for phrase in phrases)
    yield from phrases
    if phrases and english.is_verb(parts[0]) and parts[0] not in ("get", "return"):
        yield from _with_result(phrases[0], node, body, owner)


def _owner(definition: Definition) -> str:
    """The class of a method as a noun; "" for a function or a class whose name says nothing."""
    if not pyfacts.is_method(definition) or "staticmethod" in pyfacts.decorators(definition.node):
        return ""
    return outlines.class_noun(definition.parents[-1].name)  # type: ignore[union-attr]


def _property(parts: list[str], owner: str, node: Function, body: Body) -> Iterator[str]:
    truth = body.truth or pyfacts.last_name(node.returns) == "bool"
    subject = the(owner) if owner else ""
    if parts[0] in ("is", "has", *_AUXILIARIES):
        yield from (f"W{text[len('Return w') :]}" for text in _predicate(parts, subject))
        yield from _predicate(parts, subject)
        return
    noun = spoken(parts)
    if truth:
        if subject and (parts[-1] in _ADJECTIVES or _ADJECTIVE.fullmatch(parts[-1])):
            yield f"Whether {subject} is {noun}."
            yield f"Return whether {subject} is {noun}."
        return
    if (
        not (body.returns or body.unwritten)
        or body.changes
        or (body.raises and not body.unwritten)
        or body.fluent
        or (len(parts) == 1 and _GLUED.match(parts[0]) and parts[0] not in _RELATIONAL)
    ):
        return
    yield f"Return {the(noun)}."
    if owner and owner.split()[-1] not in noun:
        yield f"Return {the(noun)} of {the(owner)}."
        yield sentence(f"{the(noun)} of {the(owner)}")


def _context(definition: Definition, parts: list[str]) -> Iterator[str]:
    if english.is_verb(parts[0]) and len(parts) > 1:
        for phrase in _verb_phrase(definition, parts, "", Body()):
            yield f"{phrase[:-1]} while a with block runs."
    elif not english.is_verb(parts[0]) and len(parts) > 1 and parts[-1] not in english.ADVERBS:
        yield f"Provide {a(spoken(parts))} as a context manager."


def _phrases(source: Source, definition: Definition, parts: list[str], body: Body, owner: str) -> Iterator[str]:
    first, rest = parts[0], parts[1:]
    node = definition.node
    assert isinstance(node, Function)
    gives = body.returns or body.unwritten
    if node.name == "main":
        with_them = " with the given arguments" if pyfacts.parameters(definition) else ""
        yield f"Run the program{with_them}."
    elif first in ("is", "has", "are", *_AUXILIARIES) and rest:
        if gives:
            yield from _predicate(parts, _subject(definition, owner))
    elif first in ("to", "as") and rest:
        yield from _conversion(definition, rest, owner, gives)
    elif first == "from" and rest and owner and {"classmethod", "staticmethod"} & set(pyfacts.decorators(node)):
        yield f"Create {a(owner)} from {a(spoken(rest))}."
    elif first == "on" and rest and not gives:
        yield f"Handle the {spoken([p for p in rest if p != 'event'])} event."
    elif first in ("visit", "depart", "leave") and rest:
        yield f"{first.capitalize()} {a(spoken([p for p in rest if p != 'node']))} node."
    elif first == "get" and rest:
        yield from _getter(definition, rest, body, owner)
    elif first in ("iter", "iterate", "yield") and rest and (gives or body.yields):
        yield f"Iterate over {the(english.plural(spoken(rest)))}."
    elif "to" in rest[:-1] and not english.is_verb(first) and gives:
        at = parts.index("to")
        yield f"Convert {a(spoken(parts[:at]))} to {a(spoken(parts[at + 1 :]))}."
    elif _is_noun(source, definition, parts, body):
        yield from _getter(definition, parts, body, owner)
    elif english.is_verb(first):
        yield from _verb_phrase(definition, parts, owner, body)


def _is_noun(source: Source, definition: Definition, parts: list[str], body: Body) -> bool:
    """Whether a function is named by what it gives."""
    if not (body.returns or body.yields or body.unwritten) or body.wraps or body.fluent:
        return False
    if english.is_verb(parts[0]):
        two = len(parts) > 1 and parts[-1] in _RELATIONAL and not body.yields
        return two and english.is_also_noun(parts[0]) and parts[0] not in _ORDERS
    if parts[-1] in english.ADVERBS | english.PARTICLES | _ROLES or parts[0] in english.PREPOSITIONS | {
        "do",
        "not",
        "no",
    }:
        return False
    if any(english.is_verb(part) and not english.is_also_noun(part) for part in parts[1:]):
        return False
    if any(noun.split()[-1:] == spoken(parts).split()[-1:] for noun in _nouns(pyfacts.required(definition))):
        return False  # markdown_path(path): what is done to the path, not what is given
    if any(_is_third(part) for part in parts) or {"or", "and"} & set(parts):
        return False
    if len(parts) > 1:
        return not _ADJECTIVE.fullmatch(parts[-1]) or parts[-1].endswith(("al", "ing", "ive", "ant", "ent"))
    plain = not _GLUED.match(parts[0]) or parts[0] in _RELATIONAL
    adjective = _ADJECTIVE.fullmatch(parts[0]) is not None or parts[0] in _ADJECTIVES
    return plain and not adjective and len(parts[0]) > 2 and parts[0] in pyfacts.spoken_names(source)


def _is_third(word: str) -> bool:
    """Whether a word is a verb that says what something does: contains, matches."""
    bases = [base for base in (word[:-1], word[:-2]) if base in english.VERBS | {"exist", "own", "depend", "belong"}]
    return any(english.third(base) == word and not english.is_also_noun(base) for base in bases)


def _subject(definition: Definition, owner: str) -> str:
    """What a predicate is said of: the one parameter of a function, else the class of a method."""
    nouns = _nouns(pyfacts.required(definition))
    if owner:
        return the(owner) if not nouns else ""
    return the(nouns[0]) if len(nouns) == 1 and nouns[0] else ""


def _nouns(arguments: Iterable[ast.arg]) -> list[str]:
    return [pyfacts.parameter_noun(arg) for arg in arguments]


def _predicate(parts: list[str], subject: str) -> Iterator[str]:
    """`is_open` of a door: Return whether the door is open."""
    first, rest = parts[0], parts[1:]
    said = spoken(rest)
    if not subject or not rest:
        return
    if first == "has":
        yield f"Return whether {subject} has {said if rest[-1] in _ADJECTIVES else a(said)}."
    elif first in _AUXILIARIES:
        if english.is_verb(rest[0]) or rest[0] == "be":
            yield f"Return whether {subject} {'needs to' if first == 'needs' else first} {said}."
    elif rest[0] == "not":
        yield from (
            text.replace(f"{subject} is ", f"{subject} is not ", 1) for text in _predicate([first, *rest[1:]], subject)
        )
    elif rest[0] in english.PREPOSITIONS:
        yield f"Return whether {subject} {first} {rest[0]} {a(spoken(rest[1:])) if rest[1:] else ''}".rstrip() + "."
    elif rest[-1] in _ADJECTIVES or _ADJECTIVE.fullmatch(rest[-1]) or first == "are":
        yield f"Return whether {subject} {first} {said}."
    elif not english.is_plural(said):
        yield f"Return whether {subject} is {a(said)}."


def _conversion(definition: Definition, rest: list[str], owner: str, gives: bool) -> Iterator[str]:
    nouns = _nouns(pyfacts.required(definition))
    if not gives:
        return
    if owner and not nouns:
        yield f"Return {the(owner)} as {a(spoken(rest))}."
        yield f"Convert {the(owner)} to {a(spoken(rest))}."
    elif len(nouns) == 1 and nouns[0]:
        yield f"Convert {the(nouns[0])} to {a(spoken(rest))}."
        yield f"Return {the(nouns[0])} as {a(spoken(rest))}."


def _getter(definition: Definition, rest: list[str], body: Body, owner: str) -> Iterator[str]:
    """`get_name`, or a function named by what it gives."""
    node = definition.node
    assert isinstance(node, Function)
    gives = body.returns or body.yields or body.unwritten
    if not gives or {rest[0], rest[-1]} & english.PREPOSITIONS or {"or", "and"} & set(rest):
        return
    noun = english.noun_phrase(rest)
    if re.fullmatch(r".+(?:ed|able|ible)", rest[-1]):
        return
    if body.yields:
        yield f"Yield {the(english.plural(noun))}."
        return
    given = [noun for noun in _nouns(pyfacts.required(definition)) if noun]
    fresh = [one for one in given if one not in _GENERIC and one not in noun and one.split()[-1] not in noun.split()]
    if len(fresh) == len(pyfacts.required(definition)) and 0 < len(fresh) < 3:
        yield f"Return {the(noun)} for the given {english.listed(fresh)}."
        if len(fresh) == 1 and rest[-1] in _RELATIONAL and len(noun.split()) < 3:
            yield f"Return {the(noun)} of the {fresh[0]}."
    if pyfacts.or_none(node.returns):
        yield f"Return {the(noun)}, or None if there is none."
    if english.is_plural(noun) and pyfacts.is_container(node.returns) and pyfacts.type_noun(node.returns):
        yield f"Return {the(noun)} as {a(pyfacts.type_noun(node.returns))}."
    if owner and owner.split()[-1] not in noun and not given:
        yield f"Return {the(noun)} of {the(owner)}."
    yield f"Return {the(noun)}."


def _verb_phrase(definition: Definition, parts: list[str], owner: str, body: Body) -> Iterator[str]:
    """`load_names`, `close`, `add_user_to_group`."""
    order, rest = english.verb(parts[0]), parts[1:]
    if order == "try" and rest and english.is_verb(rest[0]):
        order, rest = f"try to {english.verb(rest[0])}", rest[1:]
    if rest and rest[0] in english.PARTICLES:
        order, rest = f"{order} {rest[0]}", rest[1:]
    if not rest:
        yield from _bare(definition, order, owner, body)
    elif rest == ["all"] or (len(rest) == 1 and rest[0] in english.PREPOSITIONS):
        return
    elif rest[-1] in english.ADVERBS:
        if len(rest) == 1:
            yield sentence(f"{order} {the(owner)} {rest[0]}" if owner and order in _OWNER else f"{order} {rest[0]}")
        else:
            yield sentence(f"{order} {the(spoken(rest[:-1]))} {rest[-1]}")
    elif rest[0] in english.PREPOSITIONS:
        thing = a(spoken(rest[1:]))
        if owner and order in (*_SOURCES, *_SINKS, *_OWNER):
            yield sentence(f"{order} {the(owner)} {rest[0]} {thing}")
        yield sentence(f"{order} {rest[0]} {thing}")
    elif english.is_verb(rest[0]) and not english.is_also_noun(rest[0]):
        return
    else:
        yield from _transitive(order, rest, owner, body)


def _transitive(order: str, rest: list[str], owner: str, body: Body) -> Iterator[str]:
    phrase = english.noun_phrase(rest)
    last = rest[-1]
    if last in english.PREPOSITIONS | _ADJECTIVES | {"or", "and"} or (
        _ADJECTIVE.fullmatch(last) and not last.endswith(("al", "ing", "ent", "ant", "ive", "ary"))
    ):
        return
    if order == "ensure":
        return
    between = english.WITH.get(order, "")
    article = a if order in _MAKERS else the
    said = f"{order} {between} {article(phrase)}" if between else f"{order} {article(phrase)}"
    if order in _CHECKS and len(body.raises) == 1 and not body.returns:
        yield sentence(f"{said}; raise {body.raises[0]} on failure")
    yield sentence(said)
    plain = not any(part in english.PREPOSITIONS for part in rest)
    if owner and plain and owner.split()[-1] not in phrase and order in ("set", "update", "reset", "clear", "remove"):
        yield sentence(f"{said} of {the(owner)}" if order != "remove" else f"{said} from {the(owner)}")
    elif owner and plain and owner.split()[-1] not in phrase and order in ("add", "append", "insert"):
        yield sentence(f"{said} to {the(owner)}")


def _bare(definition: Definition, order: str, owner: str, body: Body) -> Iterator[str]:
    """A verb alone: its object is a parameter or the class."""
    if owner and order in (*_INTO, *_OUT_OF) and not pyfacts.parameters(definition):
        return
    if order in english.ALONE or order in ("get", "return", "list", "call"):
        return
    if order in ("build", "construct", "create", "generate", "make"):
        if owner and "classmethod" in pyfacts.decorators(definition.node):
            yield f"{order.capitalize()} {a(owner)}."
        return
    first = next(iter(_nouns(pyfacts.required(definition))), "")  # what a verb is done to comes first, or is not said
    thing = first if first and first.split()[-1] not in _GENERIC else ""
    if owner and order in ("copy", "clone") and body.returns:
        yield f"Return a copy of {the(owner)}."
    elif owner and thing and order in (*_INTO, *_OUT_OF) and thing not in _PLACES:
        yield sentence(f"{order} {the(thing)} {'to' if order in _INTO else 'from'} {the(owner)}")
    elif thing in _PLACES and order in (*_SOURCES, *_SINKS):
        yield sentence(f"{order} {owner and the(owner)} {'from' if order in _SOURCES else 'to'} {the(thing)}")
    elif thing and order in _OWNER and owner.endswith(("er", "or")):
        yield sentence(f"{order} {the(thing)}")
    elif owner.endswith(("er", "or")) and pyfacts.required(definition):
        return
    elif owner and order in _OWNER and not outlines.names_itself(order, owner):
        yield sentence(f"{order} {the(owner)}")
    elif thing:
        yield sentence(f"{order} {english.WITH.get(order, '')} {the(thing)}")
    elif owner and not pyfacts.parameters(definition) and not (english.is_also_noun(order) and body.returns):
        itself = outlines.names_itself(order, owner) or order in english.WITH
        yield from () if itself else (sentence(f"{order} {the(owner)}"),)


def _with_result(phrase: str, node: Function, body: Body, owner: str) -> Iterator[str]:
    """The same with what is given back, where an annotation or the body says it."""
    noun = pyfacts.type_noun(node.returns)
    if body.fluent and owner:
        yield f"{phrase[:-1]} and return {the(owner)}."
    elif noun and noun not in ("boolean",) and noun.lower() not in phrase.lower() and ";" not in phrase:
        yield f"{phrase[:-1]} and return {a(noun)}."
