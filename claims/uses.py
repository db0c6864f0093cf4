"""What attention is used for: five uses, each as a toy with its filter shown."""

from claims.lab import Lab, spread
from claims.page import Section, number, percent
from claims.use_figures import draw_picture, draw_pooling, draw_texts
from jattn.training.probing import probe_run

USES = {
    "summarisation": ("summarisation", "configs/summarisation.toml"),
    "image description": ("captions", "configs/captions.toml"),
    "textual entailment": ("entailment", "configs/entailment.toml"),
    "reading comprehension": ("reading", "configs/reading.toml"),
    "sentence representation": ("sentences", "configs/sentences.toml"),
}


def examine(lab: Lab) -> Section:
    """Trains a toy of each use, and draws a filter of each."""
    trials = {use: lab.train(name, config)[0] for use, (name, config) in USES.items()}
    probed = probe_run(*trials["sentence representation"].restored)
    kept = [one for one in probed if min(one.accuracy) > max(one.chance, *one.untrained) + 0.05]
    rows, solved = [], []
    for use, trial in trials.items():
        right = trial.outcome.spread("exact_accuracy")
        solved += [use] if right.mean > 0.99 else []
        rows.append([use, f"`{USES[use][0]}`", percent(right), number(trial.outcome.spread("filter_score"))])
    words = {use: trial for use, trial in trials.items() if use not in ("image description", "sentence representation")}
    figures = [
        (
            "uses_text",
            "Where the best head looks from each answer, in three texts; outlined: the oracle",
            draw_texts(words),
        ),
        (
            "uses_picture",
            "Where the best head looks from each word of a caption",
            draw_picture(trials["image description"]),
        ),
        (
            "uses_sentence",
            "Where the pooling looks that makes one vector of a sentence",
            draw_pooling(trials["sentence representation"]),
        ),
    ]
    return Section(
        title="Five uses",
        claim="Self-attention serves summarisation, image description, textual entailment, reading comprehension and "
        "task-independent sentence representation.",
        question="Each is here as a toy with generated data, built so that single words give nothing away. Is it "
        "solved, and where does the best head look for the answer?",
        verdict="true" if solved == list(USES) and kept == probed else "partly true" if solved else "false",
        answer=[
            f"Solved to 99 % on average: {len(solved)} of {len(USES)} ({', '.join(solved)}). The filter score is the "
            "weight of the best head on the oracle; the vector of a sentence is made by pooling, of which no oracle "
            "speaks. A low score of a task that is solved has a reason: after one layer a word may stand in another "
            "place as well, and the head that answers takes it there, as in the summary below.",
            "That vector is task-independent as far as it keeps what it was not trained to say. A linear probe tells "
            f"{len(kept)} of {len(probed)} such properties better, by five points with every seed, than by chance and "
            "than from the vector of the model before training.",
            "A toy shows that the mechanism can do it, and where it looks when it does. It does not show that it does "
            "so on the language of people.",
        ],
        tables=[
            (["use", "task", "sequences right", "filter score"], rows),
            (
                ["property of the sentence", "probe", "before training", "chance"],
                [
                    [
                        one.name,
                        percent(spread(one.accuracy)),
                        percent(spread(one.untrained)),
                        f"{100 * one.chance:.1f} %",
                    ]
                    for one in probed
                ],
            ),
        ],
        figures=figures,
    )
