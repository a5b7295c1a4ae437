"""The summarisation sets known by name, and how summaries of each are generated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SummarySet:
    """One data set and its usual settings.

    Attributes:
        hub: Repository, perhaps with a configuration (neither was ever reached from here); None
            where the set is read from local files only.
        document: Column of the text, on the hub. Local folders have ``document``.
        summary: Column of the summary, on the hub. Local folders have ``summary``.
        max_source_tokens: Of a document, what is kept.
        max_new_tokens: Of a summary, at most.
        num_beams: Of the search.
        basis: Where these three come from.
    """

    hub: str | None
    document: str = "document"
    summary: str = "summary"
    max_source_tokens: int
    max_new_tokens: int
    num_beams: int
    basis: str


_OF_BART = (
    "beams: AILoRA, appendix A.3 (and AdaLoRA, section 4.3); lengths: AdaLoRA's script "
    "run_bart_{}.sh, whose settings AILoRA says it follows"
)
_CHOSEN = (
    "chosen here: {} % of the documents and 99 % of the references fit, counted in the word pieces "
    "of BERT; beams as for CNN/DailyMail"
)

SETS: dict[str, SummarySet] = {
    "xsum": SummarySet(
        hub="EdinburghNLP/xsum",
        max_source_tokens=768,
        max_new_tokens=64,
        num_beams=8,
        basis=_OF_BART.format("xsum"),
    ),
    "cnn_dailymail": SummarySet(
        hub="abisee/cnn_dailymail/3.0.0",
        document="article",
        summary="highlights",
        max_source_tokens=1024,
        max_new_tokens=160,
        num_beams=4,
        basis=_OF_BART.format("cnndailymail"),
    ),
    "dialogsum": SummarySet(
        hub=None, max_source_tokens=512, max_new_tokens=96, num_beams=4, basis=_CHOSEN.format(98)
    ),
    "scitldr": SummarySet(
        hub=None, max_source_tokens=512, max_new_tokens=64, num_beams=4, basis=_CHOSEN.format(99)
    ),
}
