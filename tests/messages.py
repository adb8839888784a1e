"""The shape of every message a user reads."""

import re


def assert_three_parts(error: BaseException, *expected: str) -> None:
    """The message is "<requirement>. Received: <what>. <what to change>." and holds every text of ``expected``."""
    message = str(error)
    requirement, received, rest = message.partition(" Received: ")
    assert received, message
    assert requirement.endswith("."), message
    # What was received and what to change are two sentences.
    assert re.search(r"[^.]+[.)] \S.*[.?]$", rest, re.DOTALL), message
    for text in expected:
        assert text in message, message
