"""Writes docs/claims.md anew: ``python -m claims``. What is trained already is not trained again.

    python -m claims                   # all claims
    python -m claims order memory      # only these; what is known of the others stays on the page

Models lie in runs/claims; delete that folder to begin from nothing.
"""

import argparse
import sys
from pathlib import Path

from claims import context, focus, heads, lengths, meaning, memory, order, pronouns, similarity, uses
from claims.lab import Lab
from claims.page import write_page
from jattn.training.config import Config
from jattn.training.interrupts import Stopped, interrupts
from jattn.training.runs import configure_jax

CLAIMS = {
    "meaning": meaning.examine,
    "focus": focus.examine,
    "memory": memory.examine,
    "order": order.examine,
    "pronoun": pronouns.examine,
    "heads": heads.examine,
    "similarity": similarity.examine,
    "context": context.examine,
    "alike": order.examine_alike,
    "uses": uses.examine,
    "lengths": lengths.examine,
}
"""Every claim by name, in the order of the page."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the experiments; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m claims", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(CLAIMS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/claims"), help="where models lie")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each config, at least 2")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in CLAIMS]
    if unknown:
        parser.error(f"there is no claim {unknown[0]!r}; there are {', '.join(CLAIMS)}")
    if options.seeds < 2:
        parser.error(f"--seeds: expected at least 2, got {options.seeds}")
    configure_jax([Config()])
    try:
        with interrupts() as signals:
            for name in options.names or CLAIMS:
                lab = Lab(options.folder, options.seeds, signals)
                print(f"== {name}", flush=True)
                section = CLAIMS[name](lab)
                section.commands = list(dict.fromkeys(lab.commands))
                section.save(options.folder / f"{name}.json")
                print(f"== {name}: {section.verdict}", flush=True)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command goes on", file=sys.stderr)
        return stopped.status
    print(f"see {write_page(CLAIMS, options.folder, options.seeds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
