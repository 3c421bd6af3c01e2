"""gRPC, once, for both daemons and the client: certificates, errors, channels, servers."""
