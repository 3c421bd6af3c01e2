"""What a user would otherwise pick: each started here with keys and ports of its own, and stopped at the end.

A peer that is not on the machine raises Missing with its name: the table says so.
"""

import contextlib
import getpass
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

WAIT = 20.0
ROOT = Path(__file__).resolve().parent.parent


class Missing(Exception):
    """A peer that is not installed; the text is its name."""


def need(name: str) -> str:
    """The program's path, also where only root looks."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Missing(name)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def timed(argv: Sequence[str | Path], **more: object) -> float:
    """Seconds of a whole process, from outside. Fails with what it said if it failed."""
    began = time.perf_counter()
    done = subprocess.run([str(each) for each in argv], capture_output=True, check=False, **more)  # type: ignore[call-overload]
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(
            f"{Path(argv[0]).name} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-600:]}"
        )
    return seconds


@contextlib.contextmanager
def daemon(argv: Sequence[str | Path], port: int | None, log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
    """A process and what it starts, killed at the end; waits until the port answers. Gives the process id."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(each) for each in argv],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=env,
            cwd=ROOT,
        )
    try:
        deadline = time.monotonic() + WAIT
        while port is not None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{Path(argv[0]).name} did not start: {log.read_text(errors='replace')[-600:]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)


class Pki:
    """A self-signed ECDSA P-256 certificate that both sides show, and trust alone: mutual TLS."""

    def __init__(self, folder: Path) -> None:
        self.key, self.certificate = folder / "peer.key", folder / "peer.crt"
        if not self.certificate.exists():
            timed(
                [
                    need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", self.key, "-out", self.certificate,
                ]
            )  # fmt: skip


def nginx_user() -> str:
    """As root, nginx would otherwise serve as somebody who may not read our files."""
    return f"user {getpass.getuser()};" if os.geteuid() == 0 else ""


@contextlib.contextmanager
def nginx(folder: Path, served: Path) -> Iterator[str]:
    """nginx over mutual TLS 1.3; the URL of the served folder."""
    pki, port, program = Pki(folder), free_port(), need("nginx")
    configuration = folder / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder}/nginx-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration.write_text(f"""
{nginx_user()}
worker_processes auto;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
  {temporary}
  access_log off;
  sendfile on;
  tcp_nopush on;
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name localhost;
    ssl_protocols TLSv1.3;
    ssl_certificate {pki.certificate};
    ssl_certificate_key {pki.key};
    ssl_client_certificate {pki.certificate};
    ssl_verify_client on;
    root {served};
  }}
}}
""")
    argv = [program, "-p", folder, "-c", configuration, "-e", "stderr", "-g", "daemon off;"]
    with daemon(argv, port, folder / "nginx.log"):
        yield f"https://localhost:{port}"


def curl(folder: Path, url: str, to: Path) -> list[str | Path]:
    """The command that fetches over mutual TLS 1.3."""
    pki = Pki(folder)
    return [
        need("curl"), "--silent", "--show-error", "--fail", "--ipv4", "--tlsv1.3", "--cacert", pki.certificate,
        "--cert", pki.certificate, "--key", pki.key, "--output", to, url,
    ]  # fmt: skip


class Ssh:
    """How to reach our own sshd: options for ssh, and who to be."""

    def __init__(self, port: int, key: Path, known: Path) -> None:
        self.target = f"{getpass.getuser()}@127.0.0.1"
        self.command = (
            f"{need('ssh')} -F none -p {port} -i {key} -o IdentitiesOnly=yes -o BatchMode=yes "
            f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR"
        )


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[Ssh]:
    """An sshd on a free port with keys of its own and the distribution's defaults otherwise."""
    program, keygen, port = need("sshd"), need("ssh-keygen"), free_port()
    host, user = folder / "ssh_host", folder / "ssh_user"
    for key in (host, user):
        if not key.exists():
            timed([keygen, "-q", "-t", "ed25519", "-N", "", "-f", key])
    configuration = folder / "sshd_config"
    configuration.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {user}.pub\nPidFile none\n"
        "StrictModes no\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin prohibit-password\n"
    )
    argv: list[str | Path] = [program, "-D", "-e", "-f", configuration]
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        # As root sshd demands /run/sshd. It gets one in a mount namespace of its own: /run stays as it is.
        script = 'mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd && exec "$@"'
        argv = [need("unshare"), "--mount", "sh", "-c", script, "sh", *argv]
    with daemon(argv, port, folder / "sshd.log"):
        yield Ssh(port, user, folder / "known_hosts")


