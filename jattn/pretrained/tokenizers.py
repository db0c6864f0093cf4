"""Tokenizers from the files that models are published with, read by the package ``tokenizers``."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jattn.pretrained.families import Config
from jattn.pretrained.tensors import Checkpoint, read_json, reader, whole

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What Llama 3 splits text into before it merges bytes; Qwen2 takes digits one by one."""

SPLITS: dict[str, str | None] = {
    "gpt-2": None,
    "default": None,
    "smollm": r"\p{N}",
    "llama-bpe": LLAMA3,
    "qwen2": LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}
"""What a GGUF file calls a way of splitting, and its pattern; None where that of GPT-2 is all."""

CONTROL = 3
"""The type of tokens that no text is made into."""


def read_tokenizer(source: Mapping[str, Any] | Path, vocabulary: int) -> tuple[Any, list[Path]]:
    """Reads the tokenizer beside a model's weights.

    Args:
      source: the metadata of a GGUF file, or the folder with the files.
      vocabulary: how many tokens the model knows.

    Returns:
      A `tokenizers.Tokenizer`, or None where there is none of a kind that is known here; and the files that were read.

    Raises:
      ValueError: if it has more tokens than the model, or its files are damaged.
    """
    found, files = _from_folder(source) if isinstance(source, Path) else (_from_gguf(source), [])
    if found is None:
        return None, []
    size = found.get_vocab_size(with_added_tokens=True)
    # A table of all tokens takes memory that stays with the process, so it is made only where numbers are left out.
    whole = all(found.id_to_token(number) is not None for number in range(size))
    most = size - 1 if whole else max(found.get_vocab(with_added_tokens=True).values(), default=-1)
    if most >= vocabulary:
        raise ValueError(f"tokenizer: expected tokens below the model's vocabulary of {vocabulary}, got token {most}")
    return found, files


def read_end_tokens(found: Checkpoint, vocabulary: int) -> tuple[tuple[int, ...], list[Path]]:
    """Reads which tokens end a text, from ``generation_config.json`` or else from the config.

    Returns:
      The tokens, of those that the model knows, and the files that were read besides the config.

    Raises:
      ValueError: if they are no tokens.
    """
    config, files = Config(found.config, found.config_file), []
    if isinstance(found.vocabulary, Path) and (own := found.vocabulary / "generation_config.json").exists():
        generation = Config(read_json(own), own.name)
        config, files = (generation, [own]) if generation.get("eos_token_id") is not None else (config, [])
    ends = config.get("eos_token_id", [])
    ends = ends if isinstance(ends, list) else [ends]
    if not all(type(token) is int for token in ends):
        raise config.error("eos_token_id", "a token or a list of them", config.get("eos_token_id"))
    return tuple(token for token in dict.fromkeys(ends) if 0 <= token < vocabulary), files


def split(tokenizer: Any, text: str) -> tuple[list[int], list[str]]:
    """Turns text into tokens, and each token into the words that a person reads.

    Returns:
      The tokens, and for each what it looks like: of bytes that are no character, the tokenizer's own name.
    """
    tokens = tokenizer.encode(text).ids
    return tokens, words(tokenizer, tokens)


