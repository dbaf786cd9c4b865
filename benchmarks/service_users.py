"""Users of the service, for locust; `benchmarks/service.py` starts them."""

from __future__ import annotations

import os
import random
from pathlib import Path

from locust import HttpUser, constant, task

_IMAGES = [path.read_bytes() for path in sorted(Path(os.environ["BENCHMARK_IMAGES"]).glob("*.jpg"))]
_MIXED = os.environ["BENCHMARK_MIXED"] == "1"


class Reader(HttpUser):
    """Somebody who looks at the answer for no time at all before asking the next thing."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Send the token with everything."""
        self.client.headers["Authorization"] = f"Bearer {os.environ['MEDSHADOW_TOKEN']}"

    @task
    def look_up(self) -> None:
        """Look up an image with pictures; refine some answers, have some explained."""
        data = {"k": "16", "thumbnails": "true"}
        files = {"image": ("image.jpg", random.choice(_IMAGES))}
        with self.client.post(
            "/api/lookup", data=data, files=files, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            answer = response.json()
            if len(answer["hits"]) != 16:
                response.failure(f"{len(answer['hits'])} hits")
                return
        shown = [hit["case_id"] for hit in answer["hits"]]
        if _MIXED and random.random() < 1 / 4:
            marked = {"token": answer["token"], "relevant": shown[:2], "not_relevant": shown[-1:]}
            self.client.post("/api/refine", json=marked)
        if _MIXED and random.random() < 1 / 8:
            self.client.post("/api/explain", json={"token": answer["token"], "case_id": shown[0]})
