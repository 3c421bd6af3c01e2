"""Asks the registry of this home, on this machine, whether it is healthy: for containers and load balancers.

What it is not: `status`, which tells what is stored, or `check`, which reads all of it.

probe(Address("0.0.0.0", 7400), roots=ca_pem, server_name="registry.86.hanse")
"""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hanse.errors import Unreachable
from hanse.model.address import Address
from hanse.rpc import status
from hanse.rpc.channel import dial

_TIMEOUT = 5.0  # seconds: who does not answer on its own machine in that time is not well
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def probe(listen: Address, *, roots: bytes, server_name: str) -> None:
    """Raises Unreachable when it does not answer, or says that it does not serve."""
    channel = dial(Address(_HERE.get(listen.host, listen.host), listen.port), roots=roots, server_name=server_name)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
    except grpc.RpcError as error:
        raise status.from_rpc(error, "the registry") from None
    finally:
        channel.close()
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unreachable("the registry answers, and says that it does not serve")
