"""Temperature scaling: one number, fitted on data that is neither trained nor tested on."""

import torch
import torch.nn.functional as F
from torch import Tensor


class TemperatureScaling:
    """Divides logits by one temperature (Guo et al. 2017), fitted by LBFGS on the NLL in float64."""

    temperature: Tensor  # [] float64

    def fit(self, logits: Tensor, targets: Tensor) -> "TemperatureScaling":
        """Fit the temperature; return self.

        Args:
            logits: Logits `[N, K]`.
            targets: Class indices `[N]`.
        """
        logits = logits.double()
        log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_scale], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(logits * log_scale.exp(), targets)
            loss.backward()
            return loss

        optimizer.step(closure)
        self.temperature = (-log_scale.detach()).exp()
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits over temperature, float64 `[N, K]`."""
        return logits.double() / self.temperature
