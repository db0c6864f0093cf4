"""What was meant by a word that is no key: a key of that name elsewhere, another word for one, or a misspelt one."""

import difflib
import re
from collections.abc import Sequence

OTHER_WORDS = {
    "training.steps": "epochs epoch num_epochs iterations iters num_steps max_steps train_steps",
    "training.batch_size": "batch bs batchsize batch_sz",
    "training.learning_rate": "lr learningrate rate eta",
    "training.optimizer": "optim optimiser opt",
    "training.schedule": "scheduler lr_schedule lr_scheduler",
    "training.warmup_steps": "warmup",
    "training.weight_decay": "wd decay l2",
    "training.clip_norm": "clip grad_clip gradient_clipping max_grad_norm",
    "training.dtype": "precision fp16 bf16 amp half mixed_precision",
    "training.stop_when_solved": "patience early_stop early_stopping",
    "training.seed": "rng random_seed manual_seed",
    "training.replicates": "seeds num_seeds repeats",
    "model.num_heads": "heads n_heads nhead n_head num_attention_heads",
    "model.num_layers": "layers n_layers n_layer nlayers num_blocks blocks",
    "model.width": "hidden_size d_model dim embed_dim embedding_dim model_dim n_embd emb features",
    "model.hidden": "ffn ff d_ff mlp mlp_dim hidden_dim feedforward dim_feedforward ffn_dim",
    "model.dropout_rate": "dropout drop p_drop",
    "model.positions": "pos position_encoding positional_encoding pos_enc rope",
    "model.rotary_base": "rope_theta rope_base theta",
    "model.normalizer": "softmax sparsemax entmax",
    "model.kind": "model arch architecture model_name model_type",
    "task.name": "task dataset task_name",
    "task.layout": "causal bidirectional decoder_only encoder_only",
    "task.max_length": "length seq_len seq_length sequence_length max_len block_size context_length",
    "task.symbols": "vocab vocab_size num_symbols num_tokens alphabet",
    "evaluation.every": "eval_every eval_steps eval_interval eval_freq validate_every",
    "evaluation.test_lengths": "eval_lengths lengths",
    "run.folder": "o output out output_dir out_dir outdir dir directory log_dir logdir save_dir run_name path "
    "experiment experiment_name exp exp_name project tag",
    "run.overwrite": "force clean fresh",
    "mesh.data": "gpus num_gpus n_gpus num_devices tpus data_parallel dp",
    "mesh.sequence": "context_parallel sequence_parallel sequence_parallelism cp_size sp_size",
    "mesh.shard_parameters": "fsdp zero zero3 shard_params sharded_parameters",
    "run.distributed": "coordinator coordinator_address num_processes process_id processes nnodes world_size rank "
    "host hosts hostfile nodes port master_addr master_port",
    "run.logger": "wandb tensorboard loggers report_to use_wandb wandb_project",
    "run.profile": "profiler trace",
    "run.log_every": "log_interval log_freq logging_steps",
    "run.checkpoint_every": "checkpoint checkpoints ckpt save save_every save_steps save_interval",
    "run.keep_checkpoints": "max_to_keep keep save_total_limit",
    "run.debug": "detect_anomaly nan_check debug_nans",
}
"""The words that others use for a key."""

NAMES = "task.name names the task, model.kind the kind of model, run.folder the run"

CONFIG_FIRST = "the config comes first, without a word before it"

DATA = "task.file names a file of your own, with task.name 'text' or 'examples'"

AMBIGUOUS = {"name": NAMES, "data": DATA}
"""Keys that others mean another thing by; under their own table they are what they are."""

NO_KEYS = {
    NAMES: "",
    DATA: "data_path data_file dataset_path train_file train_data corpus",
    "options are written --TABLE.KEY VALUE, such as --model.num-heads 2": "set override overrides opts options",
    "a run ends with a test; jattn predict RUN TEXT lets its model answer": ("test evaluate eval_only predict infer"),
    "the figures and report.html come at the end of a run; jattn report RUN draws them again": (
        "report no_report plot no_plot show html figures gif animation"
    ),
    "batches are taken whole, training.batch_size; mesh.data splits them over devices": (
        "grad_accum accumulate_grad gradient_accumulation gradient_accumulation_steps accum_steps micro_batch_size"
    ),
    "every step is compiled by XLA": "compile jit xla torch_compile",
    "published weights are looked at with jattn see; a run begins with random parameters": (
        "pretrained weights model_path checkpoint_path"
    ),
    'a config has no word for it; code of your own has: model.kind = "mine.py:Model"': (
        "activation act bias use_bias tie_weights tie_embeddings"
    ),
    'a config has no word for it; code of your own has: training.optimizer = "mine.py:optimizer"': (
        "eps epsilon adam_eps beta1 beta2 betas"
    ),
    "the loss is the cross-entropy of the scored tokens": "loss criterion objective label_smoothing",
    "the test draws fresh examples; of a file, task.test_share is held out": (
        "val_split test_split test_size val_size validation_split holdout train_size train_split"
    ),
    "jattn --version says it": "version",
    "it goes with --sweep KEY VALUE ...": "jobs yes",
    "mesh.data says over how many devices batches are split; -1, the default, takes all": (
        "devices cores cpus num_cores threads num_threads"
    ),
    "JAX takes the GPU or TPU that it finds; the environment variable JAX_PLATFORMS=cpu chooses another": (
        "device gpu cuda tpu cpu accelerator platform backend"
    ),
    "the same command resumes, from the last checkpoint in its run folder": (
        "resume restore resume_from continue load init_from from_checkpoint"
    ),
    "metrics are in metrics.jsonl, and curves on report.html, both in the run folder": "mlflow log tracker",
    "examples are drawn anew for each step, on the device": (
        "num_workers workers num_samples shuffle dataloader data_dir cache_dir"
    ),
    "a run prints a line for each evaluation, and in a terminal a bar": "verbose v quiet q silent",
    CONFIG_FIRST: "c config cfg conf config_file config_path",
}
"""The words for what has no key, and what is to be said to them."""

