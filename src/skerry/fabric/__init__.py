"""How processes talk: frames over TCP or TLS between agent and syncer."""
