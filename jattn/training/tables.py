"""What a config can name besides tasks: kinds of model, positions, scores, normalizers, optimizers, schedules.

A new one is a function and a line here. Imports no JAX.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jattn.tasks.options import Entry, Option, entry

STACK = ("num_layers", "num_heads", "width", "hidden", "norm", "positions", "score", "normalizer", "dropout_rate")
CHOICES = {
    "num_kv_heads": Option(
        None, "heads of keys and values; must divide num_heads, which it is by default", kind=int, least=1, most=256
    ),
    "window": Option(
        None,
        "tokens that self-attention sees to a side, its own included; all by default",
        kind=int,
        least=1,
        most=65_536,
    ),
    "qk_norm": Option(None, "norm of queries and keys; none by default", choices=("layer", "rms")),
    "soft_cap": Option(None, "bound c of scores, c tanh(score / c); none by default", kind=float, above=0, most=1e38),
    "filter_dropout_rate": Option(
        None, "chance of each weight to be dropped; dropout_rate by default", kind=float, least=0, below=1
    ),
}
"""What the attention of a transformer may have besides."""

CELLS = ("attention", "num_layers", "width", "dropout_rate")


@dataclasses.dataclass(frozen=True)
class Kind(Entry):
    """A kind of model; `models` says what makes it, by the layout that it reads, as ``"module:name"``."""

    models: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def maker(self, layout: str) -> Any:
        """Imports what makes the model that reads a layout."""
        return entry(self.models[layout]).load()


KINDS: dict[str, Kind] = {
    "transformer": Kind(
        uses=STACK,
        options=CHOICES,
        models={
            "encoder": "jattn.linen.models:Encoder",
            "causal": "jattn.linen.models:Decoder",
            "decoder": "jattn.linen.models:Decoder",
            "encoder_decoder": "jattn.linen.models:EncoderDecoder",
        },
    ),
    "gru": Kind(uses=CELLS, models={"encoder_decoder": "jattn.linen.recurrent:RecurrentEncoderDecoder"}),
    "lstm": Kind(uses=CELLS, models={"encoder_decoder": "jattn.linen.recurrent:RecurrentEncoderDecoder"}),
    "pooled": Kind(uses=STACK, options=CHOICES, models={"encoder_decoder": "jattn.linen.models:PooledEncoder"}),
}
"""The kinds of model, with the keys of the config that each uses."""

LAYOUTS: dict[str, Entry] = {
    "encoder": entry("", "queries"),
    "causal": entry(),
    "decoder": entry(),
    "encoder_decoder": entry(),
}
"""The layouts, with the keys of a model that only some use."""

ATTENTION: dict[bool, Entry] = {False: entry(), True: entry("", "num_heads")}

POSITIONS: dict[str, Entry] = {
    "sinusoidal": entry(),
    "learned": entry(max_length=Option(512, "the longest length of learned positions", least=1, most=65_536)),
    "rotary": entry(
        rotary_base=Option(10_000.0, "the longest wavelength over 2 pi", above=1, most=1e38),
        rotary_scaling=Option(1.0, "what positions are divided by", above=0, most=1e38),
    ),
    "alibi": entry(),
    "relative": entry(),
    "none": entry(),
}

SCORES: dict[str, Entry] = {
    "scaled_dot": entry("jattn.rules.scores:scaled_dot"),
    "cosine": entry("jattn.rules.scores:cosine", temperature=Option(0.1, "what divides cosines", above=0, most=1e38)),
    "negative_squared_distance": entry(
        "jattn.rules.scores:negative_squared_distance",
        distance_scale=Option(1.0, "what multiplies squared distances", above=0, most=1e38, argument="scale"),
    ),
    "bilinear": entry("jattn.rules.scores:bilinear"),
    "additive": entry(
        "jattn.rules.scores:additive",
        additive_units=Option(
            None, "hidden units of each head; the head dim by default", kind=int, least=1, most=8192, argument="units"
        ),
    ),
}
"""How queries and keys are compared; the options are arguments of the function."""

NORMALIZERS: dict[str, Entry] = {
    "softmax": entry("jattn.rules.normalizers:softmax"),
    "softmax_plus_one": entry(
        "jattn.rules.normalizers:softmax_plus_one",
        sink=Option(0.0, "score of the sink, which takes weight and has no value", least=-1e38, most=1e38),
    ),
    "learned_sink": entry("jattn.rules.normalizers:learned_sink"),
    "sigmoid": entry(
        "jattn.rules.normalizers:sigmoid",
        sigmoid_bias=Option(0.0, "what is added to scores before the sigmoid", least=-1e38, most=1e38, argument="bias"),
    ),
    "entmax15": entry("jattn.rules.normalizers:entmax15"),
    "sparsemax": entry("jattn.rules.normalizers:sparsemax"),
    "top_k": entry(
        "jattn.rules.normalizers:top_k",
        top_k=Option(8, "how many keys have weight", argument="k", least=1, most=65_536),
    ),
}
"""What makes weights of scores."""

OPTIMIZERS: dict[str, Entry] = {
    "adamw": entry("optax:adamw", weight_decay=Option(0.0, "decay of weights; 0 is plain Adam", least=0, most=1e38)),
    "sgd": entry("optax:sgd", momentum=Option(0.9, "how much of the last step goes on", least=0, below=1)),
}
"""What learns; the function takes a schedule of the learning rate first."""

OPTAX = {
    **{
        name: f"optax:{name}"
        for name in (
            "adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adan", "amsgrad", "fromage",
            "lamb", "lars", "lion", "nadam", "nadamw", "novograd", "optimistic_gradient_descent", "radam",
            "rmsprop", "sign_sgd", "yogi",
        )
    },
    **{name: f"optax.contrib:{name}" for name in ("ademamix", "adopt", "madgrad", "muon")},
}  # fmt: skip
"""More optimizers of optax, whose options are read from their signatures: a config with one imports optax early."""


@dataclasses.dataclass(frozen=True)
class LoggerEntry(Entry):
    """A logger; `package` is what it needs installed, which the extra of its name brings."""

    package: str = ""


LOGGERS: dict[str, LoggerEntry] = {
    "tensorboard": LoggerEntry("jattn.training.loggers:TensorBoard", package="tensorboardX"),
    "wandb": LoggerEntry("jattn.training.loggers:WeightsAndBiases", package="wandb"),
}
"""What rows of metrics are handed on to."""

LOG_FOLDS = ("effective_keys", "entropy", "expected_distance", "log_normalizer", "max", "max_score", "sink_mass")
"""The folds of `jattn.folds` that give a number per query, whose means rows can have."""

SCHEDULES: dict[str, Entry] = {
    "cosine": entry("jattn.training.schedules:cosine"),
    "linear": entry("jattn.training.schedules:linear"),
    "constant": entry("jattn.training.schedules:constant"),
    "warmup_stable_decay": entry(
        "jattn.training.schedules:warmup_stable_decay",
        decay_share=Option(0.2, "the share of the steps, at the end, in which the rate falls to zero", above=0, most=1),
    ),
}
"""How the learning rate goes on after the warm-up; the function takes the peak and the number of steps."""

ENDLESS = ("constant",)
"""The schedules that do not depend on the number of steps, so that a finished run can be trained on."""
