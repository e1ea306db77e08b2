"""The colours of a page, for light and dark surroundings.

The colours of curves follow Okabe and Ito, so that people with any kind of colour blindness can
distinguish them, each as light or dark as its background needs: 4.5 to 1 against it for text, 3 to
1 for lines and areas, as WCAG 2 asks. A test computes that.
"""

LIGHT = {
    "page": "#f7f7f5",
    "card": "#ffffff",
    "ink": "#1c2024",
    "quiet": "#565d66",
    "rule": "#dcdfe2",
    "grid": "#e9ebed",
    "link": "#0a5c9e",
    "good": "#17693f",
    "bad": "#a8261c",
    "wait": "#7a5200",
    "queued": "#8c949d",
    "starting": "#5592c6",
    "running": "#14508f",
    "stalled": "#b3341f",
    "stopped": "#c9ced3",
    "saved": "#1c2024",
}
DARK = {
    "page": "#14171b",
    "card": "#1c2025",
    "ink": "#e8eaed",
    "quiet": "#a6adb6",
    "rule": "#363c44",
    "grid": "#2a2f36",
    "link": "#7dbdf5",
    "good": "#6fd39b",
    "bad": "#ff9d8f",
    "wait": "#e6b95c",
    "queued": "#7d8690",
    "starting": "#3f76a6",
    "running": "#5aa9f0",
    "stalled": "#f2806b",
    "stopped": "#454c55",
    "saved": "#e8eaed",
}
LIGHT_LINES = (
    *("#14508f", "#b8430f", "#1c9a6c", "#b02db0", "#86690a", "#3c7fa8"),
    *("#8f2f2f", "#55606b"),
)
DARK_LINES = (
    *("#5aa9f0", "#f0a561", "#8ce8c0", "#dd68b6", "#e2c04c", "#8fd0f5"),
    *("#ff8a8a", "#aab4bf"),
)
TEXT = ("ink", "quiet", "link", "good", "bad", "wait")
"""Names of the colours in which text is written."""
AREAS = ("queued", "starting", "running", "stalled", "saved")
"""Names of the colours that mean something without text; what is stopped also has a dashed edge."""


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it: from 1 to 21.

    Args:
        one: A colour as ``#rrggbb``.
        other: The other colour, in the same form.
    """
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4  # noqa: PLR2004 - sRGB
        for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
