import torch

from gnerf_ns.training.objective import SMALLEST_SHOWN_SIDE, ComparedImages


def test_grid_has_images_above_renderings():
    images = torch.stack([torch.full((3, 16, 24), value) for value in (0.1, 0.2)])
    rendered = torch.stack([torch.full((3, 16, 24), value) for value in (0.8, 1.7)])
    grid = ComparedImages("title", images, rendered).grid()
    # 24 pixels become 72, the first whole multiple of at least 64; 2 pixels of frame around each image.
    assert grid.shape == (2 * 48 + 6, 2 * 72 + 6, 3)
    middles = grid[[26, 76]][:, [38, 112], 0]
    torch.testing.assert_close(middles, torch.tensor([[0.1, 0.2], [0.8, 1.0]]))


def test_large_images_keep_their_size():
    side = SMALLEST_SHOWN_SIDE + 1
    images = torch.rand(1, 3, side, side)
    grid = ComparedImages("title", images, images).grid()
    torch.testing.assert_close(grid[2 : 2 + side, 2:-2], images[0].permute(1, 2, 0))


def test_half_precision_and_gradients_do_no_harm():
    rendered = torch.rand(2, 3, 16, 16, requires_grad=True)
    grid = ComparedImages("title", torch.rand(2, 3, 16, 16).half(), rendered).grid()
    assert grid.dtype == torch.float32 and not grid.requires_grad
