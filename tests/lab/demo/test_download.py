"""What pip says becomes one line without addresses."""

import pytest

from ailora.lab.demo.download import summarise


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ("", "pip ended without a reason"),
        ("/usr/bin/python: No module named pip\n", "/usr/bin/python: No module named pip"),
        (
            "WARNING: noise\nERROR: first\nERROR: No matching distribution found for x==1\n",
            "No matching distribution found for x==1",
        ),
        (
            "WARNING: Retrying (...) after connection broken by 'NewConnectionError(...)': /x/\n"
            "ERROR: No matching distribution found for x==1\n",
            "no connection to the package index",
        ),
        ("ERROR: 403 for https://me:secret@host.example/x.whl now", "403 for (address) now"),
        ("ERROR: " + "x" * 500, "x" * 197 + "..."),
    ],
)
def test_the_last_error_is_the_reason(errors: str, reason: str) -> None:
    assert summarise(errors) == reason
