"""What the demo's two models learn beyond counting words: their accuracy beside naive Bayes on the same split.

Reads the newest finished run of the whole `demo`, fits a multinomial naive Bayes over word counts on the same
training half, and prints each one's accuracy on the held-out half with Wilson's interval, and exact McNemar
between them.

    python -m benchmarks.demo_corpus
"""

from __future__ import annotations

import itertools

import numpy as np
import typer

from engine.errors import RequestError
from engine.measurement import quality, stats
from engine.measurement.labels import Alignment
from engine.store import measurements, open_store
from engine.store.runs import list_runs
from engine.suite import corpus
from engine.suite.reading import load_suite


def main() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    suite = load_suite("demo")
    test = corpus.load(suite, suite.workload)
    train = corpus.load(suite, suite.checkpoint_workload(suite.checkpoint[0]))
    assert test.labels is not None and train.labels is not None
    bayes = make_pipeline(CountVectorizer(), MultinomialNB()).fit(train.texts, train.labels)
    right: dict[str, np.ndarray] = {"naive Bayes": bayes.predict(test.texts) == test.labels}
    with open_store(create=False) as store, store.session() as session:
        runs = [row.run for row in list_runs(session, suite="demo", limit=1000)]
        found = [run for run in runs if run.status == "finished" and run.example_set_id == test.digest]
        if not found:
            raise RequestError("no finished run of the whole demo yet: `python -m engine run demo` makes one")
        for row in measurements.measurements(session, found[0].id):
            logits = measurements.logits(session, row.id)
            if logits is not None and row.labels:
                right[row.title] = Alignment(**row.labels).apply(logits) == test.labels
    for name, answers in right.items():
        interval = stats.wilson(int(answers.sum()), len(answers))
        print(f"{name}: {interval.estimate:.1%} ({interval.low:.1%} to {interval.high:.1%}), n = {len(answers)}")
    for a, b in itertools.combinations(right, 2):
        pair = quality.compare(right[b], right[a])
        print(
            f"{b} less {a}: {pair.difference * 100:+.1f} points ({pair.low * 100:+.1f} to {pair.high * 100:+.1f}), "
            f"{pair.gained} gained, {pair.lost} lost, McNemar p = {pair.p:.2g}"
        )


if __name__ == "__main__":
    typer.run(main)
