"""How a learning rate goes on after its warm-up: functions of its peak and of the steps that are left."""

import optax


def cosine(peak: float, steps: int) -> optax.Schedule:
    """Goes along half a cosine from the peak to zero at the last step: ``peak (1 + cos(π step / steps)) / 2``."""
    return optax.cosine_decay_schedule(peak, steps)


def linear(peak: float, steps: int) -> optax.Schedule:
    """Goes straight from the peak to zero at the last step: ``peak (1 - step / steps)``."""
    return optax.linear_schedule(peak, 0.0, steps)


def constant(peak: float, steps: int) -> optax.Schedule:
    """Stays at the peak."""
    return optax.constant_schedule(peak)


def warmup_stable_decay(peak: float, steps: int, decay_share: float = 0.2) -> optax.Schedule:
    """Stays at the peak, and goes straight to zero in the last part of the steps.

    With ``s = decay_share · steps``, the rate at a step is ``peak · min(1, (steps - step) / s)``.
    """
    decay = max(1, round(decay_share * steps))
    return optax.linear_schedule(peak, 0.0, decay, transition_begin=steps - decay)


def with_warmup(schedule: optax.Schedule, peak: float, warmup_steps: int) -> optax.Schedule:
    """Rises straight from zero to the peak in so many steps, and then begins a schedule."""
    if warmup_steps == 0:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), schedule], [warmup_steps])
