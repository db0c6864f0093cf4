"""The beginning of a run: the model before its first step is looked at, and the steps are compiled."""

import jax
import jax.numpy as jnp

from jattn.training.debugging import make_debugged_chunk
from jattn.training.flops import flops_per_step
from jattn.training.journal import Journal
from jattn.training.processes import together
from jattn.training.progress import Reporter
from jattn.training.setup import Setup
from jattn.training.step import TrainChunk, TrainState, make_train_chunk


def begin(setup: Setup, state: TrainState, journal: Journal, report: Reporter) -> tuple[TrainState, TrainChunk]:
    """Looks at a model that has learned nothing, and compiles the steps; returns the state, and what takes steps."""
    train_chunk = make_debugged_chunk(setup) if setup.config.run.debug else make_train_chunk(setup)
    if journal.is_done(state.number):
        return state, train_chunk
    report.compiling()
    if state.number == 0:
        journal.look(state, log=False, snapshot=True)
        journal.evaluate(state)
    here = jnp.int32(state.number)
    if not setup.config.run.debug:
        journal.flops = flops_per_step(setup, train_chunk, state, here)
        train_chunk = together(train_chunk)
    # No step up to where it is: the first rate of steps has no compilation in it.
    state = train_chunk(state, here)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // setup.config.training.replicates
    report.training(state.number, parameters)
    return state, train_chunk
