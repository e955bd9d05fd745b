import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerdiffuse_alpha import decode, views


@pytest.mark.parametrize(("count", "rank"), [(8, 4), (4, 2), (1, 1)])
@given(data=st.data())
def test_lower_median_is_the_value_of_that_rank(count, rank, data):
    """It is the 4th smallest of eight values and the 2nd of four, like torch.median, including ties."""
    values = st.lists(st.integers(0, 3), min_size=6, max_size=6)
    tensors = [torch.tensor(data.draw(values)).float() for _ in range(count)]
    found = views.lower_median(tensors)
    assert torch.equal(found, torch.stack(tensors).sort(dim=0).values[rank - 1])
    assert torch.equal(found, torch.stack(tensors).median(dim=0).values)


@pytest.mark.parametrize("passes", views.ORIENTATIONS)
def test_orientations_differ_and_turn_back(passes):
    """All views of a picture are different, and each turns back into the picture."""
    picture = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    turned = [orientation.turn(picture) for orientation in views.ORIENTATIONS[passes]]
    assert len({tuple(view.flatten().tolist()) + tuple(view.shape) for view in turned}) == passes
    for orientation, view in zip(views.ORIENTATIONS[passes], turned, strict=True):
        assert torch.equal(orientation.turn_back(view), picture)


def shift_right(pixels, latent):
    """A decoder that is not symmetric, and records the shapes of its inputs."""
    shift_right.shapes.append(tuple(pixels.shape))
    alpha = pixels.roll(1, dims=3).mean(dim=1, keepdim=True)
    return torch.cat((alpha, pixels * 1.5), dim=1)


@pytest.mark.parametrize("passes", [8, 4, 1])
@pytest.mark.parametrize("size", [(64, 64), (64, 128)])
def test_batches_of_views_equal_single_views(passes, size):
    """For any number of views per batch, the result is equal and in [0, 1], and no batch exceeds the maximum."""
    torch.manual_seed(0)
    pixels, latent = torch.rand(2, 3, *size), torch.randn(2, 4, size[0] // 8, size[1] // 8)
    results = []
    for at_once in (1, 3, 8):
        shift_right.shapes = []
        results.append(views.decode(shift_right, pixels, latent, passes, at_once))
        assert max(shape[0] for shape in shift_right.shapes) <= 2 * at_once
        assert sum(shape[0] for shape in shift_right.shapes) == 2 * passes
    assert all(torch.equal(result, results[0]) for result in results)
    assert results[0].shape == (2, 4, *size)
    assert results[0].max() <= 1


@pytest.mark.parametrize(("size", "batches"), [((64, 64), [8]), ((64, 128), [4, 4])])
def test_eight_views_are_one_batch_where_shapes_allow(size, batches):
    """A square picture's eight views are decoded together, another's in two batches of four."""
    shift_right.shapes = []
    views.decode(shift_right, torch.rand(1, 3, *size), torch.randn(1, 4, size[0] // 8, size[1] // 8), 8, 8)
    assert [shape[0] for shape in shift_right.shapes] == batches


@pytest.mark.parametrize(
    ("size", "per_pixel", "batches"), [(64, 256, [8]), (128, 256, [8]), (192, 256, [1] * 8), (128, 512, [1] * 8)]
)
def test_a_cpu_decodes_few_activations_at_once(size, per_pixel, batches):
    """The tiny decoder (256 values per pixel) takes all views of its default size at once, the full-size one none."""
    shift_right.shapes = []
    view_bytes = size * size * per_pixel * 4
    decode._vote(shift_right, torch.rand(1, 3, size, size), torch.randn(1, 4, size // 8, size // 8), 8, view_bytes)
    assert [shape[0] for shape in shift_right.shapes] == batches
