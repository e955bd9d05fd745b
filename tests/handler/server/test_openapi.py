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
                if int(code) >= 400 and code != "416":
                    assert content["examples"], (path, code)
    body = description["paths"][TXT2IMG]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["anyOf"][0] == {"$ref": "#/components/schemas/JobInput"}


def test_every_workflow_has_a_schema_of_its_own(client):
    """Each has its own fields, limits and defaults, and all but the default's need its name."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    default, turbo, background = (
        schemas[name] for name in ("JobInput", "JobInput_txt2img_alpha_turbo", "JobInput_foreground_on_background")
    )
    assert default["required"] == ["prompt"]
    assert default["properties"]["width"]["default"] == 128
    assert default["properties"]["workflow"]["enum"] == ["txt2img_alpha", None]
    assert turbo["required"] == ["prompt", "workflow"]
    assert turbo["properties"]["workflow"]["const"] == "txt2img_alpha_turbo"
    assert [each["properties"]["num_inference_steps"]["default"] for each in (default, turbo)] == [20, 4]
    assert background["required"] == ["prompt", "background_image", "workflow"]
    assert background["properties"]["background_image"]["format"] == "image"
    assert "background_image" not in default["properties"]


def references(value):
    """Yields every $ref in a description."""
    if isinstance(value, dict):
        yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        value = list(value.values())
    for child in value if isinstance(value, list) else []:
        yield from references(child)


def test_every_reference_is_a_component_and_every_component_is_used(client):
    """A job's input has the workflow's own schema, and no schema is FastAPI's."""
    description = client.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(description)} == set(schemas)
    inputs = schemas["RunRequest"]["properties"]["input"]["anyOf"]
    assert inputs[0] == {"$ref": "#/components/schemas/JobInput"}
    assert {"Job", "Output", "Picture", "Progress", "Error"} <= set(schemas)
    assert description["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
