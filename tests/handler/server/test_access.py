"""Who can use the HTTP server."""

import pytest
from calls import JOBS, TXT2IMG, error, submit, when
from pydantic import ValidationError

from handler.settings import Settings


def test_keys_are_asked_for(make):
    """On every route except the open ones; each of the keys works."""
    client = make(api_keys="first, second")
    for path in (f"{JOBS}/health", "/alpha/v1/file/x", "/alpha/v1/jobs", "/metrics", "/nothing"):
        assert error(client.get(path))[:2] == (401, "unauthorized"), path
        for key in ("", "Bearer", "Bearer wrong", "Basic first", "Bearer first, second", "Bearer f\u0131rst"):
            answer = client.get(path, headers={"Authorization": key.encode()})
            assert error(answer)[:2] == (401, "unauthorized"), (path, key)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for key in ("Bearer first", "bearer second", "first", " second "):
        assert client.get(f"{JOBS}/health", headers={"Authorization": key}).status_code == 200
    assert client.get("/ping").status_code in {200, 204}
    open_files = ("/page/main.js", "/page/page.css", "/page/favicon.svg", "/static-offline-docs/swagger-ui.css")
    for path in ("/", "/docs", "/openapi.json", *open_files):
        assert client.get(path).status_code == 200, path
    for path in ("/page/%2e%2e/access.py", "/page/..%2faccess.py", "/page/..%2f..%2fmetrics", "/page/%2e%2e/metrics"):
        assert error(client.get(path))[0] in {401, 404}, path


def test_another_site_cannot_point_its_name_here(make):
    """Without keys, the server accepts only this machine's own names as Host."""
    client = make(public_url="http://alpha.example/")
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "localhost@evil.example"):
        assert error(client.get("/ping", headers={"Host": host}))[:2] == (400, "bad_request"), host
    for host in ("127.0.0.1", "localhost:8000", "[::1]:8000", "LOCALHOST", "alpha.example"):
        assert client.get("/ping", headers={"Host": host}).status_code in {200, 204}, host


@pytest.mark.parametrize("path", [f"{JOBS}/purge-queue", f"{JOBS}/run", f"{JOBS}/cancel/x", f"{JOBS}/retry/x", TXT2IMG])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000.evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_another_site_cannot_change_anything(make, path, headers):
    """Browsers send such requests without asking; they say for which page."""
    client = make(public_url="https://alpha.example", cors_origins="https://app.example, http://localhost:5173")
    waiting = submit(client, "wait")
    answer = client.post(path, headers=headers, json={"input": {"prompt": "x"}})
    assert error(answer)[:2] == (403, "foreign_origin")
    assert "access-control-allow-origin" not in answer.headers
    assert client.get(f"{JOBS}/health", headers=headers).json()["jobs"]["inQueue"] in {0, 1}
    client.painter.go_on.set()
    when(client, waiting, "COMPLETED")
    assert client.painter.prompts == ["wait"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://alpha.example"},
        {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:5173"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_its_own_page_and_named_sites_can_use_it(make, headers):
    """And clients that are not browsers; a named site may also read the answers."""
    client = make(public_url="https://alpha.example/", cors_origins="https://app.example,http://localhost:5173")
    answer = client.post(f"{JOBS}/purge-queue", headers=headers)
    assert answer.status_code == 200
    origin = headers.get("Origin")
    if origin in {"https://app.example", "http://localhost:5173"}:
        assert answer.headers["access-control-allow-origin"] == origin
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        assert client.options(f"{JOBS}/run", headers=headers | asked).status_code == 200


@pytest.mark.parametrize(
    "value", ["app.example", "https://app.example/page", "https://a.example https://b.example", "*"]
)
def test_cors_origins_are_origins(value):
    """Anything else would never match what browsers send."""
    with pytest.raises(ValidationError, match="CORS_ORIGINS"):
        Settings(cors_origins=value)
