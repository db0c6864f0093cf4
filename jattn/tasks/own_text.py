"""A text of a person's own: each symbol from those before it; the end of the text is held out."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jattn.tasks.example_files import RESERVED
from jattn.tasks.files import check_share, read_file
from jattn.tasks.late import jax, jnp
from jattn.tasks.sequences import Sequence, Task

if TYPE_CHECKING:
    from jaxtyping import Array, Int, PRNGKeyArray

UNITS = ("characters", "bytes")

LENGTH, LONGEST = 64, 4096
"""The length of a window by default, and the greatest."""

MOST_HOLES = 1000
"""How many numbers of a tokenizer may be without a token, beside as many as have one."""

SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
"""How blanks are written, so that each symbol is seen."""


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A text as numbers of symbols, the symbols as they are written, and how many bytes each stands for."""

    tokens: Int[np.ndarray, " n"]
    symbols: tuple[str, ...]
    symbol_bytes: tuple[float, ...]


def text(
    file: str = "", units: str = "characters", test_share: float = 0.1, sha256: str = "", tokenizer: str = ""
) -> Task:
    """Predicts each symbol of a text from those before it in a window; the end of the text is never trained on.

    A source is a window of the text, the target the same window one symbol later. A blank is written ``␣``, the end of
    a line ``↵``. There is no oracle: filters are shown, not scored. In place of sequence accuracy, evaluation and test
    say the perplexity, ``exp`` of the mean loss, and the bits per byte, ``Σ loss / (ln 2 · bytes)``, which does not
    depend on the units.

    Args:
      file: the path of the text; in UTF-8 where its units are characters.
      units: what a symbol is: ``"characters"`` or ``"bytes"``. The vocabulary is all that occur, sorted.
      test_share: the share of the text, at its end, whose windows evaluation and test draw; training draws from what
        comes before. With 0 all draw from the whole text.
      sha256: the digest that the file must have, in hexadecimal; with a tokenizer, that of both digests, one after the
        other; empty where it may be any.
      tokenizer: the path of a ``tokenizer.json`` of the package ``tokenizers``. Its tokens, without those that it adds
        at the ends, are the symbols then, and all of them the vocabulary; each counts as the mean bytes of a token of
        the text.

    Raises:
      ValueError: if there is no such file, it is no text of these units, it has another digest, or a side of the split
        has fewer than two symbols; if there is no such tokenizer, or units are given besides.

    Example:
      >>> import pathlib, tempfile
      >>> from jattn import tasks
      >>> path = pathlib.Path(tempfile.mkdtemp(), "song.txt")
      >>> _ = path.write_text("la la\\n")
      >>> task = tasks.text(str(path), test_share=0)
      >>> task.symbols, task.length, task.has_oracle
      (('↵', '␣', 'a', 'l'), 5, False)
    """
    check_share(test_share)
    if units not in UNITS:
        raise ValueError(f"units: expected 'characters' or 'bytes', got {units!r}")
    if tokenizer and units != "characters":
        raise ValueError(f"units: expected none with a tokenizer, whose tokens are the units, got {units!r}")
    found, digest, split = _read_tokens(file, tokenizer) if tokenizer else (*_read_units(file, units), _SPLITS[units])
    if sha256 and sha256 != digest:
        which = f"{file} or {tokenizer}" if tokenizer else file
        raise ValueError(f"file: {which} has changed: expected the SHA-256 {sha256}, got {digest}")
    count = round(test_share * len(found.tokens))
    train, test = np.split(found.tokens, [len(found.tokens) - count])
    what = "tokens" if tokenizer else units
    least = min(len(part) for part in (train, test if test_share else train))
    if least < 2:
        raise ValueError(
            f"test_share: expected at least 2 {what} to train on and to hold out of the {len(found.tokens)} in "
            f"{Path(file).name}, got {len(train)} and {count}"
        )
    longest = min(LONGEST, least - 1)
    return Task(
        name="text",
        symbols=found.symbols,
        sample=_sampler(train),
        judged=_sampler(test) if test_share else None,
        longest=longest,
        length=min(LENGTH, longest),
        layouts=("causal",),
        has_oracle=False,
        split=split,
        sha256=digest,
        symbol_bytes=found.symbol_bytes,
    )


def _sampler(tokens: Int[np.ndarray, " n"]) -> Callable[..., Sequence]:
    """Makes a sampler of windows, each as likely."""

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        start = jax.random.randint(rng, (), 0, len(tokens) - length, jnp.int32)
        places = jnp.minimum(start + jnp.arange(room + 1, dtype=jnp.int32), len(tokens) - 1)
        window = jnp.asarray(tokens)[places].astype(jnp.int32)
        return Sequence(window[:-1], length, window[1:], length, jnp.zeros((room, room), bool))

    return sample


def _decoded(path: Path, data: bytes, hint: str) -> str:
    try:
        letters = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"file: {path.name}, line {line}: expected UTF-8, got byte {data[error.start]:#04x}{hint}"
        ) from None
    _check_length(path, data)
    return letters


