"""OpenAI's client for JavaScript against scripts/serve."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

PACKAGES = Path(__file__).parents[1] / "handler" / "server" / "generators"


@pytest.mark.soak
def test_openais_javascript_client(server, tmp_path):
    """Two pictures, one by its URL, the models, and its own exception for a wrong number."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    shutil.copytree(PACKAGES, tmp_path, dirs_exist_ok=True)
    subprocess.run(["npm", "ci", "--silent", "--ignore-scripts"], cwd=tmp_path, check=True)
    command = ["node", "openai.js", f"{server.url}/v1", "any"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["pictures"], said["linked"]) == (2, "image/png")
    assert "txt2img_alpha/tiny" in said["models"]
    assert said["refused"][:3] == ["UnprocessableEntityError", 422, "invalid_input"]
    assert "num_images must be an integer from 1 to 8, got 9" in said["refused"][3]
    for number in range(2):
        with Image.open(tmp_path / f"{number}.webp") as image:
            assert (image.format, image.size) == ("WEBP", (128, 128))
