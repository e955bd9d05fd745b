"""Settings, read from environment variables of the same names in capitals.

One class per audience. A new setting goes into the class of the people who set it; docs/settings.md lists
it, and `scripts/hub` writes what a RunPod endpoint can set into .runpod/hub.json.
"""

import base64
import re
import shlex
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
SWITCH = {
    **dict.fromkeys(("true", "1", "yes", "on"), "auto"),
    **dict.fromkeys(("false", "0", "no", "off"), "off"),
}  # WARM_UP was a boolean once
# Folders of characters that S3 and URLs take as they are; none begins with a dot.
BUCKET_PREFIX = r"^(?:[A-Za-z0-9_!*'(){}-][A-Za-z0-9_!.*'(){}-]*(?:/|$))*$"
WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105 -- of the Standard Webhooks specification
BUCKET_NAME = r"^[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}$"


class _FromEnvironment(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, hide_input_in_errors=True)


class WorkerSettings(_FromEnvironment):
    """How jobs run, on RunPod and anywhere else."""

    workflow: str = Field("txt2img_alpha", pattern=r"^[\w-]+$", description="name of the file in workflows/")
    profile: str = Field(
        "auto",
        pattern=r"^[\w-]+$",
        description="sdxl, a file in workflows/profiles/, or auto: sdxl if all its weights are found, else tiny",
    )
    job_timeout_s: float = Field(540.0, gt=0, le=86_400, description="maximum time from taking a job to its reply")
    start_timeout_s: float = Field(240.0, gt=0, le=86_400, description="maximum time for ComfyUI to start")
    reply_limit_bytes: int = Field(9_500_000, gt=0, description="maximum size of a reply; RunPod takes 10 MB on /run")
    reply_fields: Literal["all", "image_base64", "url"] = Field(
        "all", description="all: the picture in image_base64, url and image_url; otherwise only in the named field"
    )
    warm_up: Literal["auto", "full", "fast", "off"] = Field(
        "auto",
        description="before the first job: full draws a whole picture that must be transparent, fast one step; "
        "auto: full on a GPU, fast on a CPU",
    )
    vram: Literal["auto", "full", "dynamic"] = Field(
        "auto",
        description="full: everything stays on the GPU; dynamic: weights are moved to it; auto: full from 20 GB on",
    )
    attention: Literal["auto", "xformers", "pytorch"] = Field(
        "auto", description="auto: xformers, or PyTorch's attention if xformers does not work on the GPU"
    )
    alpha_check: Literal["fail", "retry", "accept"] = Field(
        "fail",
        description="an opaque or empty picture: fail the job, retry once if the request has no seed, or accept it",
    )
    embed_workflow: bool = Field(
        False,
        description="write the graph, with the prompt and all other values, into each picture, for ComfyUI's GUI",
    )
    fetch_images: bool = Field(
        False, description="whether a request may name an input picture by https URL, which the worker then fetches"
    )
    comfyui_args: str = Field("", description="additional command line arguments for ComfyUI")
    log_format: Literal["text", "json"] = Field("text", description="json: one JSON object a line, also for tracebacks")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="minimum level that is logged")

    @field_validator("warm_up", mode="before")
    @classmethod
    def _was_a_switch(cls, value: Any) -> Any:
        return SWITCH.get(str(value).lower(), value)

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("comfyui_args")
    @classmethod
    def _splits_into_arguments(cls, value: str) -> str:
        shlex.split(value)  # raises ValueError if a quotation is not closed
        return value


class InstallationSettings(_FromEnvironment):
    """The device, and folders on this machine; the defaults fit the Docker image, too."""

    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto: gpu if there is one; without one, only the profile tiny uses the CPU"
    )
    comfyui_dir: Path = Field(ROOT / ".comfyui", description="folder that scripts/setup installed ComfyUI in")
    workflows_dir: Path = Field(ROOT / "workflows", description="folder of the stored workflows")


class WeightSettings(_FromEnvironment):
    """Where weight files are, and where they can be downloaded."""

    models_dir: Path = Field(ROOT / "models", description="ComfyUI's models folder")
    weights_dirs: str = Field(
        "/runpod-volume/models",
        description="folders, separated by colons, that are searched for weights missing from the models folder",
    )
    hf_cache_dir: Path = Field(
        Path("/runpod-volume/huggingface-cache/hub"),
        description="Hugging Face cache that is searched for weights after these folders",
    )
    models_file: Path = Field(ROOT / "models.txt", description="list of the weight files that can be downloaded")
    hf_endpoint: AnyHttpUrl = Field(
        AnyHttpUrl("https://huggingface.co"), description="mirror of the Hugging Face hub to download weights from"
    )
    hf_token: SecretStr | None = Field(None, description="Hugging Face token; sent only to https://huggingface.co")

    @field_validator("hf_token")
    @classmethod
    def _fits_into_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("must be ASCII without blanks")
        return value


