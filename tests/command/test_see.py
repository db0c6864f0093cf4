"""The command ``jattn see``: from a file of weights and a text to a page."""

import numpy as np
import pytest
from PIL import Image

from jattn import __main__
from jattn.command import see
from jattn.pretrained import load
from tests.pretrained.published import MODELS, write_folder
from tests.pretrained.test_sources import by_llama_cpp
from tests.sampled import sampled
from tests.study.test_seeing import data_of


def told(capsys, *arguments):
    status = __main__.main(["see", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@sampled("new", [0, 2], keep=1)
def test_a_model_reads_a_text_goes_on_with_it_and_is_seen(new, tmp_path, capsys):
    model, page, text = by_llama_cpp(tmp_path / "model"), tmp_path / "page.html", tmp_path / "text.txt"
    text.write_text("ab abc")
    assert told(capsys, model, "--file", text, "--out", page, "--new-tokens", new) == (0, f"see {page}\n", "")
    data = data_of(page)
    assert data["tokens"][:4] == ["ab", " ", "ab", "c"]
    assert (len(data["tokens"]), data["written"], data["joined"]) == (4 + new, 4, True)
    assert [layer["heads"] for layer in data["layers"]] == [4, 4, 4]
    assert data["about"].startswith("Llama: 29,152 parameters as float32, 3 layers of 4 heads")


def test_a_model_of_images_is_seen_on_a_picture(tmp_path, capsys):
    model, page, picture = tmp_path / "model", tmp_path / "page.html", tmp_path / "picture.png"
    write_folder(model, *MODELS["dinov2 with registers"]())
    Image.fromarray(np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)).save(picture)
    assert told(capsys, model, picture, "--out", page) == (0, f"see {page}\n", "")
    data = data_of(page)
    assert data["tokens"][:4] == ["[class]", "[register 1]", "[register 2]", "1,1"]
    assert (data["image"]["rows"], data["image"]["columns"], data["image"]["lead"]) == (3, 3, 3)
    for arguments, message in {
        (tmp_path / "none.png",): "none.png: expected a picture, got no such file\n",
        ("",): "text: expected the path of a picture, got an empty one\n",
        (model / "config.json",): "config.json: expected a picture, got a file that cannot be read: ",
        (picture, "--pair", "ab"): "expected a picture alone for a model of images, got --pair or --new-tokens\n",
    }.items():
        status, _, error = told(capsys, model, *arguments)
        assert (status, error.count("\n")) == (2, 1)
        assert message in error


@pytest.mark.exhaustive
def test_two_texts_are_seen_side_by_side_and_a_continuation_ends_where_the_model_ends_it(tmp_path, capsys):
    model, page = by_llama_cpp(tmp_path / "model"), tmp_path / "page.html"
    assert told(capsys, model, "ab abc", "--pair", "ab abd", "--out", page)[0] == 0
    data = data_of(page)
    assert (data["tokens"][-1], data["other"]["tokens"][-1]) == ("c", "d")
    assert told(capsys, model, "ab abc", "--pair", "ab", "--new-tokens", 2, "--out", page)[0] == 0
    data = data_of(page)
    assert (data["written"], len(data["tokens"]), data["other"]["written"], len(data["other"]["tokens"])) == (
        4,
        6,
        1,
        3,
    )
    assert told(capsys, model, "ab abc", "--out", page, "--new-tokens", 8)[0] == 0
    whole = data_of(page)["tokens"]
    assert len(whole) == 4 + 8
    found = load(model)
    fourth = found.tokenizer.token_to_id({" ": "Ġ"}.get(whole[7], whole[7]))
    first = next(place for place in range(4, 12) if whole[place] == whole[7])
    model = by_llama_cpp(tmp_path / "ends", add=lambda writer: writer.add_eos_token_id(fourth))
    assert load(model).card.end_tokens == (fourth,)
    assert told(capsys, model, "ab abc", "--out", page, "--new-tokens", 8)[0] == 0
    assert data_of(page)["tokens"] == whole[: first + 1]


MISTAKES = {
    "no text": ([], "see: expected a text or --file, got neither; see jattn see --help\n"),
    "no tokenizer": (["ab"], f"{see.NO_TOKENIZER}\n"),
    "fewer than no tokens": (["ab", "--new-tokens", "-1"], "--new-tokens: expected at least 0, got -1\n"),
    "an encoder that goes on": (
        ["ab", "--new-tokens", "3"],
        "--new-tokens: expected 0 for a model that reads all tokens at once, got 3\n",
    ),
    "a text without words": (["", "--new-tokens", "0"], "see: text: expected at least one token, got none\n"),
    "a text longer than an encoder": (
        ["ab " * 20, "--new-tokens", "0"],
        "see: text: expected at most 16 tokens, for which the model has positions, got 22\n",
    ),
    "other bytes": (
        ["--file", "latin.txt", "--new-tokens", "0"],
        "see: latin.txt: expected a text in UTF-8, got byte 0xe9 at place 3\n",
    ),
    "no such file": (["--file", "nowhere.txt"], "No such file or directory: 'nowhere.txt'\n"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_in_a_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = MISTAKES[case]
    model = write_folder(tmp_path / "model", *MODELS["bert" if "encoder" in case else "llama"]())
    if "--new-tokens" in arguments:
        (model / "vocab.txt").write_text("[UNK]\nab\n##ab\n[CLS]\n[SEP]")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    status, out, error = told(capsys, model, *arguments)
    assert (status, out) == (2, "")
    assert error.endswith(message)
    assert error.count("\n") == 1


@pytest.mark.exhaustive
def test_a_continuation_ends_with_the_positions_of_the_model(tmp_path, capsys):
    model, page = write_folder(tmp_path / "model", *MODELS["gpt2"]()), tmp_path / "page.html"
    (model / "vocab.txt").write_text("[UNK]\nab\n##ab")
    text = " ".join(["ab"] * 14)
    _, _, error = told(capsys, model, text, "--new-tokens", 3)
    expected = "expected at most 2, as the model has 16 positions and text has 14 tokens, got 3"
    assert error == f"see: --new-tokens: {expected}\n"
    assert told(capsys, model, text, "--out", page)[0] == 0
    assert (len(data_of(page)["tokens"]), data_of(page)["written"]) == (16, 14)
    assert told(capsys, model, text, "--pair", "")[2] == "see: --pair: expected at least one token, got none\n"


def test_an_interrupt_ends_it_with_its_status_and_no_more(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(see, "write_page", interrupted)
    assert told(capsys, "model", "ab") == (130, "", "stopped by SIGINT\n")
