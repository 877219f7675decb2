"""The rules of replication under every fault that we thought of, in virtual time: docs/replication.md, make simulate"""
