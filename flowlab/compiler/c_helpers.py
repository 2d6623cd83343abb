"""Small functions in C that layers of the plain form call, and which of them need others; a file has those it uses."""

from __future__ import annotations

HELPERS = {
    "floor_float": """\
/* The largest whole number that is not above a value; what is too large for a fraction is whole. */
static float floor_float(float value)
{
    if (value > -8388608.0F && value < 8388608.0F) {
        const float whole = (float)(long)value;
        return whole > value ? whole - 1.0F : whole;
    }
    return value;
}
""",
    "signed8": """\
/* An arena byte (0 .. 255) as the signed value that it stands for. */
static int signed8(uint_least8_t byte)
{
    return byte < 128 ? (int)byte : (int)byte - 256;
}
""",
    "to_byte": """\
/* A value in -128 .. 255 as an arena byte. */
static uint_least8_t to_byte(long value)
{
    return (uint_least8_t)(value < 0 ? value + 256 : value);
}
""",
    "weight4": """\
/* The 4-bit weight at this place, -7 .. 7: two in a byte, the first in the low bits. */
static int weight4(const uint_least8_t *packed, long at)
{
    return (((packed[at >> 1] >> ((at & 1) << 2)) & 15) ^ 8) - 8;
}
""",
    "weight2": """\
/* The 2-bit weight at this place, -1 .. 1: four in a byte, the first in the lowest bits. */
static int weight2(const uint_least8_t *packed, long at)
{
    return (((packed[at >> 2] >> ((at & 3) << 1)) & 3) ^ 2) - 2;
}
""",
    "nearest_float": """\
/* A float below 2^23 to the nearest whole number, of two the even one. */
static long nearest_float(float value)
{
    const float whole = floor_float(value);
    const float rest = value - whole;
    const long level = (long)whole;
    return rest > 0.5F || (rest == 0.5F && level % 2 != 0) ? level + 1 : level;
}
""",
    "nearest_shift": """\
/* value / 2^shift to the nearest whole number, of two the even one; value is not negative. */
static int_least64_t nearest_shift(int_least64_t value, int shift)
{
    int_least64_t whole, rest, half;
    if (shift <= 0) {
        return value;
    }
    if (shift > 62) {
        return 0;
    }
    whole = value >> shift;
    rest = value - (whole << shift);
    half = (int_least64_t)1 << (shift - 1);
    return rest > half || (rest == half && whole % 2 != 0) ? whole + 1 : whole;
}
""",
    "nearest_even": """\
/* How far beyond the 24 bits of a float's fraction a value is, which is not negative and below 2^56. */
static int beyond_float(int_least64_t value)
{
    uint_least32_t high = (uint_least32_t)(value >> 24);
    int bits = 0;
    for (int step = 16; step > 0; step >>= 1) {
        if (high >> step > 0) {
            high >>= step;
            bits += step;
        }
    }
    return high > 0 ? bits + 1 : 0;
}

/* float(sum) * (multiplier / 2^shift) as floats compute it, then the nearest whole number: the even one of two. */
static int_least32_t nearest_even(int_least32_t sum, int_least32_t multiplier, int shift)
{
    const int_least64_t magnitude = sum < 0 ? -(int_least64_t)sum : sum;
    int_least64_t value = magnitude * multiplier;
    if (shift > 0 && shift < 56) {
        const int_least64_t half = (int_least64_t)1 << (shift - 1);
        const int_least64_t whole = (value + half) >> shift;
        const int_least64_t rest = value + half - (whole << shift); /* near 0 or 2 * half where it is near a tie */
        const int_least64_t near = (value >> 22) + 1; /* more than what two roundings of a float change */
        if (rest > near && rest < 2 * half - near) {
            value = whole > 65536 ? 65536 : whole;
            return (int_least32_t)(sum < 0 ? -value : value);
        }
    }
    int drop = beyond_float(magnitude);
    value = nearest_shift(magnitude, drop) * multiplier;
    shift -= drop;
    drop = beyond_float(value);
    value = nearest_shift(value, drop);
    shift -= drop;
    if (shift < 0) {
        value = shift < -24 && value > 0 ? 65536 : value << (shift < -24 ? 0 : -shift);
    }
    value = nearest_shift(value, shift);
    value = value > 65536 ? 65536 : value; /* what the clip behind it cuts off is cut here */
    return (int_least32_t)(sum < 0 ? -value : value);
}
""",
    "clip": """\
static long clip(long value, long low, long high)
{
    return value < low ? low : value > high ? high : value;
}
""",
    "floor_shift": """\
/* floor(value / 2^shift), whatever the machine does when it shifts a negative number. */
static int_least32_t floor_shift(int_least32_t value, int shift)
{
    return value >= 0 ? value >> shift : -1 - ((-1 - value) >> shift);
}
""",
    "floor_shift_wide": """\
/* floor(value / 2^shift) for products beyond 32 bits; what the clip behind it cuts off is cut here. */
static int_least32_t floor_shift_wide(int_least64_t value, int shift)
{
    const int_least64_t shifted = value >= 0 ? value >> shift : -1 - ((-1 - value) >> shift);
    return (int_least32_t)(shifted < -65536 ? -65536 : shifted > 65536 ? 65536 : shifted);
}
""",
    "half_up_shift": """\
/* floor(value / 2^shift + 1/2); what the clip behind it cuts off is cut here. */
static int_least32_t half_up_shift(int_least64_t value, int shift)
{
    return floor_shift_wide(shift > 0 ? value + ((int_least64_t)1 << (shift - 1)) : value, shift);
}
""",
}
NEEDS = {
    "nearest_float": ("floor_float",),
    "nearest_even": ("nearest_shift",),
    "half_up_shift": ("floor_shift_wide",),
}
