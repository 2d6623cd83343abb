"""What layers of fast C call: small functions, and inner loops.

Inner loops are written instruction by instruction for cores with DSP instructions and for those of Armv6-M, and once
more in C, which every other core takes, and these too where the compiler does not optimize. Both compilers keep more in
registers than there are when they get the C, and by the counts of `flowlab bench compile` spend up to a third of a
program on moving it to the stack and back; what is left to them is everything around these loops. The sums on Armv6-M
are in registers that the assembly names: a variable of the class "h" is one that clang cannot spill, and it crashes.
"""

from __future__ import annotations

HELPERS = {
    "zero": """\
/* The zeros around a tensor. */
static void zero(value *to, int count)
{
    for (int i = 0; i < count; i++) {
        to[i] = 0;
    }
}
""",
    "unsigned8": """\
static inline int32_t unsigned8(int32_t number)
{
#ifdef __ARM_FEATURE_SAT
    return (int32_t)__usat(number, 8);
#else
    return (uint32_t)number <= 255 ? number : number < 0 ? 0 : 255;
#endif
}
""",
    "signed8": """\
static inline int32_t signed8(int32_t number)
{
#ifdef __ARM_FEATURE_SAT
    return __ssat(number, 8);
#else
    return number < -128 ? -128 : number > 127 ? 127 : number;
#endif
}
""",
    "clip": """\
static inline int32_t clip(int32_t number, int32_t low, int32_t high)
{
    return number < low ? low : number > high ? high : number;
}
""",
    "clip_wide": """\
static inline int32_t clip_wide(int64_t number, int32_t low, int32_t high)
{
    return number < low ? low : number > high ? high : (int32_t)number;
}
""",
    "mac2": """\
/* Two products of 16-bit numbers, and a sum. */
static inline int32_t mac2(word x, word y, int32_t sum)
{
#ifdef __ARM_FEATURE_DSP
    return __smlad((int16x2_t)x, (int16x2_t)y, sum);
#else
    return sum + (int16_t)x * (int16_t)y + (int16_t)(x >> 16) * (int16_t)(y >> 16);
#endif
}
""",
    "mac4": """\
static inline int32_t mac4(words x, words y, int32_t sum)
{
    return mac2((word)(x >> 32), (word)(y >> 32), mac2((word)x, (word)y, sum));
}
""",
    "pair_at": """\
/* Two numbers that need not begin where a word does. */
static inline word pair_at(const value *from)
{
    word both;
    __builtin_memcpy(&both, from, sizeof both);
    return both;
}
""",
}
HELPERS["larger"] = """\
/* The larger ones of two pairs of 16-bit numbers. */
static inline word larger(word x, word y)
{
#ifdef __ARM_FEATURE_SIMD32
    word both;
    __asm__("ssub16 %0, %1, %2\\n\\tsel %0, %1, %2" : "=&r"(both) : "r"(x), "r"(y) : "cc");
    return both;
#else
    const word low = (int16_t)x > (int16_t)y ? x : y, high = (int16_t)(x >> 16) > (int16_t)(y >> 16) ? x : y;
    return (low & 0xFFFFu) | (high & 0xFFFF0000u);
#endif
}
"""
HELPERS["larger4"] = """\
/* The larger ones of four pairs of unsigned bytes. */
static inline word larger4(word x, word y)
{
    word all = 0;
#ifdef __ARM_FEATURE_SIMD32
    __asm__("usub8 %0, %1, %2\\n\\tsel %0, %1, %2" : "=&r"(all) : "r"(x), "r"(y) : "cc");
#else
    for (word byte = 0xFF; byte; byte <<= 8) {
        all |= (x & byte) > (y & byte) ? x & byte : y & byte;
    }
#endif
    return all;
}
"""
HELPERS["STEP"] = """\
/*
 * Four numbers at each of two places, times four weights of each of two outputs; x and v move on. Instruction by
 * instruction, since compilers keep too much in registers here, and spend as much on moving it.
 */
#if defined(__ARM_FEATURE_DSP) && defined(__OPTIMIZE__)
#define STEP(apart) \\
    do { \\
        words x0, x1, y; \\
        __asm__ volatile( \\
            "ldrd %Q[x1], %R[x1], [%[x], %[next]]\\n\\t" \\
            "ldrd %Q[x0], %R[x0], [%[x]], #8\\n\\t" \\
            "ldrd %Q[y], %R[y], [%[v]], #8\\n\\t" \\
            "smlad %[s00], %Q[x0], %Q[y], %[s00]\\n\\t" \\
            "smlad %[s01], %Q[x1], %Q[y], %[s01]\\n\\t" \\
            "smlad %[s00], %R[x0], %R[y], %[s00]\\n\\t" \\
            "smlad %[s01], %R[x1], %R[y], %[s01]\\n\\t" \\
            "ldrd %Q[y], %R[y], [%[v]], #8\\n\\t" \\
            "smlad %[s10], %Q[x0], %Q[y], %[s10]\\n\\t" \\
            "smlad %[s11], %Q[x1], %Q[y], %[s11]\\n\\t" \\
            "smlad %[s10], %R[x0], %R[y], %[s10]\\n\\t" \\
            "smlad %[s11], %R[x1], %R[y], %[s11]" \\
            : [x0] "=&r"(x0), [x1] "=&r"(x1), [y] "=&r"(y), [x] "+&r"(x), [v] "+&r"(v), \\
              [s00] "+&r"(s00), [s01] "+&r"(s01), [s10] "+&r"(s10), [s11] "+&r"(s11) \\
            : [next] "i"(2 * (apart)) \\
            : "memory"); \\
    } while (0)
#else
#define STEP(apart) \\
    do { \\
        const words x0 = *(const words *)x, x1 = *(const words *)(x + (apart)); \\
        s00 = mac4(x0, *(const words *)v, s00), s01 = mac4(x1, *(const words *)v, s01); \\
        s10 = mac4(x0, *(const words *)(v + 2), s10), s11 = mac4(x1, *(const words *)(v + 2), s11); \\
        x += 4, v += 4; \\
    } while (0)
#endif
"""
HELPERS["four"] = """\
/*
 * Sums of products at four places, s0 to s3, of the numbers at x0 to x3 and the weights at v; all begin with the same
 * number. STEP is a weight, so many behind v; TURNS repeats steps, and moves the pointers behind them, x0 to the end.
 */
#if defined(__thumb__) && !defined(__thumb2__) && defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
/* Such a core loads and multiplies in eight registers alone, and adds in the others too: there the sums are. Compilers
   move them to the stack and back instead, so this is instruction by instruction. */
#define BYTE(at) "ldrb %[y], [%[v], #" #at "]\\n\\tsxtb %[y], %[y]\\n\\t"
#define WORD(at) "ldr %[y], [%[v], #4*" #at "]\\n\\t"
#define UNSIGNED ""
#define SIGNED "sxtb %[t], %[t]\\n\\t"
#define PRODUCT(sum, x, number, at) \\
    "ldrb %[t], [" x ", #" #at "]\\n\\t" number "muls %[t], %[y], %[t]\\n\\tadd " sum ", %[t]\\n\\t"
#define STEP(weight, number, at) \\
    weight(at) PRODUCT("r8", "%[x0]", number, at) PRODUCT("r9", "%[x1]", number, at) \\
    PRODUCT("r10", "%[x2]", number, at) PRODUCT("r12", "%[x3]", number, at)
#define BYTE_SIZE "1"
#define WORD_SIZE "4"
#define ON(pointer, steps) "adds %[" pointer "], #" steps "\\n\\t"
#define TURNS(count, weight, steps, body) \\
    "1:\\n\\t" body \\
    ON("x0", #steps) ON("x1", #steps) ON("x2", #steps) ON("x3", #steps) ON("v", weight##_SIZE "*" #steps) \\
    "cmp %[x0], r11\\n\\tbeq 2f\\n\\tb 1b\\n2:\\n\\t"
#define FOUR_PLACES(first, end, body) \\
    do { \\
        uintptr_t p0 = (uintptr_t)x0, p1 = (uintptr_t)x1, p2 = (uintptr_t)x2, p3 = (uintptr_t)x3; \\
        uintptr_t y = (uintptr_t)(end), t = (uintptr_t)(first); \\
        __asm__ volatile( \\
            ".syntax unified\\n\\tmov r11, %[y]\\n\\t" \\
            "mov r8, %[t]\\n\\tmov r9, %[t]\\n\\tmov r10, %[t]\\n\\tmov r12, %[t]\\n\\t" body \\
            "mov %[x0], r8\\n\\tmov %[x1], r9\\n\\tmov %[x2], r10\\n\\tmov %[x3], r12" \\
            : [x0] "+l"(p0), [x1] "+l"(p1), [x2] "+l"(p2), [x3] "+l"(p3), [v] "+l"(v), [y] "+l"(y), [t] "+l"(t) \\
            : \\
            : "r8", "r9", "r10", "r11", "r12", "cc", "memory"); \\
        s0 = (int32_t)p0, s1 = (int32_t)p1, s2 = (int32_t)p2, s3 = (int32_t)p3; \\
    } while (0)
#else
#define STEP(weight, number, at) s0 += v[at] * x0[at], s1 += v[at] * x1[at], s2 += v[at] * x2[at], s3 += v[at] * x3[at];
#define TURNS(count, weight, steps, body) \\
    for (int turn = 0; turn < (count); turn++) { \\
        body x0 += (steps), x1 += (steps), x2 += (steps), x3 += (steps), v += (steps); \\
    }
#define FOUR_PLACES(first, end, body) \\
    do { \\
        s0 = s1 = s2 = s3 = first; \\
        body \\
    } while (0)
#endif
"""
HELPERS["window"] = """\
/* What becomes of a sum: one for each output channel. */
typedef struct {
    int32_t bias;
    uint8_t multiplier, shift;
} channel;

/* A layer: its constants, how many outputs and places it has, and how far apart in input and output they lie. */
typedef struct {
    const word *weights;
    const channel *channels;
    int16_t outputs, rows, line, row_step, step, made_row, made_step, runs, apart, words, odd, offset, high, is_signed;
} window;

/* Four numbers that need not begin where a word does. */
static inline word word_at(const uint8_t *from)
{
    word all;
    __builtin_memcpy(&all, from, sizeof all);
    return all;
}

/* The first and the third of four bytes as numbers of 16 bits. */
static inline word even_signed(word bytes)
{
#ifdef __ARM_FEATURE_SIMD32
    return (word)__sxtb16((int8x4_t)bytes);
#else
    return ((word)(int8_t)bytes & 0xFFFFu) | (word)(int8_t)(bytes >> 16) << 16;
#endif
}

static inline word even_unsigned(word bytes)
{
    return bytes & 0x00FF00FFu;
}

/* The second and the fourth: one instruction, which compilers make two of. */
static inline word odd_signed(word bytes)
{
#ifdef __ARM_FEATURE_SIMD32
    word both;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(both) : "r"(bytes));
    return both;
#else
    return even_signed(bytes >> 8);
#endif
}

static inline word odd_unsigned(word bytes)
{
#ifdef __ARM_FEATURE_SIMD32
    word both;
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(both) : "r"(bytes));
    return both;
#else
    return even_unsigned(bytes >> 8);
#endif
}

/* Two neighbouring windows side by side, their numbers 16 bits wide. Here and below a function of its own: its loop
   needs every register that the core has. */
static __attribute__((noinline)) word *gather(const window *layer, const uint8_t *x, int second, word *to)
{
    int runs = layer->runs;
    do {
        int words = layer->words;
        do {
            const word x0 = word_at(x), x1 = word_at(x + second);
            if (layer->is_signed) {
                to[0] = even_signed(x0), to[1] = odd_signed(x0);
                to[2] = even_signed(x1), to[3] = odd_signed(x1);
            } else {
                to[0] = even_unsigned(x0), to[1] = odd_unsigned(x0);
                to[2] = even_unsigned(x1), to[3] = odd_unsigned(x1);
            }
            x += 4;
            to += 4;
        } while (--words > 0);
        x += layer->apart;
    } while (--runs > 0);
    for (int i = layer->odd; i > 0; i--) {
        *to++ = 0;
    }
    return to;
}

static inline uint8_t scaled(const window *layer, const channel *c, int32_t sum)
{
    (void)layer;
    const int32_t level = unsigned8((SCALE(sum, c) >> c->shift) + OFFSET(layer));
    return (uint8_t)(LIMIT(level, layer->high) - OFFSET(layer));
}

/*
 * SUMS: over all numbers of both windows, for two outputs; two words of each output's weights in one turn. Instruction
 * by instruction, since compilers keep too much in registers here, and spend as much on moving it.
 */
#if defined(__ARM_FEATURE_DSP) && defined(__OPTIMIZE__)
#ifdef __thumb__
#define FROM(low, high) "ldrd " low ", " high ", [%[from]], #8\\n\\t"
#else /* which needs neighbouring registers for that */
#define FROM(low, high) "ldr " low ", [%[from]], #4\\n\\tldr " high ", [%[from]], #4\\n\\t"
#endif
#define WEIGHTS "ldr %[odd], [%[v]], #4\\n\\tsxtb16 %[even], %[odd]\\n\\tsxtb16 %[odd], %[odd], ror #8\\n\\t"
#define MULTIPLY(sum, even, odd) \\
    "smlad " sum ", " even ", %[even], " sum "\\n\\t" \\
    "smlad " sum ", " odd ", %[odd], " sum "\\n\\t"
#define WORD_OF_EACH \\
    FROM("%[even0]", "%[odd0]") FROM("%[even1]", "%[odd1]") \\
    WEIGHTS MULTIPLY("%[s00]", "%[even0]", "%[odd0]") MULTIPLY("%[s01]", "%[even1]", "%[odd1]") \\
    WEIGHTS MULTIPLY("%[s10]", "%[even0]", "%[odd0]") MULTIPLY("%[s11]", "%[even1]", "%[odd1]")
#define SUMS \\
    do { \\
        word even0, odd0, even1, odd1, even, odd; \\
        __asm__ volatile( \\
            "1:\\n\\t" WORD_OF_EACH WORD_OF_EACH "cmp %[from], %[end]\\n\\tbne 1b" \\
            : [s00] "+&r"(s00), [s01] "+&r"(s01), [s10] "+&r"(s10), [s11] "+&r"(s11), \\
              [from] "+&r"(from), [v] "+&r"(v), \\
              [even0] "=&r"(even0), [odd0] "=&r"(odd0), [even1] "=&r"(even1), [odd1] "=&r"(odd1), \\
              [even] "=&r"(even), [odd] "=&r"(odd) \\
            : [end] "r"(end) \\
            : "cc", "memory"); \\
    } while (0)
#else
#define SUMS \\
    for (; from != end; from += 4, v += 2) { \\
        word even = even_signed(v[0]), odd = odd_signed(v[0]); \\
        s00 = mac2(from[1], odd, mac2(from[0], even, s00)); \\
        s01 = mac2(from[3], odd, mac2(from[2], even, s01)); \\
        even = even_signed(v[1]), odd = odd_signed(v[1]); \\
        s10 = mac2(from[1], odd, mac2(from[0], even, s10)); \\
        s11 = mac2(from[3], odd, mac2(from[2], even, s11)); \\
    }
#endif

/* All outputs of both windows. */
static __attribute__((noinline)) void
dots(const window *layer, const word *wide, const word *const end, uint8_t *q, uint8_t *r)
{
    const word *v = layer->weights;
    const channel *c = layer->channels, *const last = c + layer->outputs;
    do {
        int32_t s00 = c[0].bias, s01 = s00, s10 = c[1].bias, s11 = s10;
        const word *from = wide;
        SUMS;
        r[0] = scaled(layer, c, s01);
        q[0] = scaled(layer, c, s00);
        if (c + 1 != last) {
            r[1] = scaled(layer, c + 1, s11);
            q[1] = scaled(layer, c + 1, s10);
        }
        q += 2, r += 2, c += 2;
    } while (c < last);
}

static void windows(const window *layer, const uint8_t *in, uint8_t *out)
{
    word wide[WIDEST];
    for (int y = 0; y < layer->rows; y++) {
        const uint8_t *x = in + y * layer->row_step;
        uint8_t *line = out + y * layer->made_row;
        for (int p = 0; p < layer->line; p += 2) {
            const int two = p + 1 < layer->line;
            const word *const end = gather(layer, x, two ? layer->step : 0, wide);
            dots(layer, wide, end, line, two ? line + layer->made_step : line);
            x += 2 * layer->step;
            line += 2 * layer->made_step;
        }
    }
}
"""
NEEDS = {
    "mac4": ("mac2",),
    "window": ("mac2", "unsigned8"),
}
