"""What the input pipeline costs: JPEG batches of ImageNet's road against decoding the same records alone.

    pytest workloads/data/bench_pipeline.py --benchmark-only

Both arms take the same examples, random resized crops of 224 of synthetic JPEGs of ImageNet's usual sizes, on as many
threads as there are cores. The road reads them from array_record files, seeds every example, and stacks batches; the
other arm has the records in memory and only decodes and crops. Rounds of both take turns; the benchmark's time is the
road's, and `extra_info` has images per second of both and their median ratio.
"""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from workloads.data import imagenet2012
from workloads.data.pipeline import batches
from workloads.data.synthetic_imagenet import prepare

IMAGES, BATCH, STEPS, SIDE, ROUNDS = 256, 64, 30, 224, 5


class InTurn:
    """The records one after another, again and again."""

    def __getitem__(self, position):
        return position % IMAGES


def test_road_against_decoding_alone(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare(tmp_path, IMAGES, 8, sides=(375, 500))
    stream = imagenet2012.streams(0, SIDE).train
    records = [stream.records[index] for index in range(IMAGES)]
    cores = len(os.sched_getaffinity(0))
    positions = range(BATCH * STEPS)

    def decode(position):
        stream.prepare(records[InTurn()[position]], np.random.default_rng([0, position]))

    def road():
        assert sum(len(batch["image"]) for batch in batches(stream, InTurn(), 0, BATCH, 0, STEPS)) == len(positions)

    alone = []

    def decoding_alone():
        begin = time.perf_counter()
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(decode, positions, chunksize=8))
        alone.append(time.perf_counter() - begin)

    benchmark.pedantic(road, setup=decoding_alone, warmup_rounds=1, rounds=ROUNDS)
    if benchmark.stats:
        rounds = benchmark.stats.stats.data
        benchmark.extra_info.update(
            cores=cores,
            images_per_second=len(positions) / statistics.median(rounds),
            decoding_alone_images_per_second=len(positions) / statistics.median(alone[1:]),
            share=statistics.median(a / b for a, b in zip(alone[1:], rounds, strict=True)),
        )
