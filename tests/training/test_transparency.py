import torch

from training.transparency import clipped


def test_alpha_may_exceed_its_range_on_the_right_side_only():
    """An alpha of 1.4 costs nothing if the pixel is opaque, and its full error if it is not; the same below 0."""
    found = torch.tensor([1.4, 1.4, 1.4, 0.7, -0.4, -0.4, -0.4, 0.3])
    alpha = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.0, 0.5, 1.0, 0.0])
    torch.testing.assert_close(clipped(found, alpha), torch.tensor([1.0, 1.4, 1.4, 0.7, 0.0, -0.4, -0.4, 0.3]))


def test_the_wrong_side_has_a_gradient():
    """Alpha on the wrong side of its range still moves back."""
    found = torch.tensor([1.4, 1.4, -0.4, -0.4], requires_grad=True)
    clipped(found, torch.tensor([1.0, 0.0, 0.0, 1.0])).sum().backward()
    assert found.grad.tolist() == [0, 1, 0, 1]
