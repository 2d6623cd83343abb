"""The same chain as C99: static buffers, no heap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pywt

from flowlab_wavelet.energies import FLOOR

if TYPE_CHECKING:
    from flowlab_wavelet.plugin import PacketOptions

TEMPLATE = """\
/* Wavelet packet energies: {wavelet}, level {level}, windows of {channels} x {length}. */
{include}
#define CHANNELS {channels}
#define LENGTH {length}
#define LEVEL {level}
#define TAPS {taps}

static const float low_pass[TAPS] = {{ {low} }};
static const float high_pass[TAPS] = {{ {high} }};
static float buffers[2][LENGTH];

static void filter(const float *node, int size, const float *taps, float *half)
{{
    for (int place = 0; place < size / 2; place++) {{
        float sum = 0.0f;
        for (int tap = 0; tap < TAPS; tap++) {{
            int at = (2 * place + TAPS / 2 - tap) % size;
            sum += taps[tap] * node[at < 0 ? at + size : at];
        }}
        half[place] = sum;
    }}
}}

static float energy(const float *node, int size)
{{
    float sum = 0.0f;
    for (int place = 0; place < size; place++) {{
        sum += node[place] * node[place];
    }}
    return {energy};
}}

void flowlab_features(const float *window, float *features)
{{
    for (int channel = 0; channel < CHANNELS; channel++) {{
        const float *from = window + channel * LENGTH;
        int size = LENGTH;
        for (int level = 0; level < LEVEL; level++) {{
            float *to = buffers[level % 2];
            for (int node = 0; node < LENGTH / size; node++) {{
                const float *lower = node % 2 ? high_pass : low_pass;
                const float *upper = node % 2 ? low_pass : high_pass;
                filter(from + node * size, size, lower, to + node * size);
                filter(from + node * size, size, upper, to + node * size + size / 2);
            }}
            from = to;
            size /= 2;
        }}
        for (int node = 0; node < LENGTH / size; node++) {{
            features[channel * (LENGTH / size) + node] = energy(from + node * size, size);
        }}
    }}
}}
"""


def emit_c(window: tuple[int, int], options: PacketOptions) -> str:
    """For windows of (channel, length)."""
    channels, length = window
    wavelet = pywt.Wavelet(options.wavelet)
    return TEMPLATE.format(
        wavelet=options.wavelet,
        level=options.level,
        channels=channels,
        length=length,
        taps=wavelet.dec_len,
        low=", ".join(map(literal, wavelet.dec_lo)),
        high=", ".join(map(literal, wavelet.dec_hi)),
        include="#include <math.h>\n" if options.log else "",
        energy=f"logf(sum / (float)size + {literal(FLOOR)})" if options.log else "sum / (float)size",
    )


def literal(value: float) -> str:
    """The shortest decimals of its float32."""
    text = str(np.float32(value))
    return text + ("f" if "." in text or "e" in text else ".0f")