def words(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Writes each token on its own."""
    shown = []
    for token in tokens:
        word = tokenizer.decode([token], skip_special_tokens=False)
        shown.append(str(tokenizer.id_to_token(token)) if not word or "\ufffd" in word else word)
    return shown


def _from_folder(folder: Path) -> tuple[Any, list[Path]]:
    package = reader("tokenizers")
    whole_file, words_file = folder / "tokenizer.json", folder / "vocab.txt"
    pair = folder / "vocab.json", folder / "merges.txt"
    if whole_file.exists():
        with whole(whole_file, "tokenizer"):
            found = package.Tokenizer.from_file(str(whole_file))
        found.no_padding()
        found.no_truncation()
        return found, [whole_file]
    if words_file.exists():
        with whole(words_file, "vocabulary"):
            vocabulary = {word: token for token, word in enumerate(_lines(words_file))}
        config = folder / "tokenizer_config.json"
        if not config.exists():
            return _from_words(vocabulary, Config({}, config.name)), [words_file]
        return _from_words(vocabulary, Config(read_json(config), config.name)), [words_file, config]
    if all(path.exists() for path in pair):
        with whole(pair[0], "tokenizer"):
            vocabulary, merges = package.models.BPE.read_file(*map(str, pair))
        return _byte_level(package, vocabulary, merges), list(pair)
    return None, []


def _lines(path: Path) -> list[str]:
    """Splits a file at line feeds alone, for an entry may be another character that ends a line."""
    lines = path.read_bytes().decode("utf-8").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _normalizer(package: Any, config: Config) -> Any:
    """Makes the normalizer of BERT; without `strip_accents`, accents are stripped where letters are made small."""
    config.expect("do_basic_tokenize", True)
    lower = config.flag("do_lower_case", True)
    return package.normalizers.BertNormalizer(
        lowercase=lower,
        strip_accents=config.flag("strip_accents", lower),
        handle_chinese_chars=config.flag("tokenize_chinese_chars", True),
    )


def _from_words(vocabulary: dict[str, int], config: Config) -> Any:
    """Makes BERT's tokenizer of a list of words and pieces of words; or, without pieces, one of whole entries.

    The second is how chemists write a list of the parts of SMILES: a text is cut into the longest entries there are.
    """
    package, unknown = reader("tokenizers"), "[UNK]"
    if unknown not in vocabulary:
        raise ValueError(f"vocab.txt: expected an entry {unknown}, got {len(vocabulary)} without it")
    if any(word.startswith("##") for word in vocabulary):
        found = package.Tokenizer(package.models.WordPiece(vocabulary, unk_token=unknown))
        found.normalizer = _normalizer(package, config)
        found.pre_tokenizer = package.pre_tokenizers.BertPreTokenizer()
        found.decoder = package.decoders.WordPiece()
    else:
        entries = sorted((re.escape(word) for word in vocabulary if word), key=len, reverse=True)
        pattern = package.Regex("|".join([r"\[[^\]]+\]", *entries, "."]))
        found = package.Tokenizer(package.models.WordLevel(vocabulary, unk_token=unknown))
        found.pre_tokenizer = package.pre_tokenizers.Split(pattern, "isolated")
    special = [word for word in ("[PAD]", unknown, "[CLS]", "[SEP]", "[MASK]") if word in vocabulary]
    found.add_special_tokens(special)
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        found.post_processor = package.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")],
        )
    return found


def _byte_level(package: Any, vocabulary: Any, merges: Any, pattern: str | None = None) -> Any:
    for pair in merges:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise ValueError(f"tokenizer: expected merges of two entries into a third, got {' '.join(pair)!r}")
    found = package.Tokenizer(package.models.BPE(vocabulary, merges, ignore_merges=pattern == LLAMA3))
    own = package.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern in (None, SPLITS["smollm"]))
    if pattern is not None:
        own = package.pre_tokenizers.Sequence([package.pre_tokenizers.Split(package.Regex(pattern), "isolated"), own])
    found.pre_tokenizer, found.decoder = own, package.decoders.ByteLevel()
    return found


def _from_gguf(metadata: Mapping[str, Any]) -> Any:
    if metadata.get("tokenizer.ggml.model") != "gpt2" or metadata.get("tokenizer.ggml.pre", "default") not in SPLITS:
        return None
    for name in ("tokens", "merges"):
        entries = metadata.get(f"tokenizer.ggml.{name}")
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f"tokenizer: expected the list tokenizer.ggml.{name}, got none")
    package, names = reader("tokenizers"), metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {name: token for token, name in enumerate(names)}
    found = _byte_level(package, vocabulary, merges, SPLITS[metadata.get("tokenizer.ggml.pre", "default")])
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(kinds, list):
        raise ValueError(f"tokenizer: expected a list as tokenizer.ggml.token_type, got {kinds!r}")
    found.add_special_tokens([name for name, kind in zip(names, kinds, strict=False) if kind == CONTROL])
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        begin = metadata.get("tokenizer.ggml.bos_token_id")
        if type(begin) is not int or not 0 <= begin < len(names):
            raise ValueError(f"tokenizer: expected tokenizer.ggml.bos_token_id below {len(names)}, got {begin!r}")
        found.post_processor = package.processors.TemplateProcessing(
            single=f"{names[begin]} $A", special_tokens=[(names[begin], begin)]
        )
    return found
