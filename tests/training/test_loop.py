import math

import pytest
import torch
from torch import nn

from training.loop import Settings, Stage, load_average, save_start


class StoppedError(Exception):
    pass


def train(folder, steps=60, stop_at=None):
    """Trains a layer to be twice its input; raises StoppedError before step `stop_at`."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    seen = []

    def loss(rng):
        if len(seen) == stop_at:
            raise StoppedError
        inputs = torch.from_numpy(rng.standard_normal((8, 3)).astype("float32"))
        seen.append(inputs)
        noise = torch.randn(8, 3)
        return {"error": (layer(inputs) - 2 * inputs + 0.01 * noise).square().mean()}

    stage = Stage("twice", folder, {"layer": layer}, Settings(steps=steps, learning_rate=0.05, average=0.9), loss, 1)
    stage.run()
    return layer


@pytest.fixture(autouse=True)
def saves_each_step(monkeypatch):
    monkeypatch.setattr("training.loop.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("training.loop.LOG_EVERY", 10)
    monkeypatch.setattr("training.loop.WARM_UP", 10)


def test_a_stage_learns(tmp_path):
    """The loss falls, and is in the log with the step and the seconds."""
    train(tmp_path)
    rows = (tmp_path / "twice.csv").read_text().splitlines()
    assert rows[0] == "step,seconds,error"
    assert len(rows) == 7
    assert float(rows[-1].split(",")[2]) < 0.5 * float(rows[1].split(",")[2])


def test_an_interrupted_stage_resumes_exactly(tmp_path):
    """A training that is interrupted after 25 steps and resumed ends with the same weights as one that is not."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    whole = train(unbroken)
    with pytest.raises(StoppedError):
        train(broken, stop_at=25)
    resumed = train(broken)
    for expected, got in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, got)


def test_a_stage_passes_on_its_average(tmp_path):
    """load_average loads the weights that run left in the modules."""
    trained = train(tmp_path)
    fresh = nn.Linear(3, 3)
    load_average(tmp_path / "twice.pt", {"layer": fresh})
    assert torch.equal(fresh.weight, trained.weight)


def test_a_stage_starts_from_the_weights_of_its_start_file(tmp_path):
    """Without a state it begins at those weights at step 0; once it has a state, it continues from that."""
    start = nn.Linear(3, 3)
    with torch.no_grad():
        start.weight.copy_(2 * torch.eye(3))
        start.bias.zero_()
    save_start(tmp_path / "twice.pt", {"layer": start})
    train(tmp_path)
    first = (tmp_path / "twice.csv").read_text().splitlines()[1]
    assert first.startswith("10,")
    assert float(first.split(",")[2]) < 0.01
    trained = nn.Linear(3, 3)
    load_average(tmp_path / "twice.pt", {"layer": trained})
    assert not torch.equal(trained.weight, start.weight)


def test_the_number_of_steps_may_change_before_the_rate_falls(tmp_path):
    """Stopped at half of the steps and continued with fewer, a training ends like one that always had that number."""
    short, changed = tmp_path / "short", tmp_path / "changed"
    short.mkdir()
    changed.mkdir()
    expected = train(short, steps=60)
    with pytest.raises(StoppedError):
        train(changed, steps=100, stop_at=35)
    got = train(changed, steps=60)
    for a, b in zip(expected.parameters(), got.parameters(), strict=True):
        assert torch.equal(a, b)


def test_some_modules_of_a_stage_can_be_loaded(tmp_path):
    """load_average takes the named modules and leaves the rest of the state alone."""
    first, second = nn.Linear(2, 2), nn.Linear(3, 3)
    save_start(tmp_path / "both.pt", {"first": first, "second": second})
    fresh = nn.Linear(2, 2)
    load_average(tmp_path / "both.pt", {"first": fresh})
    assert torch.equal(fresh.weight, first.weight)


def test_a_missing_stage_is_named(tmp_path):
    """If a stage needs another, the error names the one that must run first."""
    with pytest.raises(FileNotFoundError, match=r"unet\.pt is missing: run stage unet first, or use --from-models"):
        load_average(tmp_path / "unet.pt", {"layer": nn.Linear(3, 3)})


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path):
    """A loss that is not finite is an error at its step, and the earlier state is kept."""
    layer = nn.Linear(1, 1)
    settings = Settings(steps=3, learning_rate=0.1)
    stage = Stage("bad", tmp_path, {"layer": layer}, settings, lambda _: {"error": layer.weight.sum() * math.nan}, 1)
    with pytest.raises(FloatingPointError, match="bad: the loss of step 0 is nan"):
        stage.run()
    assert not list(tmp_path.iterdir())
