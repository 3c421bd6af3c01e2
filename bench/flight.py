"""Arrow Flight over mutual TLS, to memory: ``serve PORT KEY CERT BYTES`` ``fetch URL KEY CERT``."""

import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.flight

BATCH = 1 << 20


class Server(pyarrow.flight.FlightServerBase):
    """Gives one table of bytes, all of it in memory before anybody asks."""

    def __init__(self, port: int, key: bytes, certificate: bytes, size: int) -> None:
        content = pa.py_buffer(os.urandom(BATCH) * (size // BATCH))
        columns = [
            pa.Array.from_buffers(pa.uint8(), BATCH, [None, content.slice(at, BATCH)]) for at in range(0, size, BATCH)
        ]
        self._table = pa.Table.from_batches([pa.RecordBatch.from_arrays([each], names=["bytes"]) for each in columns])
        super().__init__(
            f"grpc+tls://localhost:{port}",
            tls_certificates=[(certificate, key)],
            verify_client=True,
            root_certificates=certificate,
        )

    def do_get(self, context: object, ticket: object) -> pyarrow.flight.RecordBatchStream:  # noqa: ARG002
        return pyarrow.flight.RecordBatchStream(self._table)


def fetch(url: str, key: bytes, certificate: bytes) -> float:
    """Seconds from dialling to the last byte in memory, after one small call's worth of imports."""
    began = time.perf_counter()
    client = pyarrow.flight.connect(url, tls_root_certs=certificate, cert_chain=certificate, private_key=key)
    table = client.do_get(pyarrow.flight.Ticket(b"")).read_all()
    seconds = time.perf_counter() - began
    assert table.num_rows > 0
    return seconds


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        key, certificate = Path(sys.argv[3]).read_bytes(), Path(sys.argv[4]).read_bytes()
        Server(int(sys.argv[2]), key, certificate, int(sys.argv[5])).serve()
    else:
        print(fetch(sys.argv[2], Path(sys.argv[3]).read_bytes(), Path(sys.argv[4]).read_bytes()))
