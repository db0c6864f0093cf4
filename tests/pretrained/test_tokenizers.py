"""Tokenizers of each kind of file, and the options they follow."""

import pytest

from jattn.pretrained import load
from jattn.pretrained.tokenizers import read_tokenizer, words
from tests.pretrained.test_sources import by_llama_cpp, in_one_file


def test_a_gguf_file_brings_its_tokenizer(tmp_path):
    found = load(by_llama_cpp(tmp_path / "model")).tokenizer
    tokens = found.encode("ab ab1").ids
    assert words(found, tokens) == ["ab", " ", "ab", "1"]
    assert found.token_to_id("<|end|>") == 0


def test_a_gguf_file_without_merges_is_refused():
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"]}
    with pytest.raises(ValueError, match=r"tokenizer: expected the list tokenizer.ggml.merges, got none"):
        read_tokenizer(metadata, 1)


def test_a_list_of_pieces_makes_the_tokenizer_of_bert(tmp_path):
    folder = in_one_file(tmp_path)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cap", "##ital", "."]))
    found, card = load(folder)[2:]
    assert list(card.files) == ["config.json", "model.safetensors", "vocab.txt"]
    assert words(found, found.encode("The Capital, .").ids) == ["[CLS]", "the", "cap", "##ital", "[UNK]", ".", "[SEP]"]


def test_a_tokenizer_of_bert_follows_its_config(tmp_path):
    entries = ["[PAD]", "[UNK]", "ja", "JA", "jà", "JÀ", "\u2028", "ab", "##中", "中"]
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*entries, ""]).encode())
    config, read = tmp_path / "tokenizer_config.json", lambda text: words(made, made.encode(text).ids)
    for options, expected in {
        "{}": ["ja", "ab"],
        '{"do_lower_case":false}': ["JÀ", "ab"],
        '{"do_lower_case": false, "strip_accents": true}': ["JA", "ab"],
        '{"strip_accents": false}': ["jà", "ab"],
    }.items():
        config.write_text(options)
        made, files = read_tokenizer(tmp_path, 10)
        assert read("JÀ ab") == expected, options
        assert files == [tmp_path / "vocab.txt", config]
        assert made.token_to_id("ab") == 7
        assert read("ab中") == ["ab", "中"]
    config.write_text('{"tokenize_chinese_chars": false}')
    made, _ = read_tokenizer(tmp_path, 10)
    assert read("ab中") == ["ab", "##中"]
    for options in ('{"do_lower_case": "no"}', '{"do_basic_tokenize": false}'):
        config.write_text(options)
        with pytest.raises(
            ValueError, match=r"tokenizer_config.json: expected do_\w+ (to be true or false|= True), got"
        ):
            read_tokenizer(tmp_path, 10)


def test_a_list_of_whole_entries_cuts_text_into_the_longest(tmp_path):
    folder = in_one_file(tmp_path)
    (folder / "vocab.txt").write_text("\n".join(["[UNK]", "C", "Cl", "c", "1", ">>", "[nH]"]))
    found = load(folder).tokenizer
    assert words(found, found.encode("CCl>>c1[nH][Xx]").ids) == ["C", "Cl", ">>", "c", "1", "[nH]", "[UNK]"]
