"""What is said of a service that is not reached or speaks otherwise than it is spoken to: one place for the words."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

from workbench.errors import ServiceError

_EXPIRED, _NOT_YET = 10, 9  # of OpenSSL's X509_V_ERR_…
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
_OTHER_NAME = (62, 64)
_NO_TLS = ("wrong version number", "http request", "record layer failure", "packet length too long")
_AROUND = re.compile(r"^\[.*?\] | \(_ssl\.c:\d+\)$")  # what Python puts around OpenSSL's words
_ENDED = "it closed the connection"
_GRPC_REMEDY = (
    "If it answers gRPC at another port, give that as the option `grpc_port`; it has to speak TLS just if the address "
    "begins with https. Else look at the service's log."
)


class OtherAnswerError(ServiceError):
    """A service that answers, but with something else than what was asked for."""


def printable(text: str, most: int = 300) -> str:
    """A service's own words on one line, without what would control a terminal."""
    line = " ".join(text.split())[:most]
    return "".join(each if each.isprintable() else "·" for each in line)


def reason_of(error: BaseException) -> str:
    """Why there is no connection or no answer, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLEOFError):
        return _ENDED
    if isinstance(error, ssl.SSLError) and error.strerror:
        said = _AROUND.sub("", error.strerror)
        if said in _NO_TLS:
            return "it speaks no TLS"
        return "it does not speak that over TLS" if "no application protocol" in said else f"TLS: {said}"
    if isinstance(error, TimeoutError) and not error.strerror:
        return "no answer in time"
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def spoken(first: bytes) -> str:
    """What a peer speaks whose answer begins so; empty if that cannot be told."""
    if first[:2] in (b"\x15\x03", b"\x16\x03"):
        return "it speaks TLS"
    if first[:5] == b"HTTP/":
        return "it speaks HTTP/1"
    if first[3:5] in (b"\x04\x00", b"\x07\x00") and first[5:9] == bytes(4):  # its settings, or that it goes away
        return "it speaks HTTP/2, as gRPC does"
    return ""


def mistrusted(where: str, error: ssl.SSLCertVerificationError, more: str = "") -> ServiceError:
    """A certificate that does not count, with what mends that.

    Args:
        where: What has it.
        error: What TLS says.
        more: A further sentence of the remedy.
    """
    said, code = error.verify_message.rstrip("."), error.verify_code
    remedy = "Whoever runs the service has to replace it."
    if code == _EXPIRED:
        remedy = "Whoever runs the service has to renew it."
    elif code == _NOT_YET:
        remedy = "Compare the clock of this machine with that of the one which made it."
    elif code in _OTHER_NAME:
        remedy = "Write the address with the name that it is for."
    elif code in _UNKNOWN_AUTHORITY:
        remedy = "Name the file of the authority that signed it in the environment variable SSL_CERT_FILE"
        named = os.environ.get("SSL_CERT_FILE", "")
        missing = named and not Path(named).is_file()
        remedy += f", which names {named} now: there is no such file." if missing else "."
    return ServiceError(f"{where} has a certificate that is not trusted ({said}).", f"{remedy} {more}".strip())


def no_answer(host: str, port: int, grpc: bool, tls: bool, error: Exception) -> ServiceError:
    """A service that took a connection, but did not answer a request.

    Args:
        host: Where.
        port: At which port.
        grpc: Whether it was asked over gRPC.
        tls: Whether it was asked over TLS.
        error: What went wrong.
    """
    port_words, over = f"Port {port} of {host}", "gRPC" if grpc else "HTTP"
    if isinstance(error, ssl.SSLCertVerificationError):
        return mistrusted(port_words, error, "Or give another port as the option `grpc_port`." if grpc else "")
    way = f"over {over} {'with' if tls else 'without'} TLS"
    return ServiceError(
        f"{port_words} took a connection, but gave no answer to a request {way} ({reason_of(error)}).",
        _GRPC_REMEDY if grpc else "Look at the service's log.",
    )
