"""What an adapter on disk may be: judged from its bytes, without torch, before anything that could run it sees it.

Part of adapters.py. Owns the two files' form: a LoRA's configuration that names nothing to fetch, to import or to match
with, and safetensors whose header describes pairs of A and B and every byte that follows. A directory that holds
anything else is refused: loaders look for pickles and code beside the weights. It loads nothing, knows no repository.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from pantheon.errors import EngineError
from pantheon.records import Digest, Record

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FILES = (CONFIG, WEIGHTS)
MAX_CONFIG = 1 << 16  # bytes; peft writes about one thousand
MAX_HEADER = 4 << 20  # bytes; of 80 layers with seven linear maps each about 200,000
MAX_WEIGHTS = 4 << 30  # bytes
MAX_RANK = 64  # the largest that vLLM has kernels for
MAX_ALPHA = 1024
MAX_SIDE = 1 << 20  # of a matrix
MAX_TARGETS = 64
MAX_TENSORS = 8192
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a number
_MODULE = re.compile(r"[A-Za-z0-9_]{1,64}")
_TENSOR = re.compile(r"base_model\.model\.((?:[A-Za-z0-9_]{1,64}\.){1,16})lora_([AB])\.weight", re.ASCII)
_TEXT = re.compile(r"[0-9A-Za-z.+-]{1,40}", re.ASCII)
_OFF: tuple[Any, ...] = (None, False, 0, "", [], {})  # an option that is not used


class Shape(Record):
    """What an adapter's files say of themselves. `modules`: the linear maps that it changes, by their last name;
    `parameters`: its numbers; `size`: bytes on disk."""

    digest: Digest
    rank: int
    alpha: float
    modules: tuple[str, ...]
    parameters: int
    size: int


def examine(directory: Path, expected: str | None = None) -> Shape:
    """Read an adapter's directory as an enemy's: no link is followed, nothing is waited for, nothing is loaded.

    Raises EngineError where it holds anything but the two files, where its digest is not `expected`, and where a file
    is not what a LoRA adapter's is."""
    try:
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _refusal(directory, f"it is no directory ({error.strerror})") from error
    try:
        strangers = sorted(set(os.listdir(place)) - set(FILES))
        if strangers:
            why = f"beside its two files it holds {', '.join(map(ascii, strangers[:3]))}: a loader might run them"
            raise _refusal(directory, why)
        with opened(directory, CONFIG, place) as file:
            config = file.read(MAX_CONFIG + 1)
        with opened(directory, WEIGHTS, place) as file:
            found = digest(config, file)
            if expected is not None and found != expected:
                raise _refusal(directory, f"its files have the digest {found[:19]}: somebody changed them")
            size = os.fstat(file.fileno()).st_size
            file.seek(0)
            return _shape(directory, config, file, size, found)
    finally:
        os.close(place)


def opened(directory: Path, name: str, place: int | None = None) -> BufferedReader:
    """One of the two files, a regular one of no more than its size. Opening a FIFO does not wait, and a link is not
    followed. `place`: a descriptor of the directory. Raises EngineError."""
    path, most = directory / name, MAX_CONFIG if name == CONFIG else MAX_WEIGHTS
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path if place is None else name, flags, dir_fd=place)
    except OSError as error:
        raise _refusal(path, f"there is no such regular file ({error.strerror})") from error
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode) or info.st_size > most:
        os.close(descriptor)
        big = f"it has {info.st_size:,} bytes, more than {most:,}"
        raise _refusal(path, big if stat.S_ISREG(info.st_mode) else "it is no regular file")
    return os.fdopen(descriptor, "rb")


def _shape(directory: Path, config: bytes, file: BufferedReader, size: int, found: str) -> Shape:
    try:
        rank, alpha, targets = parse_config(config)
    except ValueError as error:
        raise _refusal(directory / CONFIG, str(error)) from error
    try:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if length > min(MAX_HEADER, size - 8):
            raise ValueError(f"it announces a header of {length:,} bytes")
        pairs = parse_header(file.read(length), size - 8 - length)
        _fits(pairs, rank, targets)
    except ValueError as error:
        raise _refusal(directory / WEIGHTS, str(error)) from error
    return Shape(
        digest=found,
        rank=rank,
        alpha=alpha,
        modules=tuple(sorted({module.rpartition(".")[2] for module in pairs})),
        parameters=sum(rank * (inwards + outwards) for _, inwards, outwards in pairs.values()),
        size=size + len(config),
    )


def _refusal(path: Path, why: str) -> EngineError:
    agent = path.parent.parent.name if path.name in FILES else path.parent.name
    return EngineError("cannot use the adapter", str(path), why, f"git pantheon agents rollback {agent}")


def digest(config: bytes, weights: BufferedReader) -> str:
    """The digest of an adapter: sha256 over the names of its two files and the sha256 of their bytes, in hex."""
    whole = hashlib.sha256()
    digests = {CONFIG: hashlib.sha256(config).hexdigest(), WEIGHTS: hashlib.file_digest(weights, "sha256").hexdigest()}
    for name in FILES:
        whole.update(f"{name}\0{digests[name]}\0".encode())
    return f"sha256:{whole.hexdigest()}"


# --- pure ------------------------------------------------------------------------------------------------------------


