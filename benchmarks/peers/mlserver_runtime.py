"""The models behind MLServer: a runtime of one's own over ONNX Runtime."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from sessions import open_session


class OnnxRuntime(MLModel):
    """A model in ONNX Runtime that answers the V2 protocol in JSON."""

    async def load(self) -> bool:
        """Opens the session."""
        self.session = open_session(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs the model once."""
        [scores] = self.session.run(None, {"x": NumpyCodec.decode_input(payload.inputs[0])})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
