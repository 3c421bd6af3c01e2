"""What gRPC reads from the environment when it is first imported: hence set by the daemons' packages, before all else.

Not by the SDK: in somebody else's program these are not ours to set.
"""

import os


def prepare() -> None:
    """TLS 1.3 only, and no lines of gRPC's own on stderr.

    Python's gRPC has no setting for the version, but the one for the cipher suites of TLS 1.2 (it does not concern
    those of 1.3) can ask for RSA certificates, and ours are all ECDSA: a handshake of 1.2 has nothing to agree on.
    """
    os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES128-GCM-SHA256"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
