"""Settings, read from environment variables of the same names in capitals."""

import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """What may be set from outside; every field has a default that works after `scripts/setup`."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    workflow: str = Field("txt2img_alpha", pattern=r"^[\w-]+$", description="name of the file in workflows/")
    profile: str = Field(
        "auto",
        pattern=r"^[\w-]+$",
        description="sdxl, a file in workflows/profiles/, or auto: sdxl where all its weights are there, else tiny",
    )
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: gpu where one is seen")
    job_timeout_s: float = Field(540.0, gt=0, le=86_400, description="longest time from taking a job to its reply")
    start_timeout_s: float = Field(240.0, gt=0, le=86_400, description="longest time for ComfyUI to start")
    reply_limit_bytes: int = Field(9_500_000, gt=0, description="largest reply; RunPod takes 10 MB on /run")
    warm_up: bool = Field(True, description="load the models before the first job is taken")
    comfyui_args: str = Field("", description="further command line arguments for ComfyUI")
    comfyui_dir: Path = Field(ROOT / ".comfyui", description="where scripts/setup put ComfyUI")
    models_dir: Path = Field(ROOT / "models", description="ComfyUI's models folder")
    workflows_dir: Path = Field(ROOT / "workflows", description="where the stored workflows are")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("comfyui_args")
    @classmethod
    def _splits_into_arguments(cls, value: str) -> str:
        shlex.split(value)  # raises ValueError where a quotation is not closed
        return value
