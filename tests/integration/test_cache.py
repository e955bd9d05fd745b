"""What ComfyUI keeps from one job to the next."""

from handler.deadline import Deadline

LOADED_ONCE = {"Checkpoint", "Transparency Patch"}


def test_the_checkpoint_stays_loaded_on_a_host_that_is_short_of_memory(comfyui, generator, small, planned_fault):
    """ComfyUI's default cache drops even the current graph's checkpoint then, and loads it in every job."""
    comfyui.client(Deadline(120)).free()
    planned_fault(little_memory=True)
    jobs = [
        generator.generate(generator.parse({**small, "seed": seed}), Deadline(120)).info["seconds"].keys()
        for seed in range(4)
    ]
    assert jobs[0] >= LOADED_ONCE
    assert [stages & LOADED_ONCE for stages in jobs[1:]] == [set()] * 3
