import pytest
from pydantic import ValidationError

from handler.settings import Settings


def test_defaults_need_no_environment():
    """Without any variable the settings are those of a fresh clone."""
    settings = Settings()
    assert (settings.workflow, settings.profile, settings.device) == ("txt2img_alpha", "auto", "auto")
    assert settings.models_dir.name == "models"


def test_environment_variables_set_them(monkeypatch):
    """Each field is read from the variable of its name in capitals; an empty one counts as absent."""
    monkeypatch.setenv("PROFILE", "tiny")
    monkeypatch.setenv("JOB_TIMEOUT_S", "12.5")
    monkeypatch.setenv("LOG_LEVEL", "")
    assert (Settings().profile, Settings().job_timeout_s, Settings().log_level) == ("tiny", 12.5, "INFO")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert Settings().log_level == "DEBUG"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROFILE", "../x"),
        ("JOB_TIMEOUT_S", "-1"),
        ("JOB_TIMEOUT_S", "soon"),
        ("JOB_TIMEOUT_S", "nan"),
        ("WORKFLOW", "../../etc/passwd"),
        ("REPLY_LIMIT_BYTES", "0"),
        ("COMFYUI_ARGS", "--fast 'x"),
        ("WARM_UP", "hot"),
        ("VRAM", "20"),
        ("ATTENTION", "sage"),
    ],
)
def test_an_invalid_value_is_rejected(monkeypatch, name, value):
    """An invalid value stops the program when it starts."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    ("value", "mode"),
    [*dict.fromkeys(("true", "1", "Yes", "ON"), "auto").items(), *dict.fromkeys(("false", "0", "no"), "off").items()],
)
def test_warm_up_was_a_switch(monkeypatch, value, mode):
    """Endpoints that set WARM_UP to true or false keep working: on is auto."""
    monkeypatch.setenv("WARM_UP", value)
    assert Settings().warm_up == mode
