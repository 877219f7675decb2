"""The wire protocol: bytes to typed frames and back. No I/O, no clock. Specified in docs/protocol.md."""
