"""A text as a task: its symbols, its windows, its end held out, and what is said of it in place of accuracy."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w

from jattn.report.curves import run_panels
from jattn.report.facts import result_line
from jattn.report.page import page_data
from jattn.report.record import read_record, save_probes
from jattn.report.snapshots import save_snapshot
from jattn.tasks.own_text import text
from jattn.training.announcing import result_words
from jattn.training.describing import describe_probes
from jattn.training.evaluation import add_up, make_measure, summarize
from jattn.training.journal import Journal
from jattn.training.reading import ConfigError, check, differences
from jattn.training.run_folder import RunFolder, read_config
from jattn.training.setup import make_setup
from jattn.training.step import initial_state

ALPHABET = "abcdefghijklmnopqrstuvwxyzäöü\n"
SMALL = {"layout": "causal", "min_length": 4, "max_length": 4}


def written(folder, content):
    path = folder / "mine.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def windows(task, sample, length, room):
    rngs = jax.random.split(jax.random.key(1), 300)
    many = jax.device_get(jax.jit(jax.vmap(lambda rng: sample(rng, jnp.int32(length), room)))(rngs))
    pairs = zip(many.source[:, :length], many.target[:, :length], strict=True)
    return {tuple("".join(task.words(side)) for side in pair) for pair in pairs}


def test_windows_are_those_of_the_text_and_its_end_is_held_out(tmp_path):
    task = text(written(tmp_path, ALPHABET), test_share=0.3)
    assert task.symbols == ("↵", *"abcdefghijklmnopqrstuvwxyz", *"äöü")
    assert task.symbol_bytes == (*[1] * 27, 2, 2, 2)
    assert (task.layouts, task.has_oracle, task.longest, task.length) == (("causal",), False, 8, 8)
    begin, end = ALPHABET[:21], ALPHABET[21:].replace("\n", "↵")
    for part, sample in ((begin, task.sample), (end, task.judged)):
        expected = {(part[i : i + 3], part[i + 1 : i + 4]) for i in range(len(part) - 3)}
        assert windows(task, sample, 3, 8) == expected


def test_bytes_and_blanks_are_written_so_that_they_are_seen(tmp_path):
    path = written(tmp_path, "␣ \t\r\x07\u00a0é")
    characters, units = text(path, test_share=0), text(path, "bytes", test_share=0)
    assert characters.symbols == ("\\u0007", "⇥", "\\u000d", "␣", "\\u00a0", "é", "\\u2423")
    assert units.symbols == (
        "\\u0007", "⇥", "\\u000d", "␣", "\\x90", "\\xa0", "\\xa3", "\\xa9", "\\xc2", "\\xc3", "\\xe2",
    )  # fmt: skip
    assert units.symbol_bytes == (1,) * 11
    assert characters.split("é \r") == ["é", "␣", "\\u000d"]
    assert units.split("é\t") == ["\\xc3", "\\xa9", "⇥"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Judges an untrained model on a text, and writes what a run would."""
    folder = tmp_path_factory.mktemp("text")
    task = {"name": "text", "file": written(folder, ALPHABET * 4), **SMALL}
    setup = make_setup(check({"task": task, "model": {"width": 8}, "mesh": {"data": 1}, "run": {"probes": 8}}, "test"))
    params = initial_state(setup).params
    measured = make_measure(setup, 4, 8)(params, setup.rng("test"), 0)
    logits = jax.jit(setup.apply)(params, measured.batch)
    result = summarize(add_up([jax.device_get(measured.sums)]))
    rows = [{"kind": kind, "step": 0, **result} for kind in ("train", "evaluation", "test")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.toml").write_text(tomli_w.dumps(setup.config.model_dump()), encoding="utf-8")
    save_probes(folder, describe_probes(setup, measured))
    save_snapshot(folder, 0, jax.device_get(measured.weights))
    return setup, measured.batch, logits, result, folder


def test_perplexity_and_bits_per_byte_restated(judged):
    setup, batch, logits, result, _ = judged
    targets, logits = np.asarray(batch.targets), np.asarray(logits, np.float64)
    nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    said = "".join(setup.task.symbols[token] for token in targets.ravel()).replace("↵", "\n")
    assert len(said) < len(said.encode())
    assert result["perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(nats.sum() / math.log(2) / len(said.encode()), rel=1e-5)


def test_a_loss_beyond_what_perplexity_can_say_is_a_dash():
    missing = {"perplexity": None, "bits_per_byte": None, "loss": None}
    assert result_words(missing) == "perplexity –, – bits per byte"
    assert result_words({"perplexity": math.inf, "bits_per_byte": 1024.0}) == "perplexity –, 1024.000 bits per byte"
    assert math.isnan(Journal.score.fget(SimpleNamespace(evaluation=missing)))


def test_a_text_has_no_filter_score_and_its_page_says_so(judged):
    *_, result, folder = judged
    assert (result["filter_score"], result["filters"]["block_0/attention"]["mass"]) == (None, None)
    assert result_words(result) == f"perplexity {result['perplexity']:.3f}, {result['bits_per_byte']:.3f} bits per byte"
    record = read_record(folder)
    line = result_line(record)
    assert f"the perplexity of held-out sequences is {result['perplexity']:.3f}, " in line
    assert "exactly right" not in line
    assert line.endswith("There is no oracle: filters are shown, not scored.")
    assert [panel.title for panel in run_panels(record)][:3] == ["loss", "bits per byte", "accuracy"]
    assert {curve["label"] for curve in page_data(record)["panels"][2]["curves"]} == {
        "token, train",
        "token, evaluation",
    }


MISTAKES = {
    "nothing": (b"", {}, "task.file: mine.txt: expected a text, got an empty file"),
    "no UTF-8": (
        b"ab\nc\xff",
        {},
        "task.file: mine.txt, line 2: expected UTF-8, got byte 0xff; task.units = 'bytes' reads any file",
    ),
    "a short text": (
        b"abcdefghij",
        {},
        "task.test_share: expected at least 2 characters to train on and to hold out of the 10 in mine.txt, got 9",
    ),
    "another layout": (b"ab" * 100, {"layout": "encoder"}, "task.layout: expected 'causal' for task 'text', got"),
    "longer windows": (
        b"ab" * 50,
        {"max_length": 10},
        "task.max_length: task 'text' needs lengths from 1 to 9, got 10",
    ),
    "words": (b"ab" * 50, {"units": "words"}, "task.units: expected 'characters' or 'bytes', got 'words'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_text_is_answered_in_one_line(tmp_path, mistake):
    content, options, words = MISTAKES[mistake]
    with pytest.raises(ConfigError) as refused:
        check({"task": {"name": "text", "layout": "causal", "file": written(tmp_path, content)} | options}, "test")
    assert str(refused.value).startswith(f"test: {words}")
    assert "\n" not in str(refused.value)


def test_a_text_is_never_solved(tmp_path):
    task = {"name": "text", "file": written(tmp_path, ALPHABET * 4), **SMALL}
    with pytest.raises(ConfigError, match="stop_when_solved: task 'text' is judged by its loss, which solves nothing"):
        check({"task": task, "training": {"stop_when_solved": True}}, "test")


def of_words(vocabulary):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return made


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory):
    """Writes a text, and a tokenizer of words with one token that the text lacks."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tokenized")
    vocabulary = {"[UNK]": 0, "la": 1, "le": 2, "lu": 3, "[END]": 5}
    made = of_words(vocabulary)
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 5)])
    made.save(str(folder / "tokenizer.json"))
    return written(folder, "la le la é " * 10), str(folder / "tokenizer.json")


def test_the_tokens_of_a_tokenizer_are_the_symbols(tokenized):
    task = text(tokenized[0], test_share=0.25, tokenizer=tokenized[1])
    assert task.symbols == ("[UNK]", "la", "le", "lu", "<4>", "[END]")
    assert task.split("le la lo") == ["le", "la", "[UNK]"]
    assert task.symbol_bytes == (12 / 4,) * 6
    assert (task.longest, task.length) == (9, 9)
    ring = ["la", "le", "la", "[UNK]"] * 3
    assert windows(task, task.judged, 2, 9) == {
        ("".join(ring[i : i + 2]), "".join(ring[i + 1 : i + 3])) for i in range(4)
    }


def test_no_two_symbols_of_a_tokenizer_are_alike_and_none_is_one_of_a_layout(tmp_path):
    made = of_words({"<pad>": 0, "la": 1, "<3>": 2, "le": 4})
    task = text(written(tmp_path, "la <pad> le <3> " * 3), test_share=0, tokenizer=saved(tmp_path, made))
    assert task.symbols == ("<<pad>>", "la", "<3>", "<<3>>", "le")
    assert task.split("la <pad> <3>") == ["la", "<<pad>>", "<3>"]


def saved(folder, tokenizer):
    tokenizer.save(str(folder / "made.json"))
    return str(folder / "made.json")


UNFIT = {
    "an unknown word": ({"la": 0}, "expected one that reads the text 'la le la é la le la '…, got: WordLevel error: "),
    "a large gap": ({"[UNK]": 0, "la": 3_000_000}, "expected numbers without large gaps for 2 tokens, got 3000000"),
}


@pytest.mark.parametrize("mistake", UNFIT)
def test_a_tokenizer_that_does_not_suit_the_text_is_answered_in_one_line(tokenized, tmp_path, mistake):
    vocabulary, words = UNFIT[mistake]
    with pytest.raises(ValueError, match=r"^tokenizer: ") as refused:
        text(tokenized[0], tokenizer=saved(tmp_path, of_words(vocabulary)))
    assert str(refused.value).startswith(f"tokenizer: {words}")
    assert "\n" not in str(refused.value)


def test_a_word_that_a_tokenizer_cannot_read_is_answered_in_one_line(tmp_path):
    task = text(written(tmp_path, "la la la"), test_share=0, tokenizer=saved(tmp_path, of_words({"la": 0})))
    with pytest.raises(ValueError, match=r"^tokenizer: .* the text 'lo'…, got: WordLevel error: "):
        task.split("lo")


def test_a_tokenizer_belongs_to_the_run(tokenized, tmp_path):
    file, tokenizer = tokenized

    def config(**more):
        given = {"name": "text", "layout": "causal", "file": file, "tokenizer": tokenizer} | more
        return check({"task": given, "run": {"folder": str(tmp_path)}}, "test")

    then = config()
    moved = tmp_path / "tokenizer.json"
    moved.write_bytes(Path(tokenizer).read_bytes())
    assert differences(config(tokenizer=str(moved)), then) == []
    digest = then.task.model_dump()["sha256"]
    assert config(sha256=digest).task.model_dump() == then.task.model_dump()
    moved.write_text(moved.read_text().replace('"lu"', '"lo"'))
    changed = differences(config(tokenizer=str(moved)), then)
    assert {line.partition(":")[0] for line in changed} >= {"task.sha256"}
    with pytest.raises(ConfigError, match=r"task\.file: .* or .*tokenizer\.json has changed: expected the SHA-256"):
        config(tokenizer=str(moved), sha256=digest)


def test_a_run_is_read_with_its_text_and_its_tokenizer_where_they_moved(tokenized, tmp_path):
    paths = {name: tmp_path / name for name in ("mine.txt", "tokenizer.json")}
    for path, there in zip(paths.values(), tokenized, strict=True):
        path.write_bytes(Path(there).read_bytes())
    files = dict(zip(("file", "tokenizer"), map(str, paths.values()), strict=True))
    task = {"name": "text", "layout": "causal", **files}
    (tmp_path / "runs").mkdir()
    RunFolder(check({"task": task, "run": {"folder": str(tmp_path / "runs" / "run")}}, "test")).close()
    for name, path in paths.items():
        path.rename(tmp_path / "runs" / name)
    found = read_config(tmp_path / "runs" / "run").task
    assert [found.file, found.tokenizer] == [str(tmp_path / "runs" / name) for name in paths]


WRONG_TOKENIZERS = {
    "none": (None, {}, "task.tokenizer: expected a file of the package tokenizers, got "),
    "no JSON": (b"la le", {}, "task.tokenizer: mine.txt: expected a file of the package tokenizers, got: "),
    "units": (b"", {"units": "bytes"}, "task.units: expected none with a tokenizer, whose tokens are the units, got"),
}


@pytest.mark.parametrize("mistake", WRONG_TOKENIZERS)
def test_what_is_no_tokenizer_is_answered_in_one_line(tokenized, tmp_path, mistake):
    content, options, words = WRONG_TOKENIZERS[mistake]
    tokenizer = str(tmp_path / "nothing.json") if content is None else written(tmp_path, content)
    given = {"name": "text", "layout": "causal", "file": tokenized[0], "tokenizer": tokenizer} | options
    with pytest.raises(ConfigError) as refused:
        check({"task": given}, "test")
    assert str(refused.value).startswith(f"test: {words}")
    assert "\n" not in str(refused.value)
