// SPDX-License-Identifier: MIT
#include "payload/sample.h"

#include <string.h>

int64_t tm_sample_left[TM_LANES];
uint16_t tm_sample_pages[TM_SAMPLE_PAGES];

static double mean;
static uint64_t rng[TM_LANES];

/* xorshift64*: quality enough for distances, and no state but one word. */
static uint64_t next_random(enum tm_lane lane)
{
    uint64_t x = rng[lane];
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    rng[lane] = x;
    return x * 0x2545f4914f6cdd1dull;
}

/* -ln(u) for u in (0, 1], without libm: u = m * 2^-e with m in [1, 2), and
 * ln(m) = 2 atanh((m - 1) / (m + 1)), whose series converges quickly for arguments <= 1/3. */
static double minus_log(double u)
{
    uint64_t bits;
    memcpy(&bits, &u, sizeof(bits));
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
    double m;
    memcpy(&m, &bits, sizeof(m));
    double t = (m - 1) / (m + 1), t2 = t * t, term = t, sum = 0;
    for (int k = 1; k < 24; k += 2) {
        sum += term / k;
        term *= t2;
    }
    return -(exponent * 0.69314718055994530942 + 2 * sum);
}

void tm_sample_draw(enum tm_lane lane)
{
    double u = (double)((next_random(lane) >> 11) + 1) * 0x1p-53;
    double distance = minus_log(u) * mean;
    tm_sample_left[lane] = distance < 1 ? 1 : (int64_t)(distance + 0.5);
}

void tm_sample_init(uint64_t mean_bytes, uint64_t seed)
{
    mean = (double)mean_bytes;
    memset(tm_sample_pages, 0, sizeof(tm_sample_pages));
    for (int lane = 0; lane < TM_LANES; lane++) {
        rng[lane] = (seed + (uint64_t)lane + 1) * 0x9e3779b97f4a7c15ull | 1;
        tm_sample_draw((enum tm_lane)lane);
    }
}
