"""Slow NumPy versions of the ops of boxes, in float64, one loop after another; and boxes to try them on."""

import math

import numpy as np


def draw_boxes(rng, count, size=100.0, least=1.0, dtype=np.float32):
    """Boxes (x1, y1, x2, y2) that overlap now and then."""
    low = rng.uniform(0, 0.8 * size, (count, 2))
    high = low + rng.uniform(least, 0.4 * size, (count, 2))
    return np.concatenate([low, high], 1).astype(dtype)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def intersection(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def iou(a, b, kind="iou", eps=1e-7):
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    value = shared / union if union else 0.0
    around = np.array([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    if kind == "generalized":
        return value - ((area(around) - union) / area(around) if area(around) else 0.0)
    if kind in ("distance", "complete"):
        centers = np.array([a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]]) / 2
        diagonal = (around[2] - around[0]) ** 2 + (around[3] - around[1]) ** 2 + eps
        penalty = (centers**2).sum() / diagonal
        if kind == "complete":
            angles = [math.atan2(c[2] - c[0], c[3] - c[1]) for c in (a, b)]
            v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
            penalty += v * v / (1 - value + v + eps)
        return value - penalty
    return value


def ious(boxes1, boxes2, kind="iou"):
    one, other = np.asarray(boxes1, np.float64), np.asarray(boxes2, np.float64)
    return np.array([[iou(a, b, kind) for b in other] for a in one]).reshape(len(one), len(other))


def iou_matrix(boxes1, boxes2):
    """The same as `ious`, in one piece: for many boxes."""
    a, b = np.asarray(boxes1, np.float64)[:, None], np.asarray(boxes2, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union != 0)


def nms(boxes, scores, threshold, labels=None):
    """The indices that torchvision returns. NaN is the highest score; of equal scores the first comes first."""
    boxes = np.asarray(boxes, np.float64)
    order = np.argsort(np.where(np.isnan(scores), -np.inf, -np.asarray(scores, np.float64)), kind="stable")
    kept = []
    alive = np.ones(len(boxes), bool)
    for i in order:
        if alive[i]:
            kept.append(int(i))
            over = iou_matrix(boxes[i : i + 1], boxes)[0] > threshold
            alive &= ~(over if labels is None else over & (labels == labels[i]))
    return kept


def soft_nms(boxes, scores, count, method, sigma=0.5, threshold=0.3, least=0.001):
    scores = np.asarray(scores, np.float64).copy()
    left = [i for i in range(len(scores)) if not np.isnan(scores[i])]
    found = []
    while len(found) < count:
        left = [i for i in left if scores[i] > least]
        if not left:
            break
        best = max(left, key=lambda i: scores[i])
        found.append((best, scores[best]))
        left.remove(best)
        for i in left:
            overlap = iou(np.float64(boxes[best]), np.float64(boxes[i]))
            linear = 1 - overlap if overlap > threshold else 1
            scores[i] *= linear if method == "linear" else math.exp(-(overlap**2) / sigma)
    return found


def match(overlaps, high, low, allow_low_quality=False, force_best=False):
    """torchvision's Matcher and SSDMatcher, of IoU (M, N)."""
    best, nearest = overlaps.max(0), overlaps.argmax(0)
    matches = np.where(best >= high, nearest, np.where(best >= low, -2, -1))
    if allow_low_quality:
        for row in overlaps:
            if row.max() > 0:
                matches = np.where(row == row.max(), nearest, matches)
    if force_best:
        for i, row in enumerate(overlaps):
            matches[row.argmax()] = i
    return matches


def match_atss(boxes, anchors, level_sizes, candidates):
    boxes, anchors = np.float64(boxes), np.float64(anchors)
    best = np.full(len(anchors), -1.0)
    matches = np.full(len(anchors), -1)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    for m, box in enumerate(boxes):
        distance = np.hypot(*(centers - (box[:2] + box[2:]) / 2).T)
        chosen, start = [], 0
        for size in level_sizes:
            order = np.argsort(distance[start : start + size], kind="stable")[:candidates]
            chosen += list(start + order)
            start += size
        overlaps = np.array([iou(box, anchors[i]) for i in chosen])
        limit = overlaps.mean() + overlaps.std(ddof=1)
        for i, overlap in zip(chosen, overlaps, strict=True):
            inside = min(*(centers[i] - box[:2]), *(box[2:] - centers[i])) > 0.01
            if overlap >= limit and inside and overlap > best[i]:
                best[i], matches[i] = overlap, m
    return matches


def match_centers(boxes, anchors, level_sizes, radius):
    """The loop inside torchvision's FCOS.compute_loss."""
    matches = []
    last = len(anchors) - level_sizes[-1]
    for n, anchor in enumerate(np.float64(anchors)):
        x, y = (anchor[:2] + anchor[2:]) / 2
        stride = anchor[2] - anchor[0]
        fits = []
        for m, (x1, y1, x2, y2) in enumerate(np.float64(boxes)):
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < radius * stride
            sides = [x - x1, y - y1, x2 - x, y2 - y]
            low = 0 if n < level_sizes[0] else 4 * stride
            high = math.inf if n >= last else 8 * stride
            if near and min(sides) > 0 and low < max(sides) < high:
                fits.append(((x2 - x1) * (y2 - y1), m))
        matches.append(min(fits)[1] if fits else -1)
    return np.array(matches)


def _bilinear(image, y, x):
    """torchvision's bilinear_interpolate: points more than a pixel outside are 0."""
    height, width = image.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(image.shape[2])
    y, x = max(y, 0), max(x, 0)
    y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    y, x = (float(y0) if y0 == height - 1 else y), (float(x0) if x0 == width - 1 else x)
    dy, dx = y - y0, x - x0
    top = (1 - dx) * image[y0, x0] + dx * image[y0, x1]
    bottom = (1 - dx) * image[y1, x0] + dx * image[y1, x1]
    return (1 - dy) * top + dy * bottom


def roi_align(features, boxes, index, size, scale=1.0, sampling=2, aligned=False):
    features, boxes = np.float64(features), np.float64(boxes)
    out = np.zeros((len(boxes), *size, features.shape[3]))
    for k, box in enumerate(boxes):
        x1, y1, x2, y2 = box * scale - (0.5 if aligned else 0)
        extent = np.array([y2 - y1, x2 - x1])
        extent = extent if aligned else np.maximum(extent, 1)
        each = extent / size
        counts = [sampling] * 2 if sampling > 0 else np.ceil(each).astype(int)
        for i in range(size[0]):
            for j in range(size[1]):
                points = [
                    _bilinear(
                        features[index[k]],
                        y1 + each[0] * (i + (a + 0.5) / counts[0]),
                        x1 + each[1] * (j + (b + 0.5) / counts[1]),
                    )
                    for a in range(counts[0])
                    for b in range(counts[1])
                ]
                out[k, i, j] = np.mean(points, 0) if points else 0
    return out


def roi_pool(features, boxes, index, size, scale=1.0):
    features, boxes = np.float64(features), np.float32(boxes) * np.float32(scale)
    height, width = features.shape[1:3]
    out = np.zeros((len(boxes), *size, features.shape[3]))
    for k, box in enumerate(boxes):
        x1, y1, x2, y2 = (math.copysign(math.floor(abs(v) + 0.5), v) for v in box)
        each = [np.float32(max(n + 1, 1)) / np.float32(m) for n, m in zip((y2 - y1, x2 - x1), size, strict=True)]
        for i in range(size[0]):
            rows = [int(np.clip(v + y1, 0, height)) for v in (math.floor(i * each[0]), math.ceil((i + 1) * each[0]))]
            for j in range(size[1]):
                columns = [
                    int(np.clip(v + x1, 0, width)) for v in (math.floor(j * each[1]), math.ceil((j + 1) * each[1]))
                ]
                cell = features[index[k], slice(*rows), slice(*columns)]
                out[k, i, j] = cell.max((0, 1)) if cell.size else 0
    return out


def star_distances(labels, rays):
    """The Python version in stardist."""
    out = np.zeros((*labels.shape, rays), np.float32)
    for i, j in np.argwhere(labels):
        for k in range(rays):
            phi = np.float32(2 * np.pi / rays * k)
            dy, dx = np.cos(phi), np.sin(phi)
            x = y = np.float32(0)
            while True:
                x, y = x + dx, y + dy
                ii, jj = round(float(i + x)), round(float(j + y))
                outside = not (0 <= ii < labels.shape[0] and 0 <= jj < labels.shape[1])
                if outside or labels[ii, jj] != labels[i, j]:
                    past = 1 - 0.5 / max(abs(dx), abs(dy))
                    out[i, j, k] = math.hypot(x - past * dx, y - past * dy)
                    break
    return out
