import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from brainuad.models.attention import causal, room


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 80), st.integers(1, 20)),
    seed=st.integers(0, 99),
)
def test_zeros_behind_the_channels_change_nothing(shape, seed):
    """Values and gradients are those of torch's attention on the channels alone."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]
    found, expected = causal(*parts), F.scaled_dot_product_attention(*parts, is_causal=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    weights = torch.randn(shape, generator=generator)
    own, theirs = (torch.autograd.grad((output * weights).sum(), parts) for output in (found, expected))
    torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)


def test_heads_are_filled_up_where_it_is_faster():
    assert [room(channels, torch.device("cpu")) for channels in (1, 8, 16, 17)] == [15, 8, 0, 15]
    assert room(8, torch.device("cuda")) == 0
