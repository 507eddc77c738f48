"""The embedded news are what data/news/README.md says they are."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from engine.suite import corpus
from engine.suite.reading import parse_suite

NEWS = Path(__file__).resolve().parent.parent / "data" / "news"
TOPICS = ["World", "Sports", "Business", "Sci/Tech"]
SPLITS = ["train", "test"]


@dataclass(frozen=True)
class Item:
    split: str
    line: int
    text: str
    label: str
    hard: str


def read(split: str) -> list[Item]:
    with (NEWS / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        assert rows.fieldnames == ["text", "label", "hard"]
        return [Item(split, rows.line_num, **row) for row in rows]


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return [item for split in SPLITS for item in read(split)]


def words(text: str) -> list[str]:
    """The words of `text` without case and punctuation; a hyphen or an apostrophe inside one stays."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def headline(text: str) -> str:
    """What stands before the sentence: up to the first full stop, or to a closing quotation mark before a capital."""
    return re.split(r"(?<=[.!?]) |(?<=[\"”]) (?=[A-Z])", text, maxsplit=1)[0]


def test_the_numbers_of_the_readme(items):
    said = " ".join((NEWS / "README.md").read_text(encoding="utf-8").split())
    for part in (
        f"{len(items):,} short news items in four topics of {len(items) // 4} each",
        f"({', '.join(TOPICS)})",
        "20 to 40 words",
        "more than 30% of their words",
        "tests/test_news.py",
    ):
        assert part in said
    assert len(items) == 1320


@pytest.mark.parametrize("split", SPLITS)
def test_topics_have_equal_shares_of_each_half(items, split):
    counts = Counter(item.label for item in items if item.split == split)
    assert counts == dict.fromkeys(TOPICS, 165)


def test_an_item_is_a_headline_and_a_sentence_of_20_to_40_words(items):
    for item in items:
        assert 20 <= len(item.text.split()) <= 40, item
        assert len(words(headline(item.text))) >= 2, item
        assert len(item.text.removeprefix(headline(item.text)).split()) >= 8, item


def test_about_one_item_in_five_is_hard_in_every_topic_of_each_half(items):
    assert {item.hard for item in items} == {"yes", "no"}
    for split in SPLITS:
        for topic in TOPICS:
            some = [item.hard == "yes" for item in items if (item.split, item.label) == (split, topic)]
            assert 0.16 <= np.mean(some) <= 0.22, (split, topic)


def test_no_two_items_share_more_than_30_percent_of_their_words(items):
    found = [set(words(item.text)) for item in items]
    columns = {word: column for column, word in enumerate(sorted(set().union(*found)))}
    has = np.zeros((len(items), len(columns)), dtype=np.float32)
    for row, item in enumerate(found):
        has[row, [columns[word] for word in item]] = 1
    shared = has @ has.T
    sizes = has.sum(axis=1)
    jaccard = shared / (sizes[:, None] + sizes - shared)
    np.fill_diagonal(jaccard, 0)
    first, second = np.unravel_index(jaccard.argmax(), jaccard.shape)
    assert jaccard[first, second] <= 0.3, (items[first], items[second])


def test_no_text_and_no_headline_stands_twice(items):
    texts = [" ".join(words(item.text)) for item in items]
    headlines = [headline(item.text) for item in items]
    assert len(set(texts)) == len(items)
    assert len(set(headlines)) == len(items)


def test_texts_are_clean(items):
    for item in items:
        assert item.text == " ".join(item.text.split()), item
        assert item.text.isprintable() and item.text[0] not in "-,;.", item
        # Remnants of mark-up, and the names that would give a label away to a tokenizer.
        assert not re.search(r"&\w+;|&#|<[a-z/]|https?:|quot;|�", item.text), item
        assert item.text[-1] in ".!?'\"’”", item


def test_the_order_of_a_file_says_nothing_about_the_topic():
    for split in SPLITS:
        labels = [item.label for item in read(split)]
        runs = 1 + sum(a != b for a, b in pairwise(labels))
        # By chance, three of four neighbours differ.
        assert runs > 0.68 * len(labels)


@pytest.mark.parametrize("split", SPLITS)
def test_the_bench_reads_them_as_a_suite_does(split):
    workload = {"dataset": f"{split}.csv", "label": "label", "labels": TOPICS}
    variant = {"name": "a", "model": "m", "backend": "pytorch", "precision": "fp32"}
    suite = parse_suite({"name": "s", "baseline": "a", "workload": workload, "variant": [variant]}, "s", NEWS)
    found = corpus.load(suite, suite.workload)
    assert len(found) == 660 and found.label_names == TOPICS
    assert np.bincount(found.labels).tolist() == [165] * 4


def test_the_held_out_half_is_not_known_from_the_other_half_by_its_names(items):
    """A nearest neighbour by words, over the training half, does far from everything right."""
    known = [(set(words(item.text)), item.label) for item in items if item.split == "train"]
    right = 0
    asked = [item for item in items if item.split == "test"]
    for item in asked:
        mine = set(words(item.text))
        nearest = max(known, key=lambda pair: len(mine & pair[0]) / len(mine | pair[0]))
        right += nearest[1] == item.label
    assert 0.3 < right / len(asked) < 0.85
