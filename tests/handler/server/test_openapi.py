"""What /openapi.json says."""

from calls import TXT2IMG


def test_every_route_has_examples_for_every_error(client):
    """What /docs shows: a body for each route that takes one, and each error with its code."""
    description = client.get("/openapi.json").json()
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if method == "post" and "{job_id}" not in path and not path.endswith("purge-queue"):
                assert operation["requestBody"]["content"]["application/json"]["examples"], path
            for code, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json")
                if int(code) >= 400 and path != "/ping" and code != "416":
                    assert content["examples"], (path, code)
    schema = description["paths"][TXT2IMG]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["width"]["default"] == 128
