"""Settings, read from environment variables of the same names in capitals."""

import re
import shlex
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
BUCKET_NAME = r"^[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}$"


class Settings(BaseSettings):
    """What may be set from outside; every field has a default that works after `scripts/setup`."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, hide_input_in_errors=True)

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
    weights_dirs: str = Field(
        "/runpod-volume/models", description="folders, separated by colons, that may have what the models folder lacks"
    )
    hf_cache_dir: Path = Field(
        Path("/runpod-volume/huggingface-cache/hub"), description="cache of the Hugging Face hub that may have it too"
    )
    models_file: Path = Field(ROOT / "models.txt", description="list of the weight files that can be fetched")
    hf_endpoint: AnyHttpUrl = Field(
        AnyHttpUrl("https://huggingface.co"), description="mirror of the Hugging Face hub to fetch weights from"
    )
    hf_token: SecretStr | None = Field(None, description="told to https://huggingface.co when weights are fetched")
    bucket_endpoint_url: AnyHttpUrl | None = Field(None, description="address of S3 or what speaks its protocol")
    bucket_access_key_id: str | None = Field(None, min_length=1, description="the bucket's key")
    bucket_secret_access_key: SecretStr | None = Field(None, min_length=1, description="the bucket's secret")
    bucket_name: str | None = Field(None, pattern=BUCKET_NAME, description="pictures go there, replies carry their URL")
    bucket_region: str = Field("us-east-1", pattern=r"^[\w-]+$", description="what requests are signed for")
    bucket_public_url: AnyHttpUrl | None = Field(
        None, description="where everybody may read the bucket; without it, URLs are signed"
    )
    bucket_url_lifetime_s: int = Field(604_800, gt=0, le=604_800, description="how long a signed URL works")
    bucket_allowed_endpoints: str = Field(
        "", description="addresses that a job's s3Config may name, separated by commas; none where empty"
    )
    listen_host: str = Field("127.0.0.1", min_length=1, description="address that the HTTP server listens on")
    port: int = Field(8000, ge=0, le=65_535, description="port that the HTTP server listens on; 0: any free one")
    api_keys: SecretStr | None = Field(None, description="keys, separated by commas, of which a request must have one")
    allow_without_keys: bool = Field(False, description="listen on other addresses than loopback without API_KEYS")
    public_url: AnyHttpUrl | None = Field(
        None, description="the server's address in replies, where callers see another"
    )
    data_dir: Path = Field(ROOT / ".data", description="the HTTP server's jobs and pictures")
    queue_limit: int = Field(100, gt=0, le=100_000, description="most jobs that may wait; more are refused")
    results_keep_s: float = Field(1800.0, gt=0, description="how long a result of /run is kept; of /runsync a minute")
    results_limit_bytes: int = Field(50_000_000, gt=0, description="largest sum of kept results; pictures count apart")
    pictures_keep_s: float = Field(86_400.0, gt=0, description="how long a picture is kept")
    pictures_limit_bytes: int = Field(2_000_000_000, gt=0, description="largest sum of kept pictures")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="what is logged, and worse")

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    def allowed_endpoints(self) -> list[AnyHttpUrl]:
        """Returns the addresses of BUCKET_ALLOWED_ENDPOINTS.

        Raises:
            ValueError: one is no address; the settings do not come about with it.
        """
        return [AnyHttpUrl(part.strip()) for part in self.bucket_allowed_endpoints.split(",") if part.strip()]

    @model_validator(mode="after")
    def _endpoints_are_addresses(self) -> Self:
        try:
            self.allowed_endpoints()
        except ValidationError as exc:
            raise ValueError("BUCKET_ALLOWED_ENDPOINTS must be http or https addresses, separated by commas") from exc
        return self

    @model_validator(mode="after")
    def _bucket_is_whole(self) -> Self:
        needed = ("bucket_endpoint_url", "bucket_access_key_id", "bucket_secret_access_key", "bucket_name")
        missing = [name.upper() for name in needed if getattr(self, name) is None]
        if missing and len(missing) < len(needed):
            raise ValueError(f"{', '.join(missing)} missing: a bucket needs all four, or none of them set")
        return self

    def keys(self) -> list[str]:
        """Returns the keys of API_KEYS."""
        text = self.api_keys.get_secret_value() if self.api_keys is not None else ""
        return [key.strip() for key in text.split(",") if key.strip()]

    @field_validator("hf_token")
    @classmethod
    def _fits_into_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("must be ASCII without blanks")
        return value

    @field_validator("comfyui_args")
    @classmethod
    def _splits_into_arguments(cls, value: str) -> str:
        shlex.split(value)  # raises ValueError where a quotation is not closed
        return value
