"""Measures training steps of the published CNN + LSTM in PyTorch.

  python benchmarks/step_torch.py <batch size> <seconds> <threads>

Needs no package except PyTorch. Prints the rate in clips/s.
"""

import sys
import time

import torch
from torch import nn

NUM_FRAMES, SIZE, NUM_CLASSES = 15, 64, 50
WARM_UP_STEPS = 3


class SeedLSTM(nn.Module):
    """The published CNN + LSTM: maps clips, uint8 [B, T, 3, H, W], to logits, float32 [B, C]."""

    def __init__(self):
        super().__init__()
        blocks, channels = [], 3
        for filters in (32, 64, 128):
            blocks += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = filters
        flat = channels * (SIZE // 8) ** 2
        self.encoder = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(flat, 256), nn.ReLU())
        self.lstm = nn.LSTM(256, 256, batch_first=True)
        self.classifier = nn.Linear(256, NUM_CLASSES)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        frames = video.flatten(0, 1).float() / 255  # [B * T, 3, H, W]
        features = self.encoder(frames).unflatten(0, video.shape[:2])  # [B, T, 256]
        outputs, _ = self.lstm(features)
        return self.classifier(outputs[:, -1])


def main(batch_size: int, secs: float, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, loss_of = SeedLSTM(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    video = torch.randint(0, 256, (batch_size, NUM_FRAMES, 3, SIZE, SIZE), dtype=torch.uint8)
    label = torch.randint(0, NUM_CLASSES, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_of(model(video), label)
        loss.backward()
        optimizer.step()
        loss.item()

    for _ in range(WARM_UP_STEPS):
        step()
    started, steps = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < secs:
        step()
        steps += 1
    print(steps * batch_size / taken)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
