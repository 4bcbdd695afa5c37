"""Cost against size as an SVG: few enough lines that no plotting library is worth its weight."""

import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _MARGIN = 640, 360, 60
_COLORS = ("#1f6feb", "#bf3989", "#2da44e")


def svg(title: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Lines of (keys, cost), both axes logarithmic; costs are positive."""
    points = [point for line in lines.values() for point in line]
    (left, right), (low, high) = (_decades([point[axis] for point in points]) for axis in (0, 1))

    def place(keys: float, cost: float) -> tuple[float, float]:
        across = (math.log10(keys) - left) / (right - left)
        up = (math.log10(cost) - low) / (high - low)
        return _MARGIN + across * (_WIDTH - 2 * _MARGIN), _HEIGHT - _MARGIN - up * (_HEIGHT - 2 * _MARGIN)

    drawn = [f'<text x="{_MARGIN}" y="24" font-size="15">{title}</text>']
    for power in range(left, right + 1):
        x, y = place(10**power, 10**low)
        drawn.append(f'<text x="{x:.0f}" y="{y + 20:.0f}" text-anchor="middle">{10**power:,} keys</text>')
    for power in range(low, high + 1):
        x, y = place(10**left, 10**power)
        drawn.append(f'<path d="M{x:.0f} {y:.0f}H{_WIDTH - _MARGIN}" stroke="#ddd"/>')
        drawn.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{10.0**power:g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        color, path_of = _COLORS[number], " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        drawn.append(f'<polyline points="{path_of}" fill="none" stroke="{color}" stroke-width="2"/>')
        drawn.append(f'<text x="{_WIDTH - _MARGIN}" y="{44 + 16 * number}" text-anchor="end" fill="{color}">{name}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *drawn, "</svg>", ""])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)
