"""Wrong arguments and settings of the command line; the commands run in this process."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["worker", "--test_input", "{"], {}, "--test_input is not JSON"),
        (["worker", "--test_input", "[]"], {}, "must be an object with an"),
        (["worker", "--test_input", '{"prompt": "x"}'], {}, "must be an object with an"),
        (["worker"], {}, "no jobs to take"),
        (["worker", "--rp_serve_api", "--rp_api_port", "x"], {}, "--rp_api_port: invalid int value: 'x'"),
        (["worker"], {"START_TIMEOUT_S": "soon"}, "START_TIMEOUT_S: Input should be a valid number"),
        (["worker", "--rp_serve_api"], {"WORKFLOW": "absent"}, "workflow_invalid: absent.json cannot be read"),
        (["generate", "-o", "/no/such/folder/x.png"], {}, "/no/such/folder/x.png cannot be written: No such file"),
        (["generate", "-o", "/proc/x.png"], {}, "/proc/x.png cannot be written"),
        (["generate", "-o", "x.jpg"], {}, "x.jpg must end in .png or .webp, or be a folder"),
        (["generate", "x", "--size", "huge"], {}, 'invalid_input: size must be one of "square", "portrait_4_3"'),
        (["generate", "x", "--size", "100x128"], {"PROFILE": "tiny"}, "got 100; the nearest are 64 and 128"),
        (["generate", "-o", "/proc/x"], {}, "cannot be written"),
        (["generate", "x", "-o", "x.webp", "--format", "png"], {}, "x.webp does not fit the format png"),
        (["generate", "x", "y", "-o", "-"], {}, "-o - writes one picture, and there are 2; name a folder"),
        (["generate", "x", "-o", "-", "--json"], {}, "-o - does not go together with --json, --show or --sheet"),
        (["generate", "x", "--sheet", "x.gif"], {}, "x.gif must end in .png, .webp or .jpg"),
        (["generate", "x", "--sheet", "/no/x.png"], {}, "/no is not a folder"),
        (["generate", "--prompts", "/no/such/list"], {}, "/no/such/list cannot be read: No such file"),
        (["generate", "x", " ", "--steps", "99"], {}, " : prompt must be a string of 1 to 4000"),
        (["generate", "x", "--seed", "-1"], {}, "invalid_input: seed must be an integer from 0"),
        (["generate", ""], {}, "invalid_input: prompt must be a string of 1 to 4000"),
        (["worker", "--test_input", '{"input": null}'], {}, "must be an object with an"),
        (["worker", "--test_input", "[" * 100_000], {}, "--test_input is not JSON"),
        (
            ["generate", "x", "-o", "/tmp/x.png"],
            {"COMFYUI_DIR": "/nowhere"},
            "comfyui_unavailable: ComfyUI is not installed",
        ),
        (["generate", "--stepps", "3"], {}, "No such option"),
    ],
)
def test_wrong_use_is_an_error_message(command_line, arguments, environment, reason):
    """Wrong arguments and settings stop the program with a reason and without a traceback."""
    done = command_line(*arguments, **environment)
    assert done.returncode in (1, 2)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
