"""The models behind FastAPI, as people write it by hand: JSON checked by pydantic, or a tensor's plain bytes."""

# No `from __future__ import annotations` here: FastAPI reads the annotations.
import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from sessions import NAMES, open_session

app = FastAPI()
sessions = {name: open_session(name) for name in NAMES}


class Asked(BaseModel):
    """One tensor in JSON."""

    shape: list[int]
    data: list[float]


class Answered(BaseModel):
    """The scores."""

    data: list[float]


@app.post("/json/{name}")
async def in_json(name: str, asked: Asked) -> Answered:
    """Answers JSON with JSON; calls the model where it stands, which is the cheapest."""
    array = np.array(asked.data, np.float32).reshape(asked.shape)
    [scores] = sessions[name].run(None, {"x": array})
    return Answered(data=scores.ravel().tolist())


@app.post("/raw/{name}")
async def raw(name: str, request: Request) -> Response:
    """Answers bytes with bytes; the shape is in a header."""
    shape = [int(size) for size in request.headers["shape"].split(",")]
    array = np.frombuffer(await request.body(), np.float32).reshape(shape)
    [scores] = sessions[name].run(None, {"x": array})
    return Response(scores.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
