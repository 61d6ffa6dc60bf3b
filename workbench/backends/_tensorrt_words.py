"""What TensorRT says, in fewer words."""

from __future__ import annotations

import re

NO_DRIVER = "cudaError 35"  # what every error brings along where there is no driver


def plain(text: str) -> str:
    """What TensorRT says, without the places in its source and the calls that it puts around."""
    text = re.sub(r"^\w+::\w+: Error Code \d+: [\w ]+ \(", "", " ".join(text.split()))
    text = re.sub(r"\[\w+\.\w+:\d+: [^\]]*\] ", "", text)
    return re.sub(r"\.? In \w+ at /\S+?:\d+\)$", "", text)[:400].rstrip(".")
