"""A plain PyTorch training loop as a learner of a Skerry run: the five lines marked + are all that was added.

    skerry syncer --run-dir runs/plain --policy.steps 2000 --policy.fragments 6 --policy.wait-for 2
    python examples/plain_pytorch.py ADDRESS runs/plain/token                     in two terminals, or more

The syncer prints its address. A run has at most as many fragments as the model has tensors; this one waits for two learners.
"""

import sys

import torch

import skerry  # +


def batch(learner: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """64 points of a function to be learned. Other points for each learner and step."""
    generator = torch.Generator().manual_seed(1_000_003 * learner + step)
    x = torch.rand(64, 2, generator=generator) * 4 - 2
    return x, torch.sin(x[:, :1] * x[:, 1:])


torch.manual_seed(0)
torch.set_num_threads(1)  # several such processes share this machine
model = torch.nn.Sequential(
    torch.nn.Linear(2, 64), torch.nn.GELU(), torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 1)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

with skerry.Learner(model, optimizer, syncer=sys.argv[1], token_file=sys.argv[2]) as learner:  # +
    while not learner.done:  # + (it was: for step in range(2000))
        x, y = batch(learner.id, learner.step)  # + (it was: batch(0, step))
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        learner.count(tokens=len(x), loss=loss.item())  # +
        optimizer.step()

print(f"learner {learner.id}: {learner.step} steps, last loss {loss.item():.4f}")
