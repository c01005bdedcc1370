"""A training process for the tests to strike: SYNCER TOKEN_FILE [fork] [hurry=FILE]. Says what happens to it on standard
output. It takes its time until the FILE exists, so that a run does not end before a test has done what it wants."""

import multiprocessing
import sys
import time
from pathlib import Path

import torch

import skerry

torch.set_num_threads(1)
model = torch.nn.Linear(30, 7)
optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
hurry = next((Path(word[6:]) for word in sys.argv if word.startswith("hurry=")), None)


def idle() -> None:
    time.sleep(60)


with skerry.Learner(model, optimizer, syncer=sys.argv[1], token_file=sys.argv[2]) as learner:
    child = None
    if "fork" in sys.argv:  # as a DataLoader's worker: it inherits every open file
        child = multiprocessing.get_context("fork").Process(target=idle, daemon=True)
        child.start()
    print("training", child.pid if child else "", flush=True)
    try:
        while not learner.done:
            model(torch.ones(2, 30)).sum().backward()
            learner.count(3)
            optimizer.step()
            time.sleep(0.002 if hurry is None or hurry.exists() else 0.04)
    finally:
        print("steps", learner.step, flush=True)
print("left", flush=True)
