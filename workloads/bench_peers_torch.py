"""PyTorch's arms of `workloads.bench_peers`: our networks in idiomatic eager PyTorch, and ResNet-50 compiled for a GPU.

    python -m workloads.bench_peers_torch

prints the speed of training ResNet-50, on CPU that of a dry run at a tiny size. That the networks are ours is tested
in `workloads/test_peers.py`. Nothing here loads JAX.
"""

import json
import time
from collections import OrderedDict
from functools import lru_cache, partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from harness.training.batches import step_indices
from harness.training.trial import Trial
from workloads.bench_peers_arms import RESNET50, RESNET50_DRY_RUN, splits_of
from workloads.workload import Workload


class Conv(nn.Conv2d):
    """A square convolution without bias and with XLA's SAME padding, which is uneven where a stride halves a side."""

    def __init__(self, channels: int, features: int, size: int = 3, stride: int = 1):
        super().__init__(channels, features, size, stride, bias=False)
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side, size, stride = x.shape[-1], self.kernel_size[0], self.stride[0]
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        if total % 2:
            x = F.pad(x, (total // 2, total - total // 2) * 2)
            total = 0
        return F.conv2d(x, self.weight, None, stride, total // 2)


class WideResNet(nn.Module):
    """`workloads.wide_resnet` with the head `flatten`."""

    def __init__(self, workload: Workload, channels: int):
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1e-5, momentum=1 - workload.batch_norm_momentum)
        widths = [16, *(16 * workload.width * 2**group for group in range(3))]
        blocks, side = OrderedDict(), workload.side
        for group, stride in enumerate(workload.group_strides):
            for block in range((workload.depth - 4) // 6):
                before, own = (widths[group], stride) if block == 0 else (widths[group + 1], 1)
                blocks[f"group{group}_block{block}"] = _Block(before, widths[group + 1], own, norm)
            side = -(-side // stride)
        self.window = workload.side // 4
        self.stem = Conv(channels, 16)
        self.blocks = nn.Sequential(blocks)
        self.final_norm = norm(widths[-1])
        self.head = nn.Linear(widths[-1] * (side - self.window + 1) ** 2, workload.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.final_norm(self.blocks(self.stem(images))))
        return self.head(F.avg_pool2d(x, self.window, 1).flatten(1))


class _Block(nn.Module):
    def __init__(self, before: int, channels: int, stride: int, norm: type[nn.Module]):
        super().__init__()
        self.norm0 = norm(before)
        self.conv0 = Conv(before, channels, 3, stride)
        self.norm1 = norm(channels)
        self.conv1 = Conv(channels, channels)
        self.shortcut = Conv(before, channels, 1, stride) if before != channels or stride != 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm0(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv1(F.relu(self.norm1(self.conv0(y))))


class Transformer(nn.Module):
    """`workloads.transformer` with normalisation before each sublayer."""

    def __init__(self, workload: Workload):
        super().__init__()
        width = workload.width
        self.embedding = nn.Embedding(workload.classes, width)
        self.layers = nn.ModuleList(_Layer(width, workload.heads, workload.mlp_width) for _ in range(workload.layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, workload.classes)
        angles = torch.arange(workload.length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
        positions = torch.stack([angles.sin(), angles.cos()], -1).reshape(workload.length, width)
        self.register_buffer("positions", positions, persistent=False)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        nn.init.normal_(self.head.weight, std=1 / width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.embedding(inputs) * self.embedding.embedding_dim**0.5 + self.positions[: inputs.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, mlp_width: int):
        super().__init__()
        self.heads = heads
        self.self_attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            OrderedDict(hidden=nn.Linear(width, mlp_width), relu=nn.ReLU(), out=nn.Linear(mlp_width, width))
        )
        for dense in (self.mlp.hidden, self.mlp.out):
            nn.init.xavier_uniform_(dense.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        projected = self.query_key_value(self.self_attention_norm(x))
        query, key, value = projected.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.mlp_norm(x))


def network(workload: Workload) -> nn.Module:
    """Builds the network of a trial; its input is images (batch, channels, side, side), or symbols (batch, length)."""
    if workload.name == "transformer":
        return Transformer(workload)
    # A tenth or two faster than PyTorch's default layout.
    return WideResNet(workload, channels=1).to(memory_format=torch.channels_last)


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy over images, or over tokens."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


@lru_cache(maxsize=1)
def _tensors(workload: Workload, split_seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels for training and for validation."""
    splits = splits_of(workload, split_seed)
    tensors = []
    for examples in (splits.train, splits.validation):
        labels = torch.from_numpy(examples["label"]).long()
        if workload.name == "transformer":
            inputs = torch.from_numpy(examples["input"]).long()
        else:
            inputs = torch.from_numpy(examples["image"]).permute(0, 3, 1, 2)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        tensors.append((inputs, labels))
    return tensors


def train(trial: Trial, threads: int, model: nn.Module | None = None) -> tuple[list[float], float]:
    """Trains and evaluates a trial.

    Args:
      trial: of an arm of `bench_peers`.
      threads: of PyTorch.
      model: to train; None for one that is initialised here.

    Returns:
      The training loss of every step, and the final validation error or loss.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(trial.seeds["init"])
    (inputs, labels), (held_out, held_out_labels) = _tensors(trial.workload, trial.seeds["split"])
    model = network(trial.workload) if model is None else model
    optimizer = _optimizer(trial, model)
    order = step_indices(trial.seeds["order"], len(labels), trial.batch_size, 0, trial.steps)
    losses = []
    model.train()
    for rows in torch.from_numpy(order):
        loss = mean_loss(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    total = 0.0
    with torch.inference_mode():
        size = trial.evaluation_batch_size
        for batch, expected in zip(held_out.split(size), held_out_labels.split(size), strict=True):
            logits = model(batch)
            if trial.workload.objective == "loss":
                total += mean_loss(logits, expected).item() * len(batch)
            else:
                total += (logits.argmax(-1) != expected).sum().item()
    return losses, total / len(held_out)


def _optimizer(trial: Trial, model: nn.Module) -> torch.optim.Optimizer:
    settings = trial.hyperparameters
    kernels = {module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    groups = [
        {"params": [p for p in model.parameters() if p in kernels], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in model.parameters() if p not in kernels]},
    ]
    rate = settings["learning_rate"]
    if trial.optimizer == "heavy_ball":
        return torch.optim.SGD(groups, rate, settings["momentum"], fused=True)
    betas = settings["beta1"], settings["beta2"]
    return torch.optim.Adam(groups, rate, betas, settings["epsilon"], fused=True)


class ResNet50(nn.Module):
    """`workloads.resnet` of 50 layers, v1.5, with PyTorch's own even padding."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        blocks, before = [], 64
        for group, count in enumerate((3, 4, 6, 3)):
            for block in range(count):
                blocks.append(_Bottleneck(before, 64 * 2**group, 2 if group and not block else 1))
                before = 256 * 2**group
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class _Bottleneck(nn.Module):
    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        widths = (before, channels, channels, 4 * channels)
        layers = []
        for (width, features), size, step in zip(pairwise(widths), (1, 3, 1), (1, stride, 1), strict=True):
            conv = nn.Conv2d(width, features, size, step, size // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(features), nn.ReLU(inplace=True)]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Identity()
        if before != 4 * channels:
            conv = nn.Conv2d(before, 4 * channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(4 * channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


def resnet50() -> dict[str, float | str]:
    """Measures how many images a second compiled PyTorch trains ResNet-50 on, autocast to bfloat16, data on device."""
    device, size = ("cuda", RESNET50) if torch.cuda.is_available() else ("cpu", RESNET50_DRY_RUN)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    model = ResNet50().to(device, memory_format=torch.channels_last)
    # Inductor is for the device; a dry run has nothing to gain from minutes of compiling C++.
    compiled = torch.compile(model, backend="inductor" if device == "cuda" else "eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)
    images = torch.randn(size.examples, 3, size.side, size.side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (size.examples,), device=device)

    def advance(start: int, stop: int) -> torch.Tensor:
        losses = []
        for rows in torch.from_numpy(step_indices(0, size.examples, size.batch, start, stop)).to(device):
            with torch.autocast(device, torch.bfloat16):
                loss = F.cross_entropy(compiled(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).cpu()  # waits for the device

    advance(0, size.chunk)
    begin = time.perf_counter()
    losses = advance(size.chunk, (size.chunks + 1) * size.chunk)
    seconds = time.perf_counter() - begin
    assert torch.isfinite(losses).all()
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"images_per_second": len(losses) * size.batch / seconds, "device": name}


if __name__ == "__main__":
    print(json.dumps(resnet50()))
