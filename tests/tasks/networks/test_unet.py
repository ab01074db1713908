"""The U-Net: shapes, what a fresh one gives, true gradients, and that every input and weight counts."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tasks.networks.build import build_backbone
from tasks.networks.unet import ResidualBlock, SelfAttention, UNet, group_count, largest_divisor, stream_convolution
from tasks.specs import NetworkSpec

DIM = (2, 4, 8)


def spec(**changes: int | float | tuple[int, ...]) -> NetworkSpec:
    values = {"channels": 4, "multipliers": (1, 2), "blocks": 1, "attention": (4,)} | changes
    return NetworkSpec(kind="unet", **values)  # type: ignore[arg-type]


def loud(module: nn.Module) -> nn.Module:
    """Give every parameter a value that counts; fresh zeros would prove little."""
    rng = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=rng)
    return module


def network(dim: tuple[int, ...] = DIM, *, two_times: bool = True, classes: int = 3) -> nn.Module:
    """A U-Net in float64 whose every weight counts."""
    return loud(build_backbone(spec(), dim, seed=0, two_times=two_times, classes=classes).double())


def states(rows: int, *dim: int) -> Tensor:
    return torch.randn(rows, *dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("dim", "sizes"),
    [
        ((1, 28, 28), spec(channels=6, multipliers=(1, 2, 2), attention=(7, 14))),
        ((3, 8, 8), spec(channels=8, multipliers=(2, 1, 3, 1), blocks=2, attention=(1, 2))),
        ((2, 4, 8), spec(channels=5, attention=(8, 4))),
        ((1, 7, 7), spec(multipliers=(3,), attention=())),
        ((4, 2, 2), spec(attention=(1,))),
    ],
)
def test_the_output_has_shape_and_type_of_the_state(
    dim: tuple[int, ...], sizes: NetworkSpec, dtype: torch.dtype
) -> None:
    net = build_backbone(sizes, dim, seed=0, two_times=True, classes=2).to(dtype).requires_grad_(False)
    x, t = states(3, *dim).to(dtype), torch.linspace(0, 1, 3, dtype=dtype)
    for output in (net(x, t), net(x, t[0], t[1]), net(x, t, t, torch.tensor([0, -1, 1]))):
        assert output.shape == x.shape
        assert output.dtype == dtype


def test_the_levels_have_the_channels_and_sides_that_were_asked_for() -> None:
    net = UNet((1, 16, 16), spec(channels=4, multipliers=(1, 3, 2), blocks=2, attention=(8,)))
    seen: list[tuple[int, int, bool]] = []
    for block in net.modules():
        if isinstance(block, ResidualBlock):
            block.register_forward_hook(
                lambda block, _, out: seen.append((out.shape[1], out.shape[2], block.attention is not None))
            )
    net(torch.zeros(1, 1, 16, 16), torch.tensor(0.5))
    down = [(4, 16, False)] * 2 + [(12, 8, True)] * 2 + [(8, 4, False)] * 2
    assert seen == down + [(8, 4, False)] * 2 + down[::-1]


def test_a_fresh_network_gives_zeros_and_its_blocks_change_nothing() -> None:
    """So that training starts at the linear denoiser, the best one for a Gaussian."""
    net = build_backbone(spec(), DIM, seed=0, two_times=True, classes=2)
    assert not net(torch.ones(4, *DIM), torch.tensor(0.3), torch.tensor(0.8)).any()
    block = ResidualBlock(8, embedded=6, dropout=0.0, has_attention=True)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x, torch.randn(2, 6)), x)


def test_what_a_skip_adds_keeps_the_scale() -> None:
    """While blocks change nothing, the way up sees the same state twice, and (h + h)/sqrt(2) has sqrt(2) its size."""
    net = UNet((1, 4, 4), spec(multipliers=(1,), attention=()))
    seen: list[Tensor] = []
    for block in net.modules():
        if isinstance(block, ResidualBlock):
            block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(torch.ones(1, 1, 4, 4), torch.tensor(0.5))
    torch.testing.assert_close(seen[-1], seen[0] * 2**0.5)


def test_state_times_and_label_count() -> None:
    net, x = network(), states(4, *DIM)
    t, s, label = torch.tensor(0.3), torch.tensor(0.8), torch.tensor([0, 1, 2, 0])
    others = net(x + 0.1, t, s, label), net(x, t + 0.1, s, label), net(x, t, s + 0.1, label), net(x, t, s, label - 1)
    for other in others:
        assert (net(x, t, s, label) - other).flatten(1).abs().amax(1).min().item() > 1e-3


def test_every_block_is_told_the_sum_of_times_and_label_through_a_bend() -> None:
    """Without the bend the effect of a label on a scale could not depend on the time."""
    net = network()
    assert isinstance(net, UNet)
    assert net.second_time is not None
    assert net.labels is not None
    seen: list[Tensor] = []
    for block in net.modules():
        if isinstance(block, ResidualBlock):
            block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    t, s, label = torch.tensor([0.3, 0.4]), torch.tensor([0.8, 0.9]), torch.tensor([2, -1])
    net(states(2, *DIM), t, s, label)
    expected = nn.functional.silu(net.time(t) + net.second_time(s) + net.labels(label))
    assert len(seen) == 6
    assert all(torch.equal(told, expected) for told in seen)


def test_the_two_times_are_told_apart() -> None:
    net, x = network(), states(4, *DIM)
    t, s = torch.tensor(0.3), torch.tensor(0.8)
    assert (net(x, t, s) - net(x, s, t)).abs().max().item() > 1e-3


def test_every_pixel_reaches_every_pixel() -> None:
    """Through the coarse level and its attention; the fine level alone sees a few pixels around."""
    net = network((1, 8, 8), two_times=False, classes=0)
    x = states(1, 1, 8, 8).requires_grad_()
    for corner in (net(x, torch.tensor(0.5))[0, 0, 0, 0], net(x, torch.tensor(0.5))[0, 0, -1, -1]):
        (gradient,) = torch.autograd.grad(corner, x)
        assert gradient.abs().min().item() > 0


def test_one_time_for_all_rows_is_that_time_for_each_row_and_no_label_is_minus_one() -> None:
    net, x = network(), states(4, *DIM)
    t, s = torch.tensor(0.3).double(), torch.tensor(0.8).double()
    expected = net(x, t, s)
    none = torch.full((4,), -1)
    for other in (net(x, t.expand(4), s.expand(4)), net(x, t, s, none), net(x, t.expand(4), s, none)):
        torch.testing.assert_close(other, expected, rtol=1e-12, atol=1e-12)


def test_rows_do_not_see_each_other() -> None:
    net, x, t = network(), states(4, *DIM), torch.linspace(0, 1, 4).double()
    label = torch.tensor([0, -1, 2, 1])
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(net(x, t, t, label), alone, rtol=1e-11, atol=1e-11)


def test_gradients_are_those_of_finite_differences() -> None:
    net = network((1, 4, 4)).requires_grad_(False)
    x, label = states(2, 1, 4, 4).requires_grad_(), torch.tensor([1, -1])
    t, s = (torch.tensor(times).double().requires_grad_() for times in ([0.2, 0.7], [0.3, 0.9]))
    assert torch.autograd.gradcheck(lambda x, t, s: net(x, t, s, label), (x, t, s))


def test_the_slope_along_each_weight_is_that_of_finite_differences() -> None:
    net, h = network((1, 4, 4)), 1e-5
    x, t, s, label = states(2, 1, 4, 4), torch.tensor(0.2).double(), torch.tensor(0.7).double(), torch.tensor([1, -1])
    net(x, t, s, label).square().sum().backward()
    rng = torch.Generator().manual_seed(3)
    for name, weight in net.named_parameters():
        ahead = torch.randn(weight.shape, dtype=torch.float64, generator=rng)
        ends = []
        for sign in (1, -1):
            moved = dict(net.named_parameters()) | {name: weight + sign * h * ahead}
            ends.append(functional_call(net, moved, (x, t, s, label)).square().sum().item())
        assert weight.grad is not None
        # rounding: the output's 1e-13 over h
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx((weight.grad * ahead).sum().item(), rel=1e-5, abs=1e-6), (
            name
        )


def test_a_few_steps_after_zero_a_gradient_reaches_every_weight() -> None:
    """Zeros at the ends of branches open one after the other: output, blocks, the second time."""
    net = build_backbone(spec(), DIM, seed=0, two_times=True, classes=3)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(1)
    label = torch.tensor([0, 1, 2, -1])
    for _ in range(4):
        x, t, s = torch.randn(4, *DIM, generator=rng), torch.rand(4, generator=rng), torch.rand(4, generator=rng)
        optimiser.zero_grad()
        (net(x, t, s, label) - x.flip(3)).square().mean().backward()
        optimiser.step()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_it_learns_a_map_that_depends_on_time_and_label() -> None:
    net = build_backbone(spec(channels=8), (1, 4, 4), seed=0, two_times=False, classes=2)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    rng, losses = torch.Generator().manual_seed(1), []
    for _ in range(80):
        x, t = torch.randn(32, 1, 4, 4, generator=rng), torch.rand(32, generator=rng)
        label = torch.randint(0, 2, (32,), generator=rng)
        target = (2 * label - 1).reshape(-1, 1, 1, 1) * t.reshape(-1, 1, 1, 1) * x
        loss = (net(x, t, None, label) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # zero, the start, has loss E t^2 = 1/3; without the label nothing better exists
    assert losses[0] == pytest.approx(1 / 3, abs=0.1)
    assert sum(losses[-20:]) / 20 < 0.1


def test_dropout_hides_features_while_training_only() -> None:
    net = loud(build_backbone(spec(dropout=0.5), DIM, seed=0, two_times=False))
    x, t = states(4, *DIM).float(), torch.tensor(0.5)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


def test_a_residual_block_is_its_formula() -> None:
    block = loud(ResidualBlock(8, embedded=6, dropout=0.0, has_attention=False).double())
    assert isinstance(block, ResidualBlock)
    x, embedded = states(3, 8, 4, 4), states(3, 6)
    scale, shift = block.modulation(embedded).reshape(3, 2, 8, 1, 1).unbind(1)

    def standard(h: Tensor) -> Tensor:
        groups = h.reshape(3, 2, -1)
        spread = (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return ((groups - groups.mean(2, keepdim=True)) / spread).reshape(h.shape)

    first = standard(x) * block.first_norm.weight[:, None, None] + block.first_norm.bias[:, None, None]
    second = (1 + scale) * standard(block.first(first * first.sigmoid())) + shift
    expected = x + block.second(second * second.sigmoid())
    torch.testing.assert_close(block(x, embedded), expected, rtol=1e-11, atol=1e-11)


def test_attention_is_its_formula_and_knows_no_order_of_pixels() -> None:
    attention = loud(SelfAttention(128).double())
    assert isinstance(attention, SelfAttention)
    assert attention.heads == 2
    x = states(2, 128, 3, 2)
    tokens = attention.norm(x).flatten(2).transpose(1, 2)
    heads = []
    for head in range(2):
        query, key, value = (
            tokens @ attention.input.weight[i : i + 64].T + attention.input.bias[i : i + 64]
            for i in (64 * head, 128 + 64 * head, 256 + 64 * head)
        )
        heads.append(torch.softmax(query @ key.transpose(1, 2) / 8, 2) @ value)
    expected = x + attention.output(torch.cat(heads, 2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(attention(x.flip(2, 3)), attention(x).flip(2, 3), rtol=1e-10, atol=1e-10)


def test_a_stream_convolution_keeps_the_scale() -> None:
    torch.manual_seed(0)
    for stride in (1, 2):
        output = stream_convolution(64, 64, stride=stride)(torch.randn(8, 64, 16, 16))
        # variance over 64 channels of 576 weights each: about sqrt(2/(64 * 576)), and the rim sees zeros
        assert output[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.05)


def test_groups_divide_the_channels_whatever_they_are() -> None:
    assert [group_count(channels) for channels in (4, 5, 6, 32, 48, 128, 130, 256, 1024)] == [
        1,
        1,
        1,
        8,
        12,
        32,
        26,
        32,
        32,
    ]
    assert [largest_divisor(12, at_most=most) for most in (1, 5, 6, 100)] == [1, 4, 6, 12]
