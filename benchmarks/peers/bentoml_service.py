"""The models behind BentoML, one worker."""

# No `from __future__ import annotations` here: BentoML reads the annotations.
import bentoml
import numpy as np
from sessions import NAMES, open_session


@bentoml.service(workers=1)
class Models:
    """Both models; arrays come and go as JSON."""

    def __init__(self) -> None:
        self.sessions = {name: open_session(name) for name in NAMES}

    @bentoml.api
    def net(self, x: np.ndarray) -> np.ndarray:
        """Runs the convolution net once."""
        return self.sessions["net"].run(None, {"x": x.astype(np.float32)})[0]

    @bentoml.api
    def mlp(self, x: np.ndarray) -> np.ndarray:
        """Runs the perceptron once."""
        return self.sessions["mlp"].run(None, {"x": x.astype(np.float32)})[0]
