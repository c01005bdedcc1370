"""The outer step is torch's SGD with Nesterov momentum, bit for bit."""

import pytest
import torch

from skerry.errors import ConfigError
from skerry.numerics.outer import OuterNesterov


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (0.8, 0.4), (1.0, 0.0), (0.3, 0.999)])
def test_equals_torch_sgd(lr, momentum):
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(10_007, generator=generator)
    buffer = torch.zeros_like(theta)
    parameter = torch.nn.Parameter(theta.clone())
    reference = torch.optim.SGD([parameter], lr=lr, momentum=momentum, nesterov=momentum > 0)
    outer = OuterNesterov(lr=lr, momentum=momentum)
    for _ in range(6):
        delta = torch.randn(theta.numel(), generator=generator)
        parameter.grad = delta.clone()
        reference.step()
        before, new_theta, new_buffer = theta.clone(), torch.full_like(theta, 7.0), torch.zeros_like(theta)
        for block in (slice(5000), slice(5000, None)):  # of a fragment, from one slot into another
            outer.step(theta[block], buffer[block], delta[block].clone(), new_theta[block], new_buffer[block])
        assert torch.equal(theta, before) and torch.equal(new_theta, parameter.data)
        outer.step(theta, buffer, delta.clone(), theta, buffer)  # in place
        assert torch.equal(theta, new_theta) and torch.equal(buffer, new_buffer)
    if momentum:
        assert torch.equal(buffer, reference.state[parameter]["momentum_buffer"])


@pytest.mark.parametrize(("lr", "momentum"), [(0.0, 0.5), (float("nan"), 0.5), (1.0, 1.0), (1.0, -0.1)])
def test_impossible_values_are_refused(lr, momentum):
    with pytest.raises(ConfigError):
        OuterNesterov(lr=lr, momentum=momentum)
