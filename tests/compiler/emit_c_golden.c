/* Made by flowlab from the network with SHA-256 abababababababababababababababababababababababababababababababab. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_FEATURES 6 /* float (1, 6, 1) */
#define MODEL_INPUTS 6 /* int8 (1, 6, 1) */
#define MODEL_ARENA 14 /* bytes of activations */

typedef struct {
    int_least8_t output[2]; /* (2), scale 0.05 */
} model_outputs;

/* The input step: leading batch norm and first quantization. */
void model_quantize_input(const float *features, int_least8_t *input);

/* The network, from the quantized input to outputs. Not reentrant: activations are static. */
void model_run(const int_least8_t *input, model_outputs *outputs);

#endif
#include "model.h"

#ifndef FLOWLAB_TRACE
#define FLOWLAB_TRACE(node, values, channels, rows, columns, by_channel, by_row, by_column) ((void)0)
#endif

static uint_least8_t arena[MODEL_ARENA];

static const float input_bias[] = { 0x1.427a32p-10F };

static const float input_multiplier[] = { 0x1.c32p+11F };

static const float input_step[] = { 0x1p-5F };

static const int_least8_t weight_1[] = { 70, 85, -70, -113, -51, -55, 95, 105, -126, 0, 82, -94 };

static const int_least32_t bias_1[] = { 1188, -1524, -129, 1265 };

static const uint_least8_t shift_1[] = { 5, 6, 5, 7 };

static const int_least8_t weight_3[] = {
    -63, 125, -14, -6, 1, 21, 14, 2, 126, 78, 75, 51, 31, -41, 125, -9, -73, 88, -87, 91, 29, -98, -116, -14
};

static const int_least32_t bias_3[] = { -1858, -1434 };

static const uint_least8_t shift_3[] = { 7, 8 };

/* The largest whole number that is not above a value; what is too large for a fraction is whole. */
static float floor_float(float value)
{
    if (value > -8388608.0F && value < 8388608.0F) {
        const float whole = (float)(long)value;
        return whole > value ? whole - 1.0F : whole;
    }
    return value;
}

/* An arena byte (0 .. 255) as the signed value that it stands for. */
static int signed8(uint_least8_t byte)
{
    return byte < 128 ? (int)byte : (int)byte - 256;
}

/* A value in -128 .. 255 as an arena byte. */
static uint_least8_t to_byte(long value)
{
    return (uint_least8_t)(value < 0 ? value + 256 : value);
}

static long clip(long value, long low, long high)
{
    return value < low ? low : value > high ? high : value;
}

/* floor(value / 2^shift), whatever the machine does when it shifts a negative number. */
static int_least32_t floor_shift(int_least32_t value, int shift)
{
    return value >= 0 ? value >> shift : -1 - ((-1 - value) >> shift);
}

/* quantize: quantize on the CPU, (1, 6, 1) -> (1, 6, 1) */
void model_quantize_input(const float *features, int_least8_t *input)
{
    for (long v = 0; v < 1; v++) {
        for (long i = v * 6; i < (v + 1) * 6; i++) {
            const float sum = features[i] + input_bias[v];
            const float product = sum * input_multiplier[v];
            const float level = floor_float(floor_float(product) * input_step[v]); /* a power of two: exact */
            if (level >= 127.0F) {
                input[i] = 127;
            } else if (level > -128.0F) {
                input[i] = (int_least8_t)level;
            } else {
                input[i] = -128;
            }
        }
    }
    FLOWLAB_TRACE("quantize", input, 1, 6, 1, 6, 1, 1);
}

/* conv.bnorm: FCONV on the NPU, (1, 6, 1) -> (4, 3, 1) */
static void layer_1(const int_least8_t *in, uint_least8_t *out)
{
    for (long o = 0; o < 4; o++) {
        for (long y = 0; y < 3; y++) {
            for (long x = 0; x < 1; x++) {
                int_least32_t acc = 0;
                for (long i = 0; i < 1; i++) {
                    for (long ky = 0; ky < 3; ky++) {
                        const long iy = y * 2 + ky - 1;
                        if (iy < 0 || iy >= 6) {
                            continue;
                        }
                        for (long kx = 0; kx < 1; kx++) {
                            const long ix = x * 1 + kx - 0;
                            if (ix < 0 || ix >= 1) {
                                continue;
                            }
                            const long w = ((o * 1 + i) * 3 + ky) * 1 + kx;
                            acc += (int_least32_t)weight_1[w] * in[(i * 6 + iy) * 1 + ix];
                        }
                    }
                }
                out[(o * 3 + y) * 1 + x] = (uint_least8_t)clip(floor_shift(acc + bias_1[o], shift_1[o]), 0, 255);
            }
        }
    }
}

/* fc.bnorm: FC on the NPU, (12) -> (2) */
static void layer_3(const uint_least8_t *in, uint_least8_t *out)
{
    for (long o = 0; o < 2; o++) {
        int_least32_t acc = 0;
        for (long i = 0; i < 12; i++) {
            acc += (int_least32_t)weight_3[o * 12 + i] * in[i];
        }
        out[o] = to_byte(clip(floor_shift(acc + bias_3[o], shift_3[o]), -128, 127));
    }
}

void model_run(const int_least8_t *input, model_outputs *outputs)
{
    layer_1(input, arena + 0);
    FLOWLAB_TRACE("conv.bnorm", (arena + 0), 4, 3, 1, 3, 1, 1);
    /* flatten: flatten on the CPU, (4, 3, 1) -> (12): the same bytes */
    layer_3(arena + 0, arena + 12);
    FLOWLAB_TRACE("fc.bnorm", (arena + 12), 2, 1, 1, 1, 1, 1);
    for (long i = 0; i < 2; i++) {
        outputs->output[i] = (int_least8_t)signed8((arena + 12)[i]);
    }
}
