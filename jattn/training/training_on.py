"""Which runs can be trained on beyond their last step: those whose first steps are those of a longer run."""

from jattn.training.config import Config
from jattn.training.own.parts import OwnPart
from jattn.training.reading import differences
from jattn.training.tables import ENDLESS


def goes_on(config: Config, there: Config) -> bool:
    """Says whether a config is that of a run, but for more steps, and its first steps are the same.

    Args:
      config: what is asked for.
      there: the config of the run.
    """
    return only_longer(config, there) and why_not(config, there) is None


def only_longer(config: Config, there: Config) -> bool:
    """Says whether a config differs from another in more steps alone."""
    more = config.training.steps > there.training.steps
    return more and all(line.startswith("training.steps:") for line in differences(config, there))


def why_not(config: Config, there: Config) -> str | None:
    """Returns why the first steps of a longer run are not those of a run, in words; None where they are."""
    training = config.training
    can = "one with training.schedule 'constant', or a schedule of your own without a parameter steps, can"
    for choosing in ("schedule", "optimizer"):
        name = getattr(training, choosing)
        chosen = None if name is None else training.chosen(choosing)
        uses_steps = "steps" in chosen.parameters if isinstance(chosen, OwnPart) else name not in (None, *ENDLESS)
        if uses_steps and (choosing == "schedule" or isinstance(chosen, OwnPart)):
            return f"it cannot be trained on, as {choosing} {name!r} depends on training.steps; {can}"
    if training.schedule is not None and training.warmup_steps >= there.training.steps:
        return f"it cannot be trained on, as its warm-up of {training.warmup_steps} steps was cut short"
    return None