def parse_config(data: bytes) -> tuple[int, float, frozenset[str]]:
    """(rank, alpha, names of the modules it changes) of peft's configuration of a plain LoRA. ValueError for another
    method, and for every option that could fetch, import, match with an expression, or train more than A and B."""
    if len(data) > MAX_CONFIG:
        raise ValueError(f"it has more than {MAX_CONFIG:,} bytes")
    config = _json(data)
    rank, alpha, targets = config.pop("r", None), config.pop("lora_alpha", None), config.pop("target_modules", None)
    if config.pop("peft_type", None) != "LORA" or config.pop("task_type", None) != "CAUSAL_LM":
        raise ValueError("it is not that of a LoRA of a language model")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"its rank is {rank!r:.40}; 1 to {MAX_RANK} can be served")
    if type(alpha) not in (int, float) or not 0 < alpha <= MAX_ALPHA:
        raise ValueError(f"its lora_alpha is {alpha!r:.40}")
    if not isinstance(targets, list) or not 1 <= len(targets) <= MAX_TARGETS:
        raise ValueError("its target_modules are not a list of names: an expression is matched with every module")
    if not all(isinstance(name, str) and _MODULE.fullmatch(name) for name in targets):
        raise ValueError("one of its target_modules is no plain name")
    for key, value in config.items():
        if not _harmless(key, value):
            raise ValueError(f"{key[:60]} is set to {json.dumps(value)[:60]}, which a plain LoRA does not need")
    return rank, float(alpha), frozenset(targets)


def _harmless(key: str, value: Any) -> bool:
    """Whether an option is off, or one of the few that say nothing to a loader."""
    match key:
        case "bias":
            return bool(value == "none")
        case "init_lora_weights" | "inference_mode":
            return isinstance(value, bool)
        case "lora_dropout":
            return type(value) in (int, float) and 0 <= value < 1
        case "peft_version":
            return value is None or (isinstance(value, str) and _TEXT.fullmatch(value) is not None)
        case "megatron_core":  # peft's default; it is looked at only where megatron_config is set
            return value in (None, "megatron.core")
        case "qalora_group_size":  # of use_qalora, which is off
            return type(value) is int
        case _:
            return value in _OFF


def parse_header(data: bytes, room: int) -> dict[str, tuple[int, int, int]]:
    """module -> (rank, inputs, outputs) of the header of safetensors whose tensors fill `room` bytes. ValueError for
    what is no pair of A (rank x inputs) and B (outputs x rank), and for tensors that overlap, leave holes or lie
    outside."""
    header = _json(data)
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ValueError("its metadata are not texts")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"it has {len(header)} tensors, more than {MAX_TENSORS}")
    halves: dict[str, dict[str, tuple[int, int]]] = {}
    spans: list[tuple[int, int]] = []
    for name, tensor in header.items():
        named = _TENSOR.fullmatch(name)
        if named is None:
            raise ValueError(f"its tensor {name[:80]!r} is no A or B of a LoRA")
        shape, span = _tensor(name, tensor)
        halves.setdefault(named[1][:-1], {})[named[2]] = shape
        spans.append(span)
    _cover(spans, room)
    return {module: _pair(module, both) for module, both in sorted(halves.items())}


def _tensor(name: str, tensor: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """(shape, span) of one entry of the header."""
    if not isinstance(tensor, dict) or set(tensor) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its entry {name[:80]!r} has not the three fields of a tensor")
    shape, span, kind = tensor["shape"], tensor["data_offsets"], tensor["dtype"]
    if not isinstance(kind, str) or kind not in _SIZES:
        raise ValueError(f"{name[:80]} has the type {json.dumps(kind)[:40]}; {', '.join(_SIZES)} can be served")
    if not _two(shape) or not all(1 <= side <= MAX_SIDE for side in shape):
        raise ValueError(f"{name[:80]} has the shape {json.dumps(shape)[:60]}, a matrix is expected")
    if not _two(span) or span[0] < 0 or span[1] - span[0] != shape[0] * shape[1] * _SIZES[kind]:
        raise ValueError(f"{name[:80]} has bytes {json.dumps(span)[:60]}, which its shape does not fill")
    return (shape[0], shape[1]), (span[0], span[1])


def _two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(one) is int for one in value)


def _cover(spans: Sequence[tuple[int, int]], room: int) -> None:
    """One tensor after the other, from the first byte to the last."""
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError(f"its tensors overlap or leave a hole at byte {min(start, end)}")
        end = stop
    if end != room or not spans:
        raise ValueError(f"its tensors have {end:,} bytes, the file {room:,}")


def _pair(module: str, both: Mapping[str, tuple[int, int]]) -> tuple[int, int, int]:
    if set(both) != {"A", "B"}:
        raise ValueError(f"{module[:80]} has only one of A and B")
    (rank, inwards), (outwards, other) = both["A"], both["B"]
    if rank != other:
        raise ValueError(f"{module[:80]}: A has rank {rank}, B {other}")
    return rank, inwards, outwards


def _fits(pairs: Mapping[str, tuple[int, int, int]], rank: int, targets: frozenset[str]) -> None:
    """The weights are those that the configuration speaks of."""
    for module, (own, _, _) in pairs.items():
        if own != rank:
            raise ValueError(f"{module[:80]} has rank {own}, its configuration {rank}")
        if module.rpartition(".")[2] not in targets:
            raise ValueError(f"{module[:80]} is none of the target_modules")
    if missing := targets - {module.rpartition(".")[2] for module in pairs}:
        raise ValueError(f"it has no weights for {', '.join(sorted(missing))[:80]}")


def _json(data: bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice: of two readers each could believe another one."""
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested deeper than any of ours") from error
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in it")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def plain(data: bytes) -> bytes:
    """A configuration as it is kept: without the path where its base was on the machine that trained it, which says
    nothing elsewhere; names sorted, so that equal trainings give equal bytes. ValueError when it is none."""
    config = _json(data)
    config["base_model_name_or_path"] = None
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"], key=str)
    if any(isinstance(value, float) and not math.isfinite(value) for value in config.values()):
        raise ValueError("it holds a number that is none")
    return (json.dumps(config, sort_keys=True, indent=1) + "\n").encode("ascii")
