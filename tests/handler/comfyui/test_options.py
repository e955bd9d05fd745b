import subprocess
import sys

import psutil
import pytest

from handler.comfyui.gpu import Gpu
from handler.comfyui.machine import memory_bytes, usable_cpus
from handler.comfyui.options import CPU_ENVIRONMENT, Machine, choose
from handler.settings import Settings

CARD = Gpu("NVIDIA GeForce RTX 4090", 25_757_220_864, "570.124.06", (12, 8), (8, 9))


def card(**facts):
    return Gpu(**{**vars(CARD), **facts})


def options(*gpus, on_cpu=False, cpus=8, has_xformers=True, failure="", **settings):
    machine = Machine(gpus or (CARD,), cpus, has_xformers)
    return choose(Settings(comfyui_dir="/nowhere", **settings), machine, on_cpu, failure)


def test_on_a_24_gb_card_everything_stays_on_the_gpu():
    """The defaults on the usual card: the plain ModelPatcher, one graph's cache, xformers."""
    chosen = options()
    assert chosen.arguments == ("--gpu-only", "--cache-classic")
    assert chosen.attention == "xformers"
    assert chosen.reasons == {
        "vram": "full: the GPU has 25.8 GB, and full needs 20",
        "cache": "classic: one graph",
        "attention": "xformers: installed",
        "threads": "8",
    }


@pytest.mark.parametrize(
    ("memory_bytes", "flags", "reason"),
    [
        (24_146_608_128, ("--gpu-only",), "full: the GPU has 24.1 GB"),  # L4
        (21_464_350_720, ("--gpu-only",), "full: the GPU has 21.5 GB"),  # RTX A4500
        (17_170_956_288, (), "dynamic: the GPU has 17.2 GB"),  # RTX A4000
        (0, (), "dynamic: the driver does not say"),  # a MIG partition
    ],
)
def test_auto_keeps_everything_on_the_gpu_if_there_is_room(memory_bytes, flags, reason):
    """From 20 GB on; the reason names the size."""
    chosen = options(card(memory_bytes=memory_bytes))
    assert chosen.arguments == (*flags, "--cache-classic")
    assert chosen.reasons["vram"].startswith(reason)


def test_of_several_cards_the_smallest_decides():
    """ComfyUI may run on any of them."""
    assert "--gpu-only" not in options(CARD, card(memory_bytes=8_000_000_000)).arguments


@pytest.mark.parametrize(("vram", "flags"), [("full", ("--gpu-only",)), ("dynamic", ())])
def test_vram_overrides_the_choice(vram, flags):
    """VRAM decides, regardless of the card's memory."""
    for size_bytes in (8_000_000_000, 80_000_000_000):
        chosen = options(card(memory_bytes=size_bytes), vram=vram)
        assert chosen.arguments == (*flags, "--cache-classic")
        assert chosen.reasons["vram"] == f"{vram}: set by VRAM"


def test_on_the_cpu_there_is_nothing_to_choose():
    """--cpu and the measured environment; VRAM, ATTENTION and xformers are for GPUs."""
    chosen = options(on_cpu=True, vram="full", attention="pytorch")
    assert chosen.arguments == ("--cpu", "--cache-classic", "--disable-xformers")
    assert chosen.environment == CPU_ENVIRONMENT
    assert chosen.attention is None
    assert "--disable-xformers" not in options(on_cpu=True, comfyui_args="--use-split-cross-attention").arguments


def test_threads_follow_the_quota():
    """PyTorch would start one thread for each of the host's CPUs."""
    assert options(cpus=2).environment == {"OMP_NUM_THREADS": "2"}


@pytest.mark.parametrize(
    ("settings", "flags", "reason"),
    [
        ({"attention": "xformers"}, (), "xformers: set by ATTENTION"),
        ({"attention": "xformers", "failure": "NaN"}, (), "xformers: set by ATTENTION"),
        ({"attention": "pytorch"}, ("--use-pytorch-cross-attention", "--disable-xformers"), "pytorch: set by"),
        ({"failure": "NaN"}, ("--use-pytorch-cross-attention", "--disable-xformers"), "pytorch: the warm-up failed"),
        ({"has_xformers": False}, (), "ComfyUI's own: xformers is not installed"),
    ],
)
def test_attention_is_xformers_unless_something_speaks_against_it(settings, flags, reason):
    """ATTENTION, a missing xformers or a failed warm-up decide."""
    chosen = options(**settings)
    assert chosen.arguments == ("--gpu-only", "--cache-classic", *flags)
    assert chosen.reasons["attention"].startswith(reason)


@pytest.mark.parametrize(
    ("capability", "attention"), [((7, 5), "xformers"), ((9, 0), "xformers"), ((12, 0), "pytorch")]
)
def test_newer_gpus_than_xformers_knows_get_pytorchs_attention(capability, attention):
    """xformers has no CUTLASS kernels for Blackwell."""
    assert options(card(compute_capability=capability)).attention == attention


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        ("--lowvram", "--gpu-only"),
        ("--cache-lru 5", "--cache-classic"),
        ("--cache-lru=5", "--cache-classic"),
        ("--use-quad-cross-attention", "--use-pytorch-cross-attention"),
    ],
)
def test_comfyui_args_win(arguments, left_out):
    """ComfyUI refuses two flags of one group; the user's one counts."""
    chosen = options(comfyui_args=arguments, failure="NaN")
    assert left_out not in chosen.arguments
    assert "set by COMFYUI_ARGS" in chosen.reasons.values()


@pytest.mark.parametrize(
    "settings", [{}, {"on_cpu": True}, {"vram": "dynamic", "failure": "NaN"}, {"on_cpu": True, "comfyui_args": "--cpu"}]
)
def test_comfyui_knows_the_flags(settings):
    """ComfyUI's own parser takes every combination that is chosen."""
    app = Settings().comfyui_dir / "app"
    chosen = options(**settings)
    code = "import comfy.options; comfy.options.enable_args_parsing(); import comfy.cli_args"
    arguments = [*chosen.arguments, *settings.get("comfyui_args", "").split()]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=app, check=True)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, 64),
        ({"cpu.max": "nonsense"}, 64),
        ({}, 64),
    ],
)
def test_cpus_are_those_of_the_quota(monkeypatch, tmp_path, files, cpus):
    """cgroup version 2, version 1, no limit, no cgroups."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert usable_cpus(tmp_path) == cpus


def test_cpus_are_those_of_the_affinity(monkeypatch, tmp_path):
    """`docker run --cpuset-cpus` limits the affinity; a larger quota does not add CPUs."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5})
    (tmp_path / "cpu.max").write_text("800000 100000\n")
    assert usable_cpus(tmp_path) == 2


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "8000\n"}, 8000),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "8000\n"}, 8000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_memory_is_the_containers_or_the_machines(tmp_path, files, limit):
    """cgroup version 2 and 1, each with a limit and without, and no cgroups."""
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert memory_bytes(tmp_path) == (limit or psutil.virtual_memory().total)
