"""The syncer: a server process that drives SyncerCore. `server.run_syncer(config, policy)` runs one."""
