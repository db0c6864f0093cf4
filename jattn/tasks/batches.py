"""Batches made on the device: each example a pure function of an rng and its own index."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jattn.tasks.layouts import Batch, Layout
from jattn.tasks.sequences import Sequence, Task


def make_batch(
    task: Task,
    layout: Layout,
    rng: PRNGKeyArray,
    indices: Int[Array, " B"],
    lengths: tuple[int | Int[Array, ""], int | Int[Array, ""]],
    room: int,
) -> Batch:
    """Samples a batch; example ``i`` depends on `rng` and ``indices[i]`` alone, so it can be made on any device.

    Args:
      task: what to sample.
      layout: how the model sees it.
      rng: the randomness of the whole stream of examples.
      indices: the index of each example in that stream.
      lengths: the shortest and the longest source, both possible; may be traced.
      room: the size of the arrays that hold a source. Where all sources are known to fill it, the batch carries no
        lengths, and the model needs no mask.

    Raises:
      ValueError: if lengths known at trace time do not lie in ``task.shortest .. room``, shortest first, `room` is more
        than ``task.longest``, or a sequence of the task has arrays that do not fit one another.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import tasks
      >>> batch = tasks.make_batch(
      ...     tasks.reverse(10), tasks.LAYOUTS["encoder"], jax.random.key(0), jnp.arange(4), lengths=(3, 3), room=3
      ... )
      >>> bool((batch.targets == batch.inputs["tokens"][:, ::-1]).all())
      True
      >>> batch.oracle[0].astype(int).tolist()
      [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    """
    shortest, longest = lengths
    known = [length for length in (task.shortest, shortest, longest, room) if isinstance(length, int)]
    if known != sorted(known):
        raise ValueError(
            f"lengths: expected {task.shortest} <= shortest <= longest <= room {room}, got {(shortest, longest)}"
        )
    if room > task.longest:
        raise ValueError(f"room: expected at most {task.longest} for task {task.name!r}, got {room}")

    def arrange(sequence: Sequence) -> Batch:
        _check_sequence(task, sequence)
        batch = layout.arrange(sequence, len(task.symbols))
        chex.assert_equal_shape((batch.targets, batch.scored))
        chex.assert_shape(batch.oracle, (*batch.targets.shape, None))
        return batch

    def example(index: Int[Array, ""]) -> Batch:
        length_rng, token_rng = jax.random.split(jax.random.fold_in(rng, index))
        length = jax.random.randint(length_rng, (), shortest, longest + 1, jnp.int32)
        return arrange(task.sample(token_rng, length, room))

    def full_example(index: Int[Array, ""]) -> Batch:
        return arrange(task.sample(jax.random.fold_in(rng, index), jnp.int32(room), room))

    if isinstance(shortest, int) and shortest == longest == room and task.fills(room):
        batch = jax.vmap(full_example)(indices)
        inputs = {name: x for name, x in batch.inputs.items() if not name.endswith("lengths")}
        return dataclasses.replace(batch, inputs=inputs)
    return jax.vmap(example)(indices)


def _check_sequence(task: Task, sequence: Sequence) -> None:
    """Raises a ValueError unless the arrays of an example fit one another."""
    source, target = sequence.source.shape[:1], sequence.target.shape
    expected = {"source_length": (), "target_length": (), "target": target[:1], "alignment": (*target, *source)}
    if sequence.read_at is not None:
        expected["read_at"] = target
    for name, shape in expected.items():
        got = jnp.shape(getattr(sequence, name))
        if got != shape:
            raise ValueError(f"task {task.name!r}: expected {name} of shape {shape}, got {got}")
