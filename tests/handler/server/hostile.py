"""Requests that no well-meaning client sends, as bytes: `request(random.Random(1))`."""

import json

PATHS = [
    "/v2/x/run",
    "/v2/x/runsync?wait=1000",
    "/alpha/v1/txt2img",
    "/v2/x/status/unknown",
    "/v2/x/stream/unknown",
    "/v2/x/cancel/unknown",
    "/v2/x/retry/unknown",
    "/v2/x/purge-queue",
    "/v2/x/health",
    "/alpha/v1/file/alpha_1_000001.png",
    "/metrics",
    "/ping",
    "/docs",
    "/openapi.json",
    "/",
]
STRANGE_PATHS = [
    "*",
    "//",
    "/%00",
    "/%ff%fe",
    "/../../etc/passwd",
    "/alpha/v1/file/..%2f..%2fetc%2fpasswd",
    "/alpha/v1/file/%2e%2e",
    "/v2/x/status/" + "a" * 15_000,
    "/v2/x/status/%F0%9F%92%A9%00",
    "/v2/x/runsync?wait=1e400",
    "/v2/x/runsync?wait=" + "9" * 5_000,
    "/v2/x/runsync?wait=1000&wait=x",
    "http://other.example/v2/x/run",
    "http://[::1/",
    "/ping?" + "a=b&" * 3_000,
    "/" + "a/" * 7_000,
]
STRANGE_HEADERS = [
    b"Host: \xff\xfe",
    b"Host: [::1",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999999999",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Content-Type: application/json; charset=utf-16",
    b"Content-Type: " + b"x" * 15_000,
    b"Content-Encoding: gzip",
    b"Expect: 100-continue",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"Range: bytes=5-1,-,9999999999-",
    b"Range: bytes=" + b"0-1," * 3_000,
    b"If-None-Match: \xff, W/",
    b"Origin: \xff",
    b"Origin: http://[",
    b"Authorization: Bearer \xff",
    b"Authorization: " + b"Basic " * 2_000,
    b"X-Forwarded-For: \x01",
    b"No colon",
    b": no name",
    b" Folded: first",
    b"X: a\r\n b",
    b"X\x00: y",
    b"X: \x00",
    b"X: y\n\nGET / HTTP/1.1",
    b"A: b\r\n" * 3_000,
    b"Cookie: " + b"a=b;" * 3_000,
]
INPUTS = [
    None,
    [],
    "text",
    7,
    {"prompt": "\ud800"},
    {"prompt": "\x00"},
    {"prompt": "x" * 190_000},
    {"prompt": "(" * 2_000},
    {"prompt": "embedding:../../etc/passwd " * 50},
    {"prompt": "x", "seed": 10**400},
    {"prompt": "x", "width": -0.0, "height": "NaN"},
    {"prompt": {"prompt": ["x"] * 1_000}},
    {f"field {number}": number for number in range(9_000)},
    {"x" * 90_000: "y" * 90_000},
    {"promp\u0000t": True, "__proto__": {}, "constructor": None},
]
ENVELOPES = [
    {"webhook": "http://xn--n3h.example/"},
    {"webhook": "gopher://127.0.0.1:25/"},
    {"webhook": "http://" + "a" * 100_000},
    {"webhook": ["http://127.0.0.1/"]},
    {"policy": {"ttl": 1e308, "executionTimeout": -1}},
    {"policy": {"ttl": 10**300}},
    {"s3Config": {"endpointUrl": "http://169.254.169.254/", "accessId": "x", "accessSecret": "y", "bucketName": "zzz"}},
    {"s3Config": {"bucketName": "../" * 1_000}},
]
STRANGE_BODIES = [
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b'{"input": NaN}',
    b'{"input": 1e999999}',
    b'{"input": ' + b"9" * 4_000 + b"}",
    b'{"input": {"prompt": "\\ud800\\udc00\\udfff"}}',
    b'{"input": {"prompt": "a", "prompt": "b"}, "input": {}}',
    b"[" * 190_000,
    b'{"a":' * 100_000,
    b"[" + b"1," * 90_000 + b"1]",
    b'{"input": [' + b"[]," * 60_000 + b"[]]}",
    b"a" * 1_500_000,
]


def request(rng):
    """Returns the bytes of one request."""
    kind = rng.choice([_noise, _cut, _with_strange_path, _with_strange_header, _with_strange_body, _job, _chunked])
    return kind(rng)


def _head(rng, path=None, method=None, headers=()):
    method = method or rng.choice(["GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
    path = path or rng.choice(PATHS)
    host = [b"Host: 127.0.0.1"] if rng.random() < 0.9 else []
    return b"\r\n".join([f"{method} {path} HTTP/1.1".encode("latin-1"), *host, *headers]) + b"\r\n"


def _with_body(rng, body, path=None):
    kinds = [b"application/json"] * 8 + [b"text/plain", b"multipart/form-data; boundary="]
    headers = [b"Content-Type: " + rng.choice(kinds), b"Content-Length: %d" % len(body)]
    return _head(rng, path, "POST", headers) + b"\r\n" + body


def _noise(rng):
    ends = [b"", b"\r\n\r\n", b"\n\n"]
    starts = [
        b"",
        b"GET ",
        b"GET / HTTP/1.1\r\n",
        b"GET /\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"GET / HTTP/9",
    ]
    return rng.choice(starts) + rng.randbytes(rng.randrange(2_000)) + rng.choice(ends)


def _cut(rng):
    whole = _job(rng)
    return whole[: rng.randrange(1, len(whole))]


def _with_strange_path(rng):
    return _head(rng, rng.choice(STRANGE_PATHS), rng.choice(["GET", "POST", "BREW", "get"])) + b"\r\n"


def _with_strange_header(rng):
    return _head(rng, headers=rng.choices(STRANGE_HEADERS, k=rng.choice([1, 1, 2]))) + b"\r\n" + rng.randbytes(20)


def _with_strange_body(rng):
    return _with_body(rng, rng.choice(STRANGE_BODIES))


def _job(rng):
    body = {"input": rng.choice(INPUTS)} | rng.choice([{}, {}, *ENVELOPES])
    return _with_body(rng, json.dumps(body).encode(), rng.choice(PATHS[:3]))


def _chunked(rng):
    head = (
        _head(rng, method="POST", headers=[b"Content-Type: application/json", b"Transfer-Encoding: chunked"]) + b"\r\n"
    )
    chunks = [
        b"1\r\n[\r\n" * rng.randrange(50_000),
        b"ffffffffffffffff\r\n",
        b"-1\r\nx\r\n",
        b"5;" + b"x" * 20_000 + b"\r\n12345\r\n",
        b"5\r\n123456\r\n",
        b"2\r\n{}\r\n0\r\nTrailer: x\r\n" + b"A: b\r\n" * 5_000 + b"\r\n",
    ]
    return head + rng.choice(chunks)
