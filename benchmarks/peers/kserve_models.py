"""The models behind KServe's model server, one process, without its line per request."""

from __future__ import annotations

import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from sessions import NAMES, open_session


class OnnxModel(Model):
    """A model in ONNX Runtime that answers the V2 protocol in JSON or binary, as it is asked."""

    def load(self) -> bool:
        """Opens the session."""
        self.session = open_session(self.name)
        self.ready = True
        return self.ready

    async def predict(self, payload: InferRequest, headers: object = None, response_headers: object = None) -> object:
        """Runs the model once."""
        [scores] = self.session.run(None, {"x": payload.inputs[0].as_numpy()})
        output = InferOutput("scores", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=bool(payload.use_binary_outputs))
        return InferResponse(payload.id or "", self.name, [output])


if __name__ == "__main__":
    models = [OnnxModel(name) for name in NAMES]
    for model in models:
        model.load()
    ModelServer(http_port=int(sys.argv[1]), workers=1, enable_grpc=False, enable_latency_logging=False).start(models)
