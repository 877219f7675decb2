"""Sockets: framed connections, the server and client end of them, and backoff. The only place that opens any."""
