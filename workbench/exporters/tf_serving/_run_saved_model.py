"""Runs a SavedModel as TensorFlow Serving does, and writes its warm-up; started alone, it imports no workbench."""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

SIGNATURE = "serving_default"


def main(request_file: str, result_file: str) -> None:
    """Does what the request names, and writes what came of it."""
    request = json.loads(Path(request_file).read_text())
    try:
        result = run(**request)
    except BaseException as error:  # whatever it is, it is said in words by whoever asked
        traceback.print_exc()
        result = {"problem": str(error), "kind": type(error).__name__}
    Path(result_file).write_text(json.dumps(result))


def run(
    saved: str, model_name: str, inputs: list[str], outputs: list[str], feeds: str, answers: str, warm_up: list[int]
) -> dict[str, Any]:
    """Loads the SavedModel into a session by its signature alone, asks it, and writes its warm-up requests.

    Args:
        saved: Folder of the SavedModel.
        model_name: What it will be served as.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        feeds: An .npz file with an array `sample_0` for the first input and so on, and maybe `random_0` and so on.
        answers: The .npz file to write, likewise for the outputs.
        warm_up: Sizes to which the sample is repeated in the warm-up; 1 is the sample as it is.
    """
    import numpy as np
    import tensorflow as tf

    tf1 = tf.compat.v1
    with np.load(feeds) as stored:
        arrays = {name: stored[name] for name in stored.files}
    found = {}
    with tf.Graph().as_default(), tf1.Session() as session:
        signature = tf1.saved_model.load(session, ["serve"], saved).signature_def[SIGNATURE]
        if (set(signature.inputs), set(signature.outputs)) != (set(inputs), set(outputs)):
            raise ValueError(f"its signature has {sorted(signature.inputs)} and {sorted(signature.outputs)}")
        for kind in ("sample", "random"):
            if f"{kind}_0" in arrays:
                feed = {signature.inputs[name].name: arrays[f"{kind}_{place}"] for place, name in enumerate(inputs)}
                given = session.run([signature.outputs[name].name for name in outputs], feed)
                found.update({f"{kind}_{place}": array for place, array in enumerate(given)})
    np.savez(answers, **found)
    sample = {name: arrays[f"sample_{place}"] for place, name in enumerate(inputs)}
    write_warm_up(tf, Path(saved) / "assets.extra", model_name, sample, warm_up)
    return {"tensorflow": tf.__version__}


def write_warm_up(tf: Any, folder: Path, model_name: str, sample: dict[str, Any], sizes: list[int]) -> None:
    """Writes the requests that TensorFlow Serving answers for itself before it says that a version is ready."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for size in sizes:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = SIGNATURE
            for name, array in sample.items():
                repeated = array.repeat(size, axis=0) if size > 1 else array
                request.inputs[name].CopyFrom(tf.make_tensor_proto(repeated))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


if __name__ == "__main__":
    main(*sys.argv[1:])
