"""Checks of a suite against its data and models, before a run is stored."""

from __future__ import annotations

from engine import backends
from engine.artefacts.preparer import Preparer
from engine.errors import RequestError, did_you_mean
from engine.measurement import labels
from engine.suite.corpus import Corpus
from engine.suite.spec import Suite, Variant


def check_batch_sizes(suite: Suite, examples: int) -> None:
    """Raises RequestError where a batch would not be full once."""
    wanted = [("workload.batch_size", size) for size in suite.workload.batch_size]
    wanted += [(f"variant {v.name!r}: batch_size", v.batch_size) for v in suite.variant if v.batch_size]
    for where, size in wanted:
        if size > examples:
            raise RequestError(f"{where}: {size} is more than the {examples} examples; allowed: 1 to {examples}")


def check_published(suite: Suite, known: list[str]) -> None:
    """Raises RequestError for a variant that is to stand beside a row that nobody published."""
    for variant in suite.variant:
        if variant.published and variant.published not in known:
            raise RequestError(
                f"variant {variant.name!r}: published = {variant.published!r}: there is no such row; "
                f"allowed: {', '.join(known) or 'none, data/published is empty'}"
                + did_you_mean(variant.published, known)
            )


def check_models(suite: Suite, preparer: Preparer, examples: Corpus) -> None:
    """Raises RequestError for a model, tokenizer or declared labels that cannot serve, before anything is stored.

    Checkpoints that the suite makes are left for later: making them may take long.
    """
    for variant in suite.variant:
        if not variant.needs:
            _, described, facts = preparer.model(variant)
            align(variant, facts["labels"], examples)
            if wanted := backends.get(variant.backend).calibration(variant.options):
                preparer.calibration(variant, wanted, described)


def align(variant: Variant, model_labels: list[str], examples: Corpus) -> labels.Alignment:
    """The meaning of the outputs of `variant`. Raises RequestError for a declaration that cannot be right."""
    try:
        return labels.align(model_labels, examples.label_names, variant.labels)
    except RequestError as error:
        raise RequestError(f"variant {variant.name!r}: {error}") from error
