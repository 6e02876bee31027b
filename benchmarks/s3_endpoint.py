"""A local S3 server for benchmarks and tests: moto's server, in a process that can be killed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

from ucf50_tfrecord.errors import UserError

BUCKET = "bucket"
_START_SECS = 60


class Endpoint:
    """A local S3 server that can be killed, and started again, empty, at the same address.

    Needs the extra `stores`.

    environment: environment variables by which S3 clients find and use the server.
    """

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self._url,
        }
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts the server with one empty bucket, BUCKET; returns once the server answers."""
        command = [sys.executable, "-m", "moto.server", "--host=127.0.0.1", f"--port={self._port}"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                break
            except OSError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise UserError(f"The S3 server does not answer at {self._url}: {error}") from error
                time.sleep(0.1)
        self.client().create_bucket(Bucket=BUCKET)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def client(self) -> Any:
        """Returns a boto3 client that is connected to the local S3 server."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self._url,
            region_name=self.environment["AWS_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )
