"""The way the field trains HiCLR, written plainly from the method: the yardstick, kept honest and kept simple.

Per-sample numpy augmentation in a DataLoader, convolve-then-aggregate ST-GCN in NCHW float32, three separate query passes,
logits materialised three times, softmax and log in two steps.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hiclr_fast.models.stgcn import BLOCK_STRIDES, block_widths
from hiclr_fast.skeletons import LAYOUTS, adjacency

LAYOUT = LAYOUTS["ntu25"]


def crop(x, rng, ratio=6):
    pad = x.shape[1] // ratio
    padded = np.concatenate([x[:, :pad][:, ::-1], x, x[:, -pad:][:, ::-1]], axis=1)
    start = rng.integers(0, 2 * pad + 1)
    return padded[:, start : start + x.shape[1]]


def shear(x, rng, amplitude=0.5):
    a, b = rng.uniform(-amplitude, amplitude, 3), rng.uniform(-amplitude, amplitude, 3)
    matrix = np.array([[1, a[0], b[0]], [a[1], 1, b[1]], [a[2], b[2], 1]])
    return np.dot(x.transpose(1, 2, 3, 0), matrix.T).transpose(3, 0, 1, 2)


def rotate(x, rng):
    main = rng.integers(0, 3)
    for axis in range(3):
        angle = np.deg2rad(rng.uniform(0, 30 if axis == main else 1))
        c, s = np.cos(angle), np.sin(angle)
        matrix = {
            0: [[1, 0, 0], [0, c, s], [0, -s, c]],
            1: [[c, 0, -s], [0, 1, 0], [s, 0, c]],
            2: [[c, s, 0], [-s, c, 0], [0, 0, 1]],
        }[axis]
        x = np.dot(x.transpose(1, 2, 3, 0), np.array(matrix).T).transpose(3, 0, 1, 2)
    return x


def blur(x, rng):
    """15 taps along time by a grouped convolution, as torch does it on a small array."""
    sigma = rng.uniform(0.1, 2)
    if rng.random() >= 0.5:
        return x
    k = np.arange(-7, 8)
    taps = torch.from_numpy(np.exp(-(k**2) / (2 * sigma**2))).float().repeat(3, 1, 1, 1)  # (3, 1, 1, 15)
    c, t, v, m = x.shape
    rows = torch.from_numpy(np.ascontiguousarray(x.transpose(3, 2, 0, 1))).float().view(m * v, c, 1, t)
    return F.conv2d(rows, taps, padding=(0, 7), groups=3).view(m, v, c, t).permute(2, 3, 1, 0).numpy()


def basic(x, rng):
    return shear(crop(x, rng), rng)


def normal(x, rng):
    x = basic(x, rng)
    if rng.random() < 0.5:
        x = x[:, :, list(LAYOUT.mirror)]
    x = rotate(x, rng)
    if rng.random() < 0.5:
        x = x + rng.normal(0, 0.01, x.shape)
    x = blur(x, rng)
    if rng.random() < 0.5:
        x = x.copy()
        x[rng.integers(0, 3)] = 0
    return x


class Views(torch.utils.data.Dataset):
    """Four views of a sample: query basic, query normal, query strong (masked later), key basic."""

    def __init__(self, x: np.ndarray):
        self.x, self.rng = x, np.random.default_rng()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = np.array(self.x[i])
        views = (basic(x, self.rng), normal(x, self.rng), normal(x, self.rng), basic(x, self.rng))
        return [np.ascontiguousarray(v, dtype=np.float32) for v in views]


class PlainBlock(nn.Module):
    def __init__(self, c_in, c_out, subsets, stride, dropout, residual):
        super().__init__()
        self.gcn = nn.Conv2d(c_in, c_out * subsets, 1)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(c_out),
            nn.Dropout(dropout, inplace=True),
        )
        self.shortcut = None
        if residual:
            project = nn.Sequential(nn.Conv2d(c_in, c_out, 1, (stride, 1)), nn.BatchNorm2d(c_out))
            self.shortcut = nn.Identity() if c_in == c_out and stride == 1 else project

    def forward(self, x, graph):
        shortcut = 0 if self.shortcut is None else self.shortcut(x)
        y = self.gcn(x)
        n, _, t, v = y.shape
        y = torch.einsum("nkctv,kvw->nctw", y.view(n, graph.shape[0], -1, t, v), graph).contiguous()
        return F.relu(self.tcn(y) + shortcut)


class PlainSTGCN(nn.Module):
    def __init__(self, dropout=0.5):
        super().__init__()
        self.register_buffer("A", torch.from_numpy(adjacency(LAYOUT)).float())
        widths = (3, *block_widths(16, 256))
        self.data_bn = nn.BatchNorm1d(3 * LAYOUT.num_joints)
        self.blocks = nn.ModuleList(
            PlainBlock(widths[i], widths[i + 1], len(self.A), stride, dropout if i else 0.0, i > 0)
            for i, stride in enumerate(BLOCK_STRIDES)
        )
        self.edges = nn.ParameterList(nn.Parameter(torch.ones_like(self.A)) for _ in BLOCK_STRIDES)
        self.fc = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128))

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = self.data_bn(x.permute(0, 4, 3, 1, 2).contiguous().view(n * m, v * c, t))
        x = x.view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous()
        for block, edge in zip(self.blocks, self.edges, strict=True):
            x = block(x, self.A * edge)
        return self.fc(F.avg_pool2d(x, x.shape[2:]).view(n, m, -1).mean(1))


def plain_loss(q, key, queue, temperature=0.07):
    """q: three (N, D) query batches; queue: (D, K) columns. Logits built three times, softmax then log."""
    logits = []
    for query in q:
        positive = torch.einsum("nc,nc->n", query, key)[:, None]
        logits.append(torch.cat([positive, torch.einsum("nc,ck->nk", query, queue.clone())], dim=1) / temperature)
    target = torch.zeros(len(key), dtype=torch.long, device=key.device)
    loss = F.cross_entropy(logits[0], target)
    p = [torch.softmax(x, dim=1) for x in logits]
    for weak, strong in ((p[0], p[1]), (p[1], p[2])):
        loss = loss - 0.5 * (weak.detach() * torch.log(strong)).sum(1).mean()
    return loss


class PlainTrainer:
    """One training step on a batch of four views."""

    def __init__(self, queue_size=32768, dropout=0.5, device="cpu"):
        self.encoder_q, self.encoder_k = PlainSTGCN(dropout).to(device), PlainSTGCN(dropout).to(device)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.queue = F.normalize(torch.randn(128, queue_size, device=device), dim=0)
        self.fill, self.pointer = nn.Parameter(torch.zeros(1, device=device)), 0
        params = [self.fill, *self.encoder_q.parameters()]
        self.optimizer = torch.optim.SGD(params, 0.1, momentum=0.9, weight_decay=1e-4)

    def mask(self, x):
        """Two joints a frame, the same for the whole batch, replaced by the learned value."""
        keep = np.ones((1, 1, x.shape[2], x.shape[3], 1), dtype=np.float32)
        for frame in range(x.shape[2]):
            keep[0, 0, frame, np.random.choice(x.shape[3], 2, replace=False)] = 0
        keep = torch.from_numpy(keep).to(x.device)
        return x * keep + (1 - keep) * self.fill

    def loss(self, views):
        queries = (views[0], views[1], self.mask(views[2]))
        q = [F.normalize(self.encoder_q(v), dim=1) for v in queries]
        with torch.no_grad():
            for k, p in zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True):
                k.data = k.data * 0.999 + p.data * 0.001
            key = F.normalize(self.encoder_k(views[3]), dim=1)
        return plain_loss(q, key, self.queue), key

    def step(self, views):
        loss, key = self.loss(views)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.queue[:, self.pointer : self.pointer + len(key)] = key.T
        self.pointer = (self.pointer + len(key)) % self.queue.shape[1]
        return loss.item()
