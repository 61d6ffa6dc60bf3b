"""How gRPC says how a call went, in headers before and after its message.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .protocol import Refusal
else:
    from protocol import Refusal

CODES = {400: 3, 401: 16, 404: 5, 408: 4, 413: 8, 501: 12, 503: 14, 504: 4}  # gRPC's for HTTP's; others are INTERNAL
INTERNAL = 13
HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"))
WELL = ((b"grpc-status", b"0"),)

Headers = tuple[tuple[bytes, bytes], ...]


def error_of(refusal: Refusal) -> Headers:
    """The headers of an answer that is an error; there the words have no bytes but those that a header takes."""
    words = urllib.parse.quote(str(refusal)[:2000], safe=" !#$&'()*+,/:;<=>?@[]^`{|}~")
    return (
        *HEAD,
        (b"grpc-status", b"%d" % CODES.get(refusal.status, INTERNAL)),
        (b"grpc-message", words.encode()),
    )
