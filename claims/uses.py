"""What attention is used for: five uses, each as a toy with its filter shown."""

from collections.abc import Mapping

from claims.lab import Lab, spread
from claims.page import Section, number, percent
from claims.use_figures import draw_picture, draw_pooling, draw_texts
from jattn.report.outcomes import Spread
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
    right = {use: trial.outcome.spread("exact_accuracy") for use, trial in trials.items()}
    scores = {use: trial.outcome.spread("filter_score") for use, trial in trials.items()}
    rows = [[use, f"`{USES[use][0]}`", percent(right[use]), number(scores[use])] for use in trials]
    verdict, answer = tell(right, scores, len(kept), len(probed))
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
        verdict=verdict,
        answer=answer,
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


def tell(
    right: Mapping[str, Spread], scores: Mapping[str, Spread | None], kept: int, probed: int
) -> tuple[str, list[str]]:
    """Says what the numbers show.

    Args:
      right: the share of sequences that are right, by use.
      scores: the filter score, where the use has an oracle.
      kept: how many properties of a sentence a linear probe tells from its vector.
      probed: of how many.
    """
    solved = [use for use, share in right.items() if share.mean > 0.99]
    low = [use for use in solved if (score := scores[use]) is not None and score.mean < 0.5]
    named = f" ({', '.join(solved)})" if solved else ""
    first = (
        f"Solved to 99 % on average: {len(solved)} of {len(right)}{named}. The filter "
        "score is the weight of the best head on the oracle; the vector of a sentence is made by pooling, of which no "
        "oracle speaks."
    )
    if low:
        first += (
            " A low score of a task that is solved has a reason: after one layer a word may stand in another place as "
            "well, and the head that answers takes it there, as in the summary below."
        )
    answer = [
        first,
        "That vector is task-independent as far as it keeps what it was not trained to say. A linear probe tells "
        f"{kept} of {probed} such properties better, by five points with every seed, than by chance and than from the "
        "vector of the model before training.",
        "A toy shows that the mechanism can do it, and where it looks when it does. It does not show that it does so "
        "on the language of people."
        if solved
        else "None of the toys is solved, so the mechanism is not shown to do it.",
    ]
    return "true" if len(solved) == len(right) and kept == probed else "partly true" if solved else "false", answer
