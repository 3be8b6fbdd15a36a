"""Inputs that several tests of metrics share."""

import torch


def random_case(samples=500, classes=7, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(0, max(classes - 1, 1), (samples,), generator=generator)  # the last class is absent


def drawn_case(samples, classes=10, seed=0, temperature=1.0):
    """Targets drawn from the softmax of the logits over a temperature: calibrated at 1, overconfident above."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(samples, classes, generator=generator)
    probs = (logits / temperature).softmax(1)
    return logits, torch.multinomial(probs, 1, generator=generator).squeeze(1)


def compute(metric, logits, target):
    metric.update(logits, target)
    return {name: float(value) for name, value in metric.compute().items()}
