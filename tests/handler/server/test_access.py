"""Who can use the HTTP server."""

from calls import JOBS, error


def test_keys_are_asked_for(make):
    """On every route except /ping and the page; each of the keys works."""
    client = make(api_keys="first, second")
    for path in (f"{JOBS}/health", "/alpha/v1/file/x", "/metrics", "/docs", "/openapi.json", "/nothing"):
        assert error(client.get(path))[:2] == (401, "unauthorized"), path
        for key in ("", "Bearer", "Bearer wrong", "Basic first", "Bearer first, second", "Bearer f\u0131rst"):
            answer = client.get(path, headers={"Authorization": key.encode()})
            assert error(answer)[:2] == (401, "unauthorized"), (path, key)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for key in ("Bearer first", "bearer second"):
        assert client.get(f"{JOBS}/health", headers={"Authorization": key}).status_code == 200
    assert client.get("/ping").status_code in {200, 204}
    assert client.get("/").status_code == 200


def test_another_site_cannot_point_its_name_here(make):
    """Without keys, the server accepts only this machine's own names as Host."""
    client = make(public_url="http://alpha.example/")
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "localhost@evil.example"):
        assert error(client.get("/ping", headers={"Host": host}))[:2] == (400, "bad_request"), host
    for host in ("127.0.0.1", "localhost:8000", "[::1]:8000", "LOCALHOST", "alpha.example"):
        assert client.get("/ping", headers={"Host": host}).status_code in {200, 204}, host