class BucketSettings(_FromEnvironment):
    """The S3 bucket that pictures are uploaded to."""

    bucket_endpoint_url: AnyHttpUrl | None = Field(None, description="URL of S3 or a compatible service")
    bucket_access_key_id: str | None = Field(None, min_length=1, description="the bucket's access key")
    bucket_secret_access_key: SecretStr | None = Field(None, min_length=1, description="the bucket's secret key")
    bucket_name: str | None = Field(
        None, pattern=BUCKET_NAME, description="pictures are uploaded to it, and replies carry their URL"
    )
    bucket_region: str | None = Field(
        None, pattern=r"^[\w-]+$", description="region that requests are signed for; by default as the service says"
    )
    bucket_prefix: str = Field(
        "", pattern=BUCKET_PREFIX, max_length=500, description="folder for pictures; {date} in it is the day in UTC"
    )
    bucket_public_url: AnyHttpUrl | None = Field(
        None, description="public URL of the bucket; without it, URLs are signed"
    )
    bucket_url_lifetime_s: int = Field(604_800, gt=0, le=604_800, description="how long a signed URL works")
    bucket_allowed_endpoints: str = Field(
        "", description="URLs, separated by commas, that a job's s3Config may name; if empty, none"
    )

    def allowed_endpoints(self) -> list[AnyHttpUrl]:
        """Returns the URLs of BUCKET_ALLOWED_ENDPOINTS.

        Raises:
            ValidationError: an entry is not a URL (validation already rejects it).
        """
        return [AnyHttpUrl(part.strip()) for part in self.bucket_allowed_endpoints.split(",") if part.strip()]

    @model_validator(mode="after")
    def _endpoints_are_urls(self) -> Self:
        try:
            self.allowed_endpoints()
        except ValidationError as exc:
            raise ValueError("BUCKET_ALLOWED_ENDPOINTS must be http or https URLs, separated by commas") from exc
        return self

    @model_validator(mode="after")
    def _bucket_is_complete(self) -> Self:
        needed = ("bucket_endpoint_url", "bucket_access_key_id", "bucket_secret_access_key", "bucket_name")
        missing = [name.upper() for name in needed if getattr(self, name) is None]
        if missing and len(missing) < len(needed):
            raise ValueError(f"{', '.join(missing)} missing: a bucket needs all four settings, or none of them")
        return self


class ServerSettings(_FromEnvironment):
    """The HTTP server."""

    listen_host: str = Field("127.0.0.1", min_length=1, description="address that the HTTP server listens on")
    port: int = Field(8000, ge=0, le=65_535, description="port that the HTTP server listens on; 0: any free one")
    api_keys: SecretStr | None = Field(None, description="API keys, separated by commas; a request must have one")
    allow_without_keys: bool = Field(False, description="listen on addresses other than loopback without API_KEYS")
    public_url: AnyHttpUrl | None = Field(
        None, description="the server's URL in replies, if callers reach it under another address"
    )
    picture_url_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="signs picture URLs if there are API_KEYS; by default one kept in DATA_DIR",
    )
    webhook_secret: SecretStr | None = Field(
        None, description="signs webhooks: whsec_ and 24 to 64 bytes in base64; by default one kept in DATA_DIR"
    )
    cors_origins: str = Field(
        "", description="origins of web pages elsewhere that may use the server, separated by commas"
    )
    data_dir: Path = Field(ROOT / ".data", description="folder of the HTTP server's jobs and pictures")
    queue_limit: int = Field(100, gt=0, le=100_000, description="maximum number of queued jobs")
    results_keep_s: float = Field(1800.0, gt=0, description="how long a result of /run is kept; of /runsync a minute")
    results_limit_bytes: int = Field(
        50_000_000, gt=0, description="maximum total size of stored results (pictures are counted separately)"
    )
    pictures_keep_s: float = Field(86_400.0, gt=0, description="how long a picture is kept")
    pictures_limit_bytes: int = Field(2_000_000_000, gt=0, description="maximum total size of stored pictures")

    def keys(self) -> list[str]:
        """Returns the keys of API_KEYS."""
        text = self.api_keys.get_secret_value() if self.api_keys is not None else ""
        return [key.strip() for key in text.split(",") if key.strip()]

    def origins(self) -> list[str]:
        """Returns the origins of CORS_ORIGINS, as browsers write them."""
        return [part.strip().lower() for part in self.cors_origins.split(",") if part.strip()]

    @field_validator("webhook_secret")
    @classmethod
    def _is_a_webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            prefix, _, text = value.get_secret_value().partition("_")
            try:
                key = base64.b64decode(text, validate=True)
            except ValueError:
                key = b""
            if f"{prefix}_" != WEBHOOK_SECRET_PREFIX or not 24 <= len(key) <= 64:
                raise ValueError("must be whsec_ and 24 to 64 bytes in base64")
        return value

    @model_validator(mode="after")
    def _origins_are_origins(self) -> Self:
        if not all(re.fullmatch(r"https?://[^/\s@?#]+", origin) for origin in self.origins()):
            raise ValueError("CORS_ORIGINS must be origins such as https://app.example, separated by commas")
        return self


# pydantic collects the fields of the last base first.
class Settings(ServerSettings, BucketSettings, WeightSettings, InstallationSettings, WorkerSettings):
    """All settings; every default works after `scripts/setup`."""