def rsync(ssh: Ssh, source: Path, to: Path) -> float:
    return timed([need("rsync"), "-a", "-e", ssh.command, f"{ssh.target}:{source}/", f"{to}/"])


def tar(ssh: Ssh, source: Path, to: Path) -> float:
    to.mkdir()
    pipe = f"set -o pipefail; {ssh.command} {ssh.target} 'tar -C {source} -cf - .' | {need('tar')} -C {to} -xf -"
    return timed([need("bash"), "-c", pipe])


class Restic:
    """A repository on this disk; each backup goes into a fresh one, made before the clock starts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._program, self._number = folder, need("restic"), 0

    def backup(self, source: Path) -> float:
        self._number += 1
        repository = self._folder / f"restic-{self._number}"
        env = os.environ | {"RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(repository)}
        arguments = ["--no-cache", "--quiet"]
        timed([self._program, "init", *arguments], env=env)
        try:
            return timed([self._program, "backup", *arguments, source], env=env)
        finally:
            shutil.rmtree(repository)


def sha256(path: Path) -> float:
    return timed([need("openssl"), "dgst", "-sha256", path])


@contextlib.contextmanager
def grpc_echo(folder: Path, kind: str) -> Iterator[int]:
    """A grpcio server over TLS that answers with the request, "sync" or "asyncio"; its port."""
    pki, port = Pki(folder), free_port()
    argv = [sys.executable, "-m", "bench.echo", kind, str(port), pki.key, pki.certificate]
    with daemon(argv, port, folder / f"echo-{kind}.log"):
        yield port


@contextlib.contextmanager
def flight(folder: Path, size: int) -> Iterator[str]:
    """An Arrow Flight server over mutual TLS that has ``size`` bytes in memory, in batches of 1 MiB."""
    if importlib.util.find_spec("pyarrow") is None:
        raise Missing("pyarrow")
    pki, port = Pki(folder), free_port()
    argv = [sys.executable, "-m", "bench.flight", "serve", str(port), pki.key, pki.certificate, str(size)]
    with daemon(argv, port, folder / "flight.log"):
        yield f"grpc+tls://localhost:{port}"


def h2load(
    port: int, path: str, message: Path, calls: int, headers: Sequence[str] = (), *, clients: int = 4, streams: int = 16
) -> float:
    """Calls a second. ``message`` holds the body of each: five bytes of gRPC framing and the request."""
    argv = [
        need("h2load"), "--requests", str(calls), "--clients", str(clients), "--max-concurrent-streams",
        str(streams), "--data", message,
        "--header", "content-type: application/grpc", "--header", "te: trailers",
    ]  # fmt: skip
    for header in headers:
        argv += ["--header", header]
    done = subprocess.run(
        [str(each) for each in (*argv, f"https://127.0.0.1:{port}{path}")], capture_output=True, text=True, check=True
    )
    return h2load_rate(done.stdout, calls)


def h2load_rate(printed: str, calls: int) -> float:
    """Calls a second, of which none may have failed."""
    finished = re.search(r"finished in .*?, ([\d.]+) req/s", printed)
    succeeded = re.search(r"(\d+) succeeded, (\d+) failed", printed)
    answered = re.search(r"status codes: (\d+) 2xx", printed)
    if finished is None or succeeded is None or int(succeeded[1]) != calls or not answered or int(answered[1]) != calls:
        raise RuntimeError(f"h2load: {printed[-400:]}")
    return float(finished[1])
