"""What it costs to train on distilled images as on an ordinary set: the table of docs/use_distilled.md.

    python -m benchmarks.ordinary [--write]

Scores the ten images of the digits' demo, by ``experiments.evaluate``, on their own network and on others. ``--write``
puts the table into the page.
"""

import argparse
from pathlib import Path

from benchmarks.programs import PAGE, ROOT
from benchmarks.readme import head, line, write_table
from dd_jax.evaluation import Training
from dd_jax.files.text import percent
from experiments import evaluate

RUN = Path("results", "fixed_init", "digits")
OTHERS = {"law": "xavier_normal", "nets": 20}
WAYS = {  # how the page describes each, and after how many steps it is scored
    "Adam, rate 0.001, all ten images a step": (Training("adam", 0.001, epochs=100), (20, 100)),
    "momentum 0.9, rate 0.01, minibatches of 5": (
        Training("momentum", 0.01, order="minibatch", batch_size=5, epochs=200),
        (20, 400),
    ),
}


def rows() -> list[str]:
    """Lines of the table."""

    def accuracies(at, training=None, **networks):
        settings = evaluate.Config(at=at, training=training or Training(), **networks)
        return [percent(score["accuracy"]) for score in evaluate.run(ROOT / RUN, settings)["scores"]]

    of_own_law = {"law": "orthogonal", "gain": 1.4, "nets": OTHERS["nets"]}
    known, others, own_law = accuracies((0, 5)), accuracies((0,), **OTHERS), accuracies((5,), **of_own_law)
    found = [
        line("no training", "0", known[0], others[0]),
        line("as the file says", "5", known[1], f"{own_law[0]} (of its own law, `--law orthogonal --gain 1.4`)"),
    ]
    for name, (training, at) in WAYS.items():
        scores = zip(at, accuracies(at, training), accuracies(at, training, **OTHERS), strict=True)
        found += [line(name if steps == at[0] else "the same", str(steps), *of) for steps, *of in scores]
    return found


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    titles = head("how", "steps", "the network in the file", "20 others (`--law xavier_normal --nets 20`)")
    table = "\n".join([titles, *rows()])
    print(table)
    if options.write:
        write_table("ordinary", table, PAGE)


if __name__ == "__main__":
    main()
