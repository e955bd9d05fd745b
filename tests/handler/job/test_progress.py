"""How far a job is, from what the real ComfyUI sent (tests/handler/comfyui/transcripts)."""

import itertools
from types import SimpleNamespace

import pytest
from recorded_runs import recorded_run

from handler.deadline import Deadline
from handler.job.drawing import Drawing, PlannedPicture
from handler.job.progress import Stage
from handler.job.seeds import Draw
from handler.workflow.parameters import Request

SAMPLER, DECODER = "6", "7"  # in the transcripts


def drawing_of(seen, image=1, number=None, samplers=frozenset({SAMPLER})):
    workflow = SimpleNamespace(samplers=samplers)
    return Drawing(PlannedPicture(workflow, Request({}, number), Draw({}, None), image), Deadline(60), seen.append)


def replay(drawing, name):
    for run in recorded_run(name):
        drawing.follow(run)


def test_the_stages_of_a_recorded_run():
    """In their order, and no step twice; the last one stays until the end of the picture."""
    seen = []
    drawing = drawing_of(seen)
    drawing.begin(Stage.LOADING)
    replay(drawing, "success")
    stages = [stage for stage, _ in itertools.groupby(progress.stage for progress in seen)]
    assert stages == [Stage.LOADING, Stage.SAMPLING, Stage.DECODING, Stage.ENCODING]
    sampled = [progress.step for progress in seen if progress.stage is Stage.SAMPLING]
    assert sampled == sorted(set(sampled))  # ComfyUI itself leaves some out
    assert seen[-1].step == seen[-1].steps > 1
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("image", "number", "samplers", "first"),
    [
        (1, None, {SAMPLER}, Stage.DECODING),
        (1, 2, {SAMPLER}, None),  # another picture follows
        (2, 2, {SAMPLER}, Stage.DECODING),
        (1, None, {SAMPLER, DECODER}, Stage.DECODING),  # "8" decodes, after a second sampler
        (1, None, {SAMPLER, "other"}, Stage.ENCODING),  # did not run
    ],
)
def test_a_job_is_nearly_done_after_its_last_sampler(image, number, samplers, first):
    """When the next job may be taken: from then on until the end."""
    seen = []
    drawing = drawing_of(seen, image, number, frozenset(samplers))
    drawing.begin(Stage.LOADING)
    replay(drawing, "success")
    nearly = [progress.stage for progress in seen if progress.is_nearly_done]
    assert nearly == ([] if first is None else [*Stage][[*Stage].index(first) : -1])


@pytest.mark.parametrize("name", ["cached", "node_error", "interrupted"])
def test_other_runs_have_no_stage_twice(name):
    """A run from the cache has no steps; a failed one ends early."""
    seen = []
    drawing = drawing_of(seen)
    drawing.begin(Stage.LOADING)
    replay(drawing, name)
    stages = [stage for stage, _ in itertools.groupby(progress.stage for progress in seen)]
    assert stages == sorted(set(stages), key=list(Stage).index)


def test_another_attempt_begins_without_steps():
    """As after a crash of ComfyUI; which picture it is stays."""
    seen = []
    drawing = drawing_of(seen, image=2, number=3)
    replay(drawing, "success")
    drawing.begin(Stage.STARTING)
    assert (seen[-1].stage, seen[-1].step, seen[-1].image, seen[-1].images) == (Stage.STARTING, 0, 2, 3)