OTHER_VALUES = {
    "rotary": "rope rotary_embedding",
    "relative": "t5 relative_bias",
    "sinusoidal": "absolute sine sin fixed",
    "learned": "embedding trainable",
    "scaled_dot": "dot dot_product scaled_dot_product sdpa",
    "additive": "bahdanau mlp concat",
    "bilinear": "luong general",
    "learned_sink": "sinks attention_sink gpt_oss",
    "softmax_plus_one": "softmax1 off_by_one sink",
    "gru": "rnn recurrent",
    "encoder_decoder": "seq2seq encdec t5 enc_dec",
    "causal": "decoder_only autoregressive gpt lm",
    "encoder": "encoder_only bert bidirectional",
    "transformer": "attention gpt bert",
    "warmup_stable_decay": "wsd trapezoidal",
    "constant": "none fixed",
    "bfloat16": "half fp16 float16 16 mixed",
    "float32": "fp32 full single 32",
}
"""The words that others use for a value."""

_MEANT = {word: said for table in (OTHER_WORDS, NO_KEYS) for said, words in table.items() for word in words.split()}


def meant_by(word: str, paths: Sequence[str]) -> str | None:
    """Returns the ``table.key``, or the sentence, that a word stands for; None where nothing comes near.

    Args:
      word: what was written, a key or ``table.key``.
      paths: all keys, as ``table.key``, and what else may be meant.

    Example:
      >>> from jattn.training.meant import meant_by
      >>> keys = ["training.seed", "training.learning_rate", "model.num_heads"]
      >>> [meant_by(word, keys) for word in ("seed", "model.seed", "lr", "model.nmu-heads", "x")]
      ['training.seed', 'training.seed', 'training.learning_rate', 'model.num_heads', None]
    """
    word = word.replace("-", "_").lower()
    table, _, key = word.rpartition(".")
    same = [path for path in paths if path.rpartition(".")[2] == key]
    if key in AMBIGUOUS and same and not (key == "name" and table == "task"):
        return AMBIGUOUS[key]
    if same:
        return same[0]
    said = _MEANT.get(key)
    if said in paths or said in NO_KEYS:
        return said
    keys = {path.rpartition(".")[2]: path for path in reversed(paths)}
    here = {key: path for key, path in keys.items() if table and path.startswith(f"{table}.")}
    others = {other: said for other, said in _MEANT.items() if said in paths}
    whole = {} if here else {path: path for path in paths}
    for tried, known, likeness in ((key, here, 0.6), (key, keys, 0.7), (key, others, 0.8), (word, whole, 0.75)):
        if near := difflib.get_close_matches(tried, known, n=1, cutoff=likeness):
            return known[near[0]]
    if key.startswith("no_") and (meant := meant_by(f"{table}.{key[3:]}" if table else key[3:], paths)) in paths:
        return meant
    return None


def value_meant_by(word: str, choices: Sequence[str]) -> str | None:
    """Returns the choice that a word stands for, another word for it or a misspelt one; None where nothing comes near.

    Example:
      >>> from jattn.training.meant import value_meant_by
      >>> [value_meant_by(word, ["learned", "rotary"]) for word in ("RoPE", "lerned", "x")]
      ['rotary', 'learned', None]
    """
    word = word.replace("-", "_").lower()
    same = [value for value, words in OTHER_VALUES.items() if word in words.split() and value in choices]
    near = same or difflib.get_close_matches(word, choices, n=1)
    return near[0] if near else None


def value_hint(word: str, choices: Sequence[str]) -> str:
    """Words what was meant by a word that is none of the choices, as the end of a message; empty if none is near.

    Example:
      >>> from jattn.training.meant import value_hint
      >>> value_hint("RoPE", ["learned", "rotary"])
      "; did you mean 'rotary'?"
    """
    meant = value_meant_by(word, choices)
    return f"; did you mean {meant!r}?" if meant else ""


def hint(meant: str, prefix: str = "") -> str:
    """Words what was meant: a key as a question, with a prefix such as ``--``; a sentence as it is."""
    return meant if meant in NO_KEYS else f"did you mean {prefix}{meant.replace('_', '-') if prefix else meant}?"


def toml_hint(text: str, error: str, suffix: str) -> str:
    """Says what helps against a mistake in TOML, as the end of a message; empty if nothing is known."""
    if suffix not in (".toml", ""):
        return "; for a config in TOML see: jattn configs reverse"
    place = re.fullmatch(r"Invalid value \(at line (\d+), column (\d+)\)", error)
    value = text.splitlines()[int(place[1]) - 1][int(place[2]) - 1 :] if place else ""
    if value.startswith(("True", "False")):
        return "; it is written true or false"
    return "; text stands in quotes" if value[:1].isalpha() else ""
