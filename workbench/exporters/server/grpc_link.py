"""HTTP/2 as this server speaks it, and what h2 would keep of a caller's without limits of its own."""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

HEAD_BYTES = 64 * 1024  # of a head, and of a message beside its tensors
FRAME_BYTES = 16 * 1024  # that may come at once: HTTP/2's own number
STREAMS = 128  # calls at once on one connection
WINDOW = 4 << 20  # bytes that a caller may send ahead: they are taken, or refused, as they come
MOST_SETTINGS = 32
TABLE_BYTES = 4096  # of earlier heads, to which later ones refer: HTTP/2's own number


def open_link() -> H2Connection:
    """One side of a connection, which has its first words ready."""
    link = H2Connection(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_outbound_headers=False,  # they are ours
            normalize_outbound_headers=False,
        )
    )
    link.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: HEAD_BYTES,
        },
    )
    link.initiate_connection()
    link.increment_flow_control_window(WINDOW - link.inbound_flow_control_window)
    return link


def kept_bytes(link: H2Connection) -> int:
    """Bytes of frames and heads that are not whole; h2 limits them later, and their number only."""
    kept = link.incoming_buffer
    return len(kept._data) + sum(len(frame.data) for frame in kept._headers_buffer)


def takes_too_much(link: H2Connection) -> bool:
    """Whether a caller has it keep more than any needs; h2 keeps settings that it does not know, too."""
    return kept_bytes(link) > HEAD_BYTES + FRAME_BYTES or len(link.remote_settings) > MOST_SETTINGS


def keep_small(link: H2Connection) -> None:
    """Keeps fewer heads than a caller's settings allow: h2 searches all of them."""
    link.encoder.header_table_size = min(link.encoder.header_table_size, TABLE_BYTES)
