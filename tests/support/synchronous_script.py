"""One learner of test_synchronous.py: SYNCER TOKEN_FILE ID. Says that it is in, and waits for a line before its first step.
Also holds what the test writes out plainly itself."""

import sys

import torch

import skerry


def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The model and its inner optimizer, the same for everybody at first."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    return model, torch.optim.AdamW(model.parameters(), lr=0.03)


def inner_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, learner: int, step: int) -> None:
    """One step on the batch that is a function of learner and step."""
    generator = torch.Generator().manual_seed(1000 * learner + step)
    ids, goal = torch.randint(11, (8,), generator=generator), torch.randn(8, 3, generator=generator)
    optimizer.zero_grad()
    (model(ids) - goal).square().mean().backward()
    optimizer.step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    mine, inner = make()
    with skerry.Learner(mine, inner, syncer=sys.argv[1], token_file=sys.argv[2], learner=int(sys.argv[3])) as learner:
        print("in", flush=True)
        sys.stdin.readline()
        while not learner.done:
            learner.count(8)
            inner_step(mine, inner, learner.id, learner.step)