def _read_characters(path: Path, data: bytes) -> Text:
    letters = _decoded(path, data, "; task.units = 'bytes' reads any file")
    codes, tokens = np.unique(np.frombuffer(letters.encode("utf-32-le"), np.uint32), return_inverse=True)
    characters = [chr(code) for code in codes.tolist()]
    return Text(_small(tokens), tuple(map(_written, characters)), tuple(len(c.encode("utf-8")) for c in characters))


def _read_bytes(path: Path, data: bytes) -> Text:
    _check_length(path, data)
    codes, tokens = np.unique(np.frombuffer(data, np.uint8), return_inverse=True)
    return Text(_small(tokens), tuple(map(_written_byte, codes.tolist())), (1,) * len(codes))


_READERS = {"characters": _read_characters, "bytes": _read_bytes}


def _read_units(file: str, units: str) -> tuple[Text, str]:
    return read_file(file, "", "a file of text", _READERS[units])


def _read_tokens(file: str, tokenizer: str) -> tuple[Text, str, Callable[[str], list[str]]]:
    """Reads a text by a tokenizer; returns it, the digest of both files, and what splits a text in the same way."""
    try:
        found, of_tokenizer = read_file(tokenizer, "", "a file of the package tokenizers", _read_tokenizer)
    except ValueError as error:
        raise ValueError(f"tokenizer:{str(error).partition(':')[2]}") from None
    read, of_text = read_file(file, "", "a file of text", _reader_by(found))
    both = hashlib.sha256(f"{of_text}{of_tokenizer}".encode()).hexdigest()
    return read, both, lambda words: [read.symbols[token] for token in _encoded(found, words)]


def _read_tokenizer(path: Path, data: bytes) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            "file: expected the package 'tokenizers', which is not installed; the extra 'pretrained' of jattn has it"
        ) from None
    try:
        found = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # of whatever kind the package raises
        reason = " ".join(str(error).split())
        raise ValueError(f"file: {path.name}: expected a file of the package tokenizers, got: {reason}") from None
    found.no_padding()
    found.no_truncation()
    return found


@functools.lru_cache(maxsize=4)
def _reader_by(tokenizer: Any) -> Callable[[Path, bytes], Text]:
    """Makes what reads a text by a tokenizer, the same for the same tokenizer, so that a text is read once."""

    def read(path: Path, data: bytes) -> Text:
        letters = _decoded(path, data, "")
        tokens = np.array(_encoded(tokenizer, letters), np.int64)
        if not tokens.size:
            raise ValueError(f"file: {path.name}: expected a text, got one without a token")
        symbols = _token_names(tokenizer)
        return Text(_small(tokens), symbols, (len(data) / len(tokens),) * len(symbols))

    return read


def _encoded(tokenizer: Any, words: str) -> list[int]:
    try:
        return tokenizer.encode(words, add_special_tokens=False).ids
    except Exception as error:  # of whatever kind the package raises
        reason = " ".join(str(error).split())
        raise ValueError(f"tokenizer: expected one that reads the text {words[:20]!r}…, got: {reason}") from None


def _token_names(tokenizer: Any) -> tuple[str, ...]:
    """Names every number of a token, no two alike and none as layouts name theirs: ``<4>`` where there is no token."""
    numbers = tokenizer.get_vocab(with_added_tokens=True)
    size = 1 + max(numbers.values())
    if size > MOST_HOLES + 2 * len(numbers):
        raise ValueError(f"tokenizer: expected numbers without large gaps for {len(numbers)} tokens, got {size - 1}")
    names, taken = [], {*RESERVED}
    for number in range(size):
        name = tokenizer.id_to_token(number) or f"<{number}>"
        while name in taken or numbers.get(name, number) != number:
            name = f"<{name}>"
        names.append(name)
        taken.add(name)
    return tuple(names)


def _check_length(path: Path, data: bytes) -> None:
    if not data:
        raise ValueError(f"file: {path.name}: expected a text, got an empty file")


def _small(tokens: np.ndarray) -> np.ndarray:
    """Returns the same numbers in as few bytes as hold them."""
    return tokens.reshape(-1).astype(np.min_scalar_type(int(tokens.max())))


def _split_characters(words: str) -> list[str]:
    return [_written(character) for character in words]


def _split_bytes(words: str) -> list[str]:
    return [_written_byte(byte) for byte in words.encode("utf-8")]


_SPLITS = {"characters": _split_characters, "bytes": _split_bytes}


def _written_byte(byte: int) -> str:
    return _written(chr(byte)) if byte < 128 else f"\\x{byte:02x}"


def _written(character: str) -> str:
    """Writes a character so that it is seen, and no two alike."""
    if character in SIGNS:
        return SIGNS[character]
    if character in SIGNS.values() or character.isspace() or not character.isprintable():
        return f"\\u{ord(character):04x}"
    return character
