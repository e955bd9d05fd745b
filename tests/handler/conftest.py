import json
import struct
import zlib
from pathlib import Path

import pytest

from handler.workflow.build import build
from handler.workflow.workflow import Workflow

WORKFLOWS = Path(__file__).parents[2] / "workflows"


def read(name):
    return json.loads((WORKFLOWS / name).read_text("utf-8"))


@pytest.fixture
def files():
    """Fresh copies of a graph like the stored one, whose ids tests may name, and of its params and tiny profile."""
    return (
        json.loads(Path(__file__).with_name("graph.json").read_text("utf-8")),
        read("txt2img_alpha.params.json"),
        read("profiles/tiny.json"),
    )


@pytest.fixture
def workflow(files) -> Workflow:
    graph, params, _ = files
    return build("txt2img_alpha", graph, params, "sdxl")


@pytest.fixture
def make_png():
    """Makes a PNG of a regular pattern with the standard library alone."""

    def make(width=64, height=64, depth=8, colour_type=6, level=1) -> bytes:
        def chunk(kind, body):
            return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))

        row = bytes(x * 37 % 256 for x in range(width * 4))
        rows = b"".join(b"\0" + row[y % 7 :] + row[: y % 7] for y in range(height))
        header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(rows, level))
            + chunk(b"IEND", b"")
        )

    return make


@pytest.fixture(scope="module")
def s3():
    """The URL of a server that speaks S3's protocol and has one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="pictures")
    yield address
    server.stop()
