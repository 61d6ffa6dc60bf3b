"""Sends the sample to TensorFlow Serving by REST and compares the answer; exits with 1 if it differs."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # type checkers find it in a package, but it is shipped and run beside this file
    from .sample import HERE, compare, read, to_arrays
else:
    sys.dont_write_bytecode = True  # a package stays as its checksums say
    from sample import HERE, compare, read, to_arrays


def main() -> int:
    """Asks the server that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="where REST is")
    parser.add_argument("--seconds", type=float, default=10.0, help="longest time to wait for the answer")
    parser.add_argument("--version", type=int, default=0, help="version of the model; the newest if not given")
    arguments = parser.parse_args()
    signature = read("signature.json")
    chosen = f"/versions/{arguments.version}" if arguments.version else ""
    url = f"{arguments.url}/v1/models/{signature['model_name']}{chosen}:predict"
    body = (HERE / "sample_request.json").read_bytes()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=arguments.seconds) as response:
            outputs = json.loads(response.read())["outputs"]
    except urllib.error.HTTPError as error:
        print(f"{url} refused: {error.code} {error.read(500).decode(errors='replace')}")
        return 1
    except OSError as error:
        print(f"no answer from {url}: {error}")
        return 1
    return compare(signature, to_arrays(signature["outputs"], outputs))


if __name__ == "__main__":
    sys.exit(main())
